//! Other ways to say which namespace, and other kinds of networks: by process and by descriptor, IPv6 alone, and a host
//! whose own way out a router advertises.

use std::net::{Ipv6Addr, SocketAddrV6};
use std::process::{Child, Command, Stdio};

use outrigger_tests::netlab::{Lab, NODE6, OUTSIDE6, ask, assert_same, ip, serve};
use outrigger_tests::netns::Host;
use outrigger_tests::program::{self, say};
use outrigger_tests::wait;
use socket2::{Domain, Protocol, Socket, Type};

fn file(namespace: &str, subnets: &str) -> String {
    format!(
        "networks:\n  web: {{subnets: [{subnets}]}}\n\
         workloads:\n  a: {{namespace: {namespace}, network: web, publish: ['8080:80']}}\n"
    )
}

/// A process that is in the namespace until it is dropped.
struct Resident(Child);

impl Resident {
    fn new(host: &Host) -> Self {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", host.path().display())).args(["cat"]).stdin(Stdio::piped());
        let mut child = command.stdout(Stdio::null()).spawn().unwrap();
        let own = || std::fs::read_link(format!("/proc/{}/ns/net", child.id())).unwrap();
        let there = host.enter(|| std::fs::read_link("/proc/thread-self/ns/net").unwrap());
        wait::until_true("the process to be in its namespace", || own() == there);
        assert!(child.try_wait().unwrap().is_none());
        Self(child)
    }
}

impl Drop for Resident {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

#[test]
fn a_namespace_is_found_by_a_process_in_it() {
    let Some(mut lab) = Lab::new() else { return };
    let a = lab.workload("a");
    let before = [&lab.node, &a].map(|host| lab.dump(host));
    let resident = Resident::new(&a);
    let text = file(&format!("{{pid: {}}}", resident.0.id()), "10.88.0.0/24");
    lab.apply(&text);
    serve(&a, 80);
    assert!(ask(&lab.outside, lab.node.address, 8080).is_some());
    assert_eq!(lab.apply(&text)["changes"].as_array().unwrap().len(), 0);
    lab.net(&["status"]).expect_ok("in order");
    // Another process is in it, too, and stays: it is found by what it is in.
    let other = Resident::new(&a);
    drop(resident);
    lab.net(&["status"]).expect_ok("in order by another process");
    lab.undo();
    drop(other);
    for (host, before) in [&lab.node, &a].into_iter().zip(&before) {
        assert_same(&lab.dump(host), before, "undone");
    }
    let said = lab.net(&["apply", &lab.write(&file("{pid: 4194305}", "10.88.0.0/24"))]);
    assert!(!said.ok() && said.err.contains("/proc/4194305/ns/net"), "{said:?}");
}

#[test]
fn a_namespace_is_found_by_a_descriptor() {
    let Some(mut lab) = Lab::new() else { return };
    let a = lab.workload("a");
    let path = lab.write(&file("{fd: 9}", "10.88.0.0/24"));
    let run = |what: &str| {
        let program = program::outrigger().display();
        let state = lab.state();
        let script =
            format!("exec 9<{}; exec {program} net {what} --state {}", a.path().display(), state.display());
        say(lab.node.command("bash").args(["-c", &script]))
    };
    run(&format!("apply {path}")).expect_ok("apply");
    serve(&a, 80);
    assert!(ask(&lab.outside, lab.node.address, 8080).is_some());
    run("status").expect_ok("status");
    // Without the descriptor, and with a process that is there.
    let resident = Resident::new(&a);
    lab.net(&["status"]).expect_ok("in order by a process");
    drop(resident);
    let said = lab.net(&["apply", &path]);
    assert!(!said.ok() && said.err.contains("/proc/self/fd/9"), "{said:?}");
    run("undo").expect_ok("undo");
    assert!(!ip(&a, &["link"]).contains("eth0"));
}

#[test]
fn a_network_of_ipv6_alone_has_nothing_of_ipv4() {
    let Some(mut lab) = Lab::new() else { return };
    let (a, b) = (lab.workload("a"), lab.workload("b"));
    let before = [&lab.node, &a].map(|host| lab.dump(host));
    let text = file(&format!("{{path: {}}}", a.path().display()), "'fd88::/64'");
    let more = format!("  b: {{namespace: {{path: {}}}, network: web, capture: {{}}}}\n", b.path().display());
    lab.apply(&format!("{text}{more}"));
    serve(&a, 80);
    serve(&lab.outside, 81);
    let outside: Ipv6Addr = OUTSIDE6.parse().unwrap();
    assert_eq!(ask(&a, outside, 81).as_deref(), Some(NODE6), "with the host's address, outside");
    let node: Ipv6Addr = NODE6.parse().unwrap();
    assert_eq!(ask(&lab.outside, node, 8080).as_deref(), Some(OUTSIDE6), "published");
    assert!(ask(&a, node, 8080).is_some(), "to itself");
    assert!(!ip(&a, &["-4", "address", "show", "dev", "eth0"]).contains("inet"));
    assert_eq!(ip(&lab.node, &["-4", "address", "show", "dev", "or-web"]), "");
    let forward = lab.node.enter(|| std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap());
    assert_eq!(forward.trim(), "0");
    lab.net(&["status"]).expect_ok("in order");
    lab.undo();
    for (host, before) in [&lab.node, &a].into_iter().zip(&before) {
        assert_same(&lab.dump(host), before, "undone");
    }
}

/// A router's advertisement on the host's link to the outside: a router for half an hour, and no prefix.
fn advertise(router: &Host) {
    const LIFETIME_SECONDS: u16 = 1800;
    let [high, low] = LIFETIME_SECONDS.to_be_bytes();
    // The kernel fills in the checksum.
    let message = [134, 0, 0, 0, 64, 0, high, low, 0, 0, 0, 0, 0, 0, 0, 0];
    let index = link_index(router);
    router.enter(|| {
        let socket = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::ICMPV6)).unwrap();
        socket.set_multicast_hops_v6(255).unwrap();
        socket.set_multicast_if_v6(index).unwrap();
        let all = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
        socket.send_to(&message, &SocketAddrV6::new(all, 0, 0, index).into()).unwrap();
    });
}

