//! Capture without translation (`mode: tproxy`): the same traffic, the rules and routes it takes, and what happens where
//! something of it is missing. Needs root, for namespaces.

use std::io::Write as _;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};

use outrigger_tests::captured::{Stage, Workload, dial, echo, expect_refusal, read};
use outrigger_tests::netlab::{Lab, ask, assert_same, ip, serve};
use outrigger_tests::netns::Host;
use outrigger_tests::netrun::{Running, has_table};
use outrigger_tests::program::say;
use outrigger_tests::proxy::Scene;
use outrigger_tests::wait;

const TPROXY: &str = ", capture: {mode: tproxy}";
const SIDECAR_PORT: u16 = 15006;

fn scene(stage: &Stage) -> Scene {
    stage.scene().capable("+net_raw").set("capture", "{mode: tproxy, detect: 20ms}")
}

fn talk(stream: &mut TcpStream, text: &str) {
    stream.write_all(text.as_bytes()).unwrap();
    assert_eq!(read(stream, text.len()), text);
}

fn captured(workload: &Workload, direction: &str, kind: &str) -> f64 {
    workload.sum("outrigger_captured_connections_total", &[("direction", direction), ("kind", kind)])
}

/// Destinations that the kernel has translated, of whatever goes by TCP.
fn translated(host: &Host) -> String {
    let of = |family: &str| {
        let mut command = host.command("conntrack");
        say(command.args(["-L", "-f", family, "-p", "tcp", "--dst-nat"])).expect_ok("conntrack").out
    };
    of("ipv4") + &of("ipv6")
}

#[test]
fn what_the_workload_sends_arrives_untranslated() {
    let Some(stage) = Stage::new(TPROXY) else { return };
    let server = stage.server(echo);
    let (_web, http) = stage.backend("a");
    let scene = scene(&stage)
        .endpoints("web", &stage.both(http))
        .endpoints("db", &stage.both(server.port))
        .set("defaults", "{dns: {answer: virtual}}");
    let beside = stage.server(echo);
    let strangers = [true, false].map(|is_ipv4| stage.outside(beside.port, is_ipv4));
    let workload = stage.start(scene);
    for family in ["-4", "-6"] {
        assert_eq!(workload.curl(&[family, "http://web.mesh.internal:8080/"]), "a", "{family}");
    }
    let mut open = Vec::new();
    for is_ipv4 in [true, false] {
        let mut stream = workload.dial((workload.address_of("db", is_ipv4), 5432).into());
        talk(&mut stream, "\0by service");
        open.push(stream);
    }
    for stranger in strangers {
        let mut stream = workload.dial(stranger);
        talk(&mut stream, "passed on");
        open.push(stream);
    }
    assert_eq!(translated(&workload.host), "", "nothing but names is translated");
    assert_eq!(captured(&workload, "outbound", "http"), 2.0);
    assert_eq!(captured(&workload, "outbound", "tcp"), 2.0);
    assert_eq!(captured(&workload, "outbound", "passed"), 2.0);
    assert_eq!(workload.sum("outrigger_captured_refused_total", &[]), 0.0, "no connection has come back");
    // The port itself is for nobody.
    expect_refusal(&workload.host, "127.0.0.1:15001".parse().unwrap(), b"");
    assert_eq!(workload.sum("outrigger_captured_refused_total", &[("reason", "not-redirected")]), 1.0);
}

