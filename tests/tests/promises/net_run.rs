//! `outrigger net run`: follows its file, serves workloads as they come and go, and gets along with the other verbs.

use std::net::UdpSocket;
use std::path::PathBuf;

use outrigger_tests::netlab::{Lab, ask, assert_same, ip, is_closed, serve};
use outrigger_tests::netns::Host;
use outrigger_tests::netrun::{Running, has_table, tool};
use outrigger_tests::wait;
use rustix::process::Signal;

const NETWORKS: &str = "networks:\n  web: {subnets: [10.88.0.0/24, 'fd88::/64']}\n";

fn file(workloads: &[(&str, &Host, &str)]) -> String {
    let mut text = format!("{NETWORKS}workloads:\n");
    for (id, host, more) in workloads {
        let path = host.path();
        text += &format!("  {id}: {{namespace: {{path: {}}}, network: web{more}}}\n", path.display());
    }
    text
}

fn start(lab: &Lab, text: &str) -> Running {
    let file = PathBuf::from(lab.write(text));
    Running::start(&lab.node, &file, lab.dir.path())
}

fn has_address(host: &Host, address: &str) -> bool {
    let found = host.command("ip").args(["-brief", "address"]).output().unwrap();
    String::from_utf8_lossy(&found.stdout).contains(address)
}

#[test]
fn the_file_is_followed_and_a_bad_one_changes_nothing() {
    let Some(mut lab) = Lab::new() else { return };
    let (a, b) = (lab.workload("a"), lab.workload("b"));
    let before = [&lab.node, &a, &b].map(|host| lab.dump(host));
    let run = start(&lab, &file(&[("a", &a, "")])).until_ready();
    serve(&a, 80);
    assert!(ask(&lab.node, lab.address("a", true), 80).is_some());
    lab.write(&file(&[("a", &a, ", publish: ['8080:80']"), ("b", &b, "")]));
    wait::until_true("b to be served", || has_address(&b, "10.88.0.3/24"));
    wait::until_true("the port to be open", || ask(&lab.outside, lab.node.address, 8080).is_some());

    // Line, field and what is wrong; what was in force stays, and is repaired.
    lab.write(&file(&[("a", &a, ", publish: ['0:80']")]));
    wait::until_true("the file to be refused", || {
        run.metrics().sum("outrigger_net_file_refused", &[]) == 1.0
    });
    let told = run.troubles();
    assert!(told.contains("network.yaml:4:") && told.contains("workloads.a.publish[0]"), "{told}");
    tool(&lab.node, &["nft", "flush", "ruleset"]);
    wait::until_true("the table to come back", || has_table(&lab.node));
    assert!(ask(&lab.outside, lab.node.address, 8080).is_some(), "the last good file is in force");
    assert!(has_address(&b, "10.88.0.3/24"));

    // A good file that the kernel cannot take is another thing: all is taken back, and it is tried again.
    ip(&lab.node, &["link", "add", "or-db", "type", "bridge"]);
    let other = "  db: {subnets: [10.89.0.0/24]}\n";
    let text = file(&[("a", &a, "")]).replace("workloads:", &format!("{other}workloads:"));
    lab.write(&text);
    wait::until_true("the link to be in the way", || {
        run.troubles().contains("a link or-db that is not ours")
    });
    assert!(has_address(&b, "10.88.0.3/24"));
    ip(&lab.node, &["link", "del", "or-db"]);
    wait::until_true("the file to come into force", || has_address(&lab.node, "10.89.0.1/24"));
    wait::until_true("b to be put off", || !has_address(&b, "10.88.0.3/24"));
    wait::until_true("no trouble", || run.troubles().contains("\"troubles\":[]"));

    // Its end changes nothing; undo is a verb of its own.
    let rules = tool(&lab.node, &["nft", "list", "table", "inet", "outrigger"]).out;
    assert!(run.stop().success());
    assert_eq!(tool(&lab.node, &["nft", "list", "ruleset"]).out, rules);
    assert!(ask(&lab.node, lab.address("a", true), 80).is_some());
    lab.undo();
    for (host, before) in [&lab.node, &a, &b].iter().zip(&before) {
        assert_same(&lab.dump(host), before, "undone");
    }
}