fn link_index(host: &Host) -> u32 {
    let said = ip(host, &["-o", "link", "show", "eth0"]);
    said.split(':').next().unwrap().trim().parse().unwrap()
}

#[test]
fn a_host_that_forwards_keeps_the_way_out_that_a_router_advertises() {
    let Some(mut lab) = Lab::new() else { return };
    let a = lab.workload("a");
    let accept = || {
        lab.node
            .enter(|| std::fs::read_to_string("/proc/sys/net/ipv6/conf/eth0/accept_ra").unwrap())
            .trim()
            .to_owned()
    };
    assert_eq!(accept(), "1");
    let routes = || ip(&lab.node, &["-6", "route", "show", "default"]);
    // It is not heard before the link has an address of its own.
    lab.settle(&lab.outside);
    wait::until_true("the host to believe the router", || {
        advertise(&lab.outside);
        routes().contains("proto ra")
    });
    let before = lab.dump(&lab.node);
    let text = file(&format!("{{path: {}}}", a.path().display()), "'fd88::/64'");
    lab.apply(&text);
    assert_eq!(accept(), "2");
    assert!(routes().contains("proto ra"), "{}", routes());
    // The next one is taken, too: the route would end with its lifetime otherwise.
    ip(&lab.node, &["-6", "route", "del", "default", "proto", "ra"]);
    wait::until_true("the host to believe the router still", || {
        advertise(&lab.outside);
        routes().contains("proto ra")
    });
    assert_eq!(lab.apply(&text)["changes"].as_array().unwrap().len(), 0);
    lab.undo();
    assert_eq!(accept(), "1");
    let without_times = |text: &str| {
        let words = text.lines().map(|line| line.split(" expires").next().unwrap().to_owned() + "\n");
        words.collect::<String>()
    };
    assert_same(&without_times(&lab.dump(&lab.node)), &without_times(&before), "undone");
}