#[test]
fn what_comes_to_the_workload_arrives_untranslated() {
    let Some(stage) = Stage::new(", capture: {mode: tproxy, except_inbound: {ports: ['22']}}") else {
        return;
    };
    let scene = scene(&stage).set("node", "{service: shop}");
    let workload = stage.start(scene);
    for port in [22, 80] {
        serve(&workload.host, port);
    }
    let echoes = outrigger_tests::captured::Server::start(&workload.host, echo);
    for is_ipv4 in [true, false] {
        let own = workload.own_address(is_ipv4);
        // Relayed: the workload sees its own address; let in: the client's, and its answers find their way.
        assert_eq!(ask(&workload.lab.node, own, 80), Some(own.to_string()));
        let gateway = if is_ipv4 { "10.88.0.1" } else { "fd88::1" };
        assert_eq!(ask(&workload.lab.node, own, 22).as_deref(), Some(gateway));
        let mut stream = dial(&workload.lab.node, (own, echoes.port).into()).unwrap();
        talk(&mut stream, "\0inbound");
        // The port itself is for nobody.
        expect_refusal(&workload.lab.node, (own, SIDECAR_PORT).into(), b"");
    }
    assert_eq!(translated(&workload.host), "");
    assert_eq!(captured(&workload, "inbound", "tcp"), 4.0);
    let client = workload.proxy().access_log();
    assert!(
        client.contains(r#""10.88.0.1:"#) || client.contains("10.88.0.1"),
        "the sidecar sees clients: {client}"
    );
}

/// Without a sidecar that takes it, a connection goes neither to the workload nor to whoever listens everywhere.
#[test]
fn what_nobody_takes_is_refused() {
    let Some(mut lab) = Lab::new() else { return };
    let a = lab.workload("a");
    lab.apply(&file(&a, TPROXY));
    serve(&a, 80);
    let refused = |from: &Host, to: SocketAddr| {
        let failed = dial(from, to).expect_err("nobody is there");
        assert_eq!(failed.kind(), std::io::ErrorKind::ConnectionRefused, "{to}");
    };
    let all = |lab: &Lab| {
        for (own, stranger) in [(true, "240.1.2.3"), (false, "fd77:1::1")] {
            refused(&a, SocketAddr::new(stranger.parse::<IpAddr>().unwrap(), 80));
            refused(&lab.node, SocketAddr::new(lab.address("a", own), 80));
        }
    };
    all(&lab);
    // One that listens, but for its own address only, takes nothing either.
    let _listeners = [15001, 15006].map(|port| a.enter(move || TcpListener::bind(("::", port)).unwrap()));
    all(&lab);
    assert_eq!(
        ask(&a, IpAddr::from([127, 0, 0, 1]), 80).as_deref(),
        Some("127.0.0.1"),
        "loopback is its own"
    );
}

#[test]
fn a_sidecar_without_the_privilege_says_which() {
    let scene = Scene::new().set("capture", "{mode: tproxy}").by_user(1337);
    if !rustix::process::geteuid().is_root() {
        return;
    }
    scene.write();
    let said = say(std::process::Command::new("setpriv")
        .args(["--reuid=1337", "--regid=1337", "--clear-groups"])
        .arg(outrigger_tests::program::outrigger())
        .arg("run")
        .arg(scene.path("outrigger.yaml"))
        .current_dir(scene.path("")));
    assert!(!said.ok(), "{said:?}");
    for words in ["cannot listen on 127.0.0.1:15001", "needs CAP_NET_RAW or CAP_NET_ADMIN at the start"] {
        assert!(said.err.contains(words), "{said:?}");
    }
}

fn file(host: &Host, capture: &str) -> String {
    let path = host.path();
    format!(
        "networks:\n  web: {{subnets: [10.88.0.0/24, 'fd88::/64']}}\n\
         workloads:\n  a: {{namespace: {{path: {}}}, network: web{capture}}}\n",
        path.display()
    )
}

#[test]
fn rules_and_routes_are_planned_shown_repaired_and_undone() {
    let Some(mut lab) = Lab::new() else { return };
    let a = lab.workload("a");
    let before = lab.dump(&a);
    let text = file(&a, TPROXY);
    let plan = lab.net(&["plan", &lab.write(&text)]).expect_ok("plan").out;
    for family in ["ipv4", "ipv6"] {
        for item in ["rule for {}: mark 0x4f75 goes by table 20341", "way in for {} by lo, table 20341"] {
            let item = item.replace("{}", family);
            assert!(plan.contains(&item), "{item}: {plan}");
        }
    }
    lab.apply(&text);
    assert!(lab.apply(&text)["changes"].as_array().unwrap().is_empty(), "nothing more to do");
    lab.net(&["status"]).expect_ok("status");
    lab.settle(&a);
    let whole = lab.dump(&a);
    for breach in [
        &["-4", "rule", "del", "fwmark", "0x4f75"][..],
        &["-6", "rule", "flush"],
        &["-4", "route", "flush", "table", "20341"],
        &["-6", "route", "flush", "table", "20341"],
    ] {
        ip(&a, breach);
        let status = lab.net(&["status"]);
        assert!(!status.ok() && status.out.contains("20341"), "{breach:?}: {status:?}");
        lab.apply(&text);
        lab.net(&["status"]).expect_ok("status");
    }
    // `ip` has flushed the kernel's own as well.
    ip(&a, &["-6", "rule", "add", "priority", "32766", "lookup", "main"]);
    assert_same(&lab.dump(&a), &whole, "repaired");
    // Back to translation, and forth.
    lab.apply(&file(&a, ", capture: {}"));
    assert!(!ip(&a, &["rule"]).contains("0x4f75"));
    lab.apply(&text);
    assert_same(&lab.dump(&a), &whole, "again");
    lab.undo();
    assert_same(&lab.dump(&a), &before, "undone");
}

#[test]
fn what_is_somebody_else_s_is_not_touched() {
    let Some(mut lab) = Lab::new() else { return };
    let a = lab.workload("a");
    ip(&a, &["link", "set", "lo", "up"]);
    ip(&a, &["rule", "add", "fwmark", "0x4f75", "lookup", "99"]);
    let before = lab.dump(&a);
    let said = lab.net(&["apply", &lab.write(&file(&a, TPROXY))]);
    assert!(!said.ok() && said.err.contains("a rule for the mark of captured packets"), "{said:?}");
    assert_same(&lab.dump(&a), &before, "untouched");
}

/// All or nothing, where a namespace cannot have it.
#[test]
fn a_loopback_without_ipv6_is_named() {
    let Some(mut lab) = Lab::new() else { return };
    let a = lab.workload("a");
    a.tool("sysctl", &["-qw", "net.ipv6.conf.lo.disable_ipv6=1"], "");
    let before = [&lab.node, &a].map(|host| lab.dump(host));
    let said = lab.net(&["apply", &lab.write(&file(&a, TPROXY))]);
    assert!(!said.ok() && said.err.contains("IPv6 is off on the loopback of this namespace"), "{said:?}");
    assert!(said.err.contains("what was done before has been taken back"), "{said:?}");
    for (host, before) in [&lab.node, &a].iter().zip(&before) {
        assert_same(&lab.dump(host), before, "taken back");
    }
}

/// In either mode, and from one to the other.
#[test]
fn connections_older_than_the_table_go_on() {
    let Some(mut lab) = Lab::new() else { return };
    let a = lab.workload("a");
    lab.apply(&file(&a, ""));
    let own = lab.address("a", true);
    let (out, inside) = (listening(&lab.outside), listening(&a));
    let port = |listener: &TcpListener| listener.local_addr().unwrap().port();
    let mut to_out = dial(&a, (lab.outside.address, port(&out)).into()).unwrap();
    let mut to_in = dial(&lab.node, (own, port(&inside)).into()).unwrap();
    let (mut at_out, mut at_in) = (out.accept().unwrap().0, inside.accept().unwrap().0);
    for stream in [&at_out, &at_in] {
        stream.set_read_timeout(Some(wait::WAIT_MAX)).unwrap();
    }
    let captures =
        [("{}", "older"), ("{mode: tproxy}", "than"), ("{mode: tproxy, dns: 0}", "all"), ("{}", "!")];
    for (capture, word) in captures {
        lab.apply(&file(&a, &format!(", capture: {capture}")));
        for (one, other) in [(&mut to_out, &mut at_out), (&mut at_in, &mut to_in)] {
            one.write_all(word.as_bytes()).unwrap();
            assert_eq!(read(other, word.len()), word);
            other.write_all(word.as_bytes()).unwrap();
            assert_eq!(read(one, word.len()), word);
        }
    }
}

fn listening(host: &Host) -> TcpListener {
    host.enter(|| TcpListener::bind(("::", 0)).unwrap())
}

/// The process that stays holds flows that are steered, too.
#[test]
fn a_flush_costs_no_connection_while_somebody_watches() {
    let Some(stage) = Stage::new(TPROXY) else { return };
    let server = stage.server(echo);
    let scene = scene(&stage).endpoints("db", &stage.both(server.port));
    let db = [true, false].map(|is_ipv4| stage.outside(server.port, is_ipv4));
    let workload = stage.start(scene);
    let file = workload.lab.dir.path().join("network.yaml");
    let running = Running::start(&workload.lab.node, &file, workload.lab.dir.path()).until_ready();
    let mut open = db.map(|address| workload.dial(address));
    open.iter_mut().for_each(|stream| talk(stream, "\0before"));
    for round in 0..8 {
        assert!(workload.host.command("nft").args(["flush", "ruleset"]).status().unwrap().success());
        open.iter_mut().for_each(|stream| talk(stream, &format!("\0flushed {round}")));
        wait::until_true("the table to be back", || has_table(&workload.host));
        open.iter_mut().for_each(|stream| talk(stream, "\0repaired"));
    }
    assert_eq!(captured(&workload, "outbound", "tcp"), 2.0);
    for family in ["-4", "-6"] {
        ip(&workload.host, &[family, "rule", "del", "fwmark", "0x4f75"]);
        ip(&workload.host, &[family, "route", "flush", "table", "20341"]);
        wait::until_true("rules and routes to be back", || {
            ip(&workload.host, &[family, "rule"]).contains("0x4f75")
                && ip(&workload.host, &[family, "route", "show", "table", "all"]).contains("table 20341")
        });
    }
    assert!(running.stop().success());
}