#[test]
fn workloads_come_and_go_by_themselves() {
    let Some(mut lab) = Lab::new() else { return };
    let (a, late, guest) = (lab.workload("a"), lab.workload("late"), lab.workload("guest"));
    let text = file(&[("a", &a, ""), ("late", &late, "")]);
    late.remove();
    let run = start(&lab, &text).until_ready();
    assert!(run.troubles().contains("workload `late` waits"), "{}", run.troubles());
    assert_eq!(run.metrics().sum("outrigger_net_workloads", &[("state", "waiting")]), 1.0);
    let late = lab.workload("late");
    wait::until_true("the late one to be served", || has_address(&late, "10.88.0.3/24"));
    late.remove();
    wait::until_true("it to be gone", || run.troubles().contains("workload `late` waits"));
    let late = lab.workload("late");
    wait::until_true("it to have its address again", || has_address(&late, "10.88.0.3/24"));
    assert_eq!(run.metrics().sum("outrigger_net_repairs_total", &[]), 0.0, "nobody has disturbed anything");

    // One that another tool adds beside the file stays when the file changes, and is forgotten when it is gone.
    let beside = lab.dir.path().join("beside.yaml");
    std::fs::write(&beside, file(&[("guest", &guest, "")])).unwrap();
    lab.net(&["apply", beside.to_str().unwrap(), "--workload", "guest"]).expect_ok("beside");
    assert!(has_address(&guest, "10.88.0.4/24"));
    lab.write(&file(&[("a", &a, ", publish: ['8080:80']")]));
    wait::until_true("the file to be followed", || !has_address(&late, "10.88.0.3/24"));
    assert!(has_address(&guest, "10.88.0.4/24") && has_address(&a, "10.88.0.2/24"));
    tool(&guest, &["ip", "address", "del", "10.88.0.4/24", "dev", "eth0"]);
    wait::until_true("the guest to be repaired", || has_address(&guest, "10.88.0.4/24"));
    guest.remove();
    wait::until_true("the guest to be forgotten", || {
        !lab.net(&["status"]).out.contains("guest") && run.log().contains("forgotten")
    });
    lab.net(&["status"]).expect_ok("in order");
}

#[test]
fn other_runs_work_beside_it() {
    let Some(mut lab) = Lab::new() else { return };
    let a = lab.workload("a");
    let text = file(&[("a", &a, "")]);
    let run = start(&lab, &text).until_ready();
    let second = tempfile::TempDir::new_in(lab.dir.path()).unwrap();
    std::os::unix::fs::symlink(lab.state(), second.path().join("state")).unwrap();
    let other = Running::start(&lab.node, &lab.dir.path().join("network.yaml"), second.path());
    let (code, said) = other.end();
    assert!(code == Some(1) && said.contains("another `outrigger net run`"), "{said}");

    let wider = lab.dir.path().join("wider.yaml");
    std::fs::write(&wider, file(&[("a", &a, ", publish: ['8080:80']")])).unwrap();
    lab.net(&["apply", wider.to_str().unwrap()]).expect_ok("apply beside it");
    serve(&a, 80);
    assert!(ask(&lab.outside, lab.node.address, 8080).is_some());
    tool(&lab.node, &["nft", "flush", "ruleset"]);
    wait::until_true("the table to come back", || has_table(&lab.node));
    assert!(ask(&lab.outside, lab.node.address, 8080).is_some(), "what was applied last is kept");

    // What is undone stays undone, until it is asked for again.
    lab.undo();
    wait::until_true("the process to have seen it", || {
        run.metrics().sum("outrigger_net_workloads", &[("state", "served")]) == 0.0
    });
    assert!(!has_table(&lab.node) && !has_address(&a, "10.88.0.2"));
    run.signal(Signal::HUP);
    wait::until_true("the file to be in force again", || has_table(&lab.node) && has_address(&a, "10.88.0"));
    assert!(is_closed(&lab.outside, lab.node.address, 8080), "the file's word");
}

#[test]
fn killed_it_goes_on_where_it_was() {
    let Some(mut lab) = Lab::new() else { return };
    let a = lab.workload("a");
    let text = file(&[("a", &a, ", capture: {}")]);
    start(&lab, &text).until_ready().kill();
    let shape = [&lab.node, &a].map(shape);
    let run = start(&lab, &text).until_ready();
    let metrics = run.metrics();
    assert_eq!(
        metrics.sum("outrigger_net_applies_total", &[("result", "unchanged")]),
        1.0,
        "{}",
        metrics.text
    );
    assert!(run.stop().success());
    assert_eq!([&lab.node, &a].map(self::shape), shape, "adopted");
    let broken = Running::start(&lab.node, &PathBuf::from(lab.write("networks: {web: {}}")), lab.dir.path());
    let (code, said) = broken.end();
    assert!(code == Some(1) && said.contains("networks.web") && said.contains("subnets"), "{said}");
}

/// What is there, with the numbers that a second making would have changed.
fn shape(host: &Host) -> String {
    let links =
        ip(host, &["-brief", "link"]) + &ip(host, &["-oneline", "address", "show", "scope", "global"]);
    links + &tool(host, &["nft", "--handle", "list", "ruleset"]).out
}

#[test]
fn its_metrics_are_clean_and_count_what_passes() {
    let Some(mut lab) = Lab::new() else { return };
    let a = lab.workload("a");
    let run = start(&lab, &file(&[("a", &a, ", capture: {}")])).until_ready();
    let outside = lab.outside.address;
    a.enter(|| {
        for _ in 0..3 {
            UdpSocket::bind("0.0.0.0:0").unwrap().send_to(b"?", (outside, 99)).unwrap();
        }
    });
    wait::until_true("the flows to be counted", || {
        run.metrics().sum("outrigger_net_passed_udp_flows", &[("workload", "a")]) == 3.0
    });
    let metrics = run.metrics();
    assert_eq!(metrics.sum("outrigger_net_addresses", &[("network", "web")]), 2.0);
    crate::admin::promtool(&metrics.text);
    assert_eq!(run.ask("/live").0, 200);
    assert_eq!(run.ask("/elsewhere").0, 404);
}
