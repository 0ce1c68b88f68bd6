//! Names of services are answered from the registry: right, whole, and at once after a change.

use std::net::SocketAddr;

use outrigger_tests::proxy::Scene;
use outrigger_tests::{dig, wait};

const WEB: [&str; 2] =
    ["{address: '10.1.0.1:81', weight: 3, labels: {version: blue}}", "{address: '10.1.0.2:82', zone: b}"];

fn scene(dns: &str) -> Scene {
    let endpoints = WEB.map(str::to_owned);
    Scene::new().set("dns", &format!("{{listen: '127.0.0.1:0'{dns}}}")).endpoints("web", &endpoints)
}

fn records(at: SocketAddr, words: &[&str]) -> Vec<String> {
    let mut records = dig::ask(at, words).records;
    records.sort();
    records
}

fn status(at: SocketAddr, words: &[&str]) -> String {
    dig::ask(at, words).status
}

#[test]
fn a_services_name_has_its_endpoints_and_follows_them() {
    let proxy = scene(", ttl: 3s").endpoints("six", &["'[fd00::6]:80'".to_owned()]).start();
    let at = proxy.dns();
    let answer = dig::ask(at, &["WeB.mesh.internal", "A"]);
    assert_eq!((answer.status.as_str(), answer.ttl), ("NOERROR", Some(3)));
    assert!(answer.flags.contains("aa") && answer.text.contains("WeB.mesh.internal"), "{}", answer.text);
    assert_eq!(records(at, &["web.mesh.internal.", "A"]), ["10.1.0.1", "10.1.0.2"]);
    assert_eq!(records(at, &["six.mesh.internal", "AAAA"]), ["fd00::6"]);
    let servers = records(at, &["_web._tcp.mesh.internal", "SRV"]);
    assert!(servers[0].starts_with("0 1 82 ") && servers[1].starts_with("0 3 81 "), "{servers:?}");
    let target = servers[1].rsplit(' ').next().unwrap();
    assert_eq!(records(at, &[target, "A"]), ["10.1.0.1"]);
    assert_eq!(records(at, &["-x", "10.1.0.1"]), [target]);
    let texts = records(at, &[target, "TXT"]).join("\n");
    assert!(texts.contains("\"version=blue\""), "{texts}");

    // What has no records of a type is told from what is not there, and both say for how long.
    for (words, expected) in [
        (["web.mesh.internal", "AAAA"], "NOERROR"),
        (["six.mesh.internal", "A"], "NOERROR"),
        (["mesh.internal", "A"], "NOERROR"),
        (["no.mesh.internal", "A"], "NXDOMAIN"),
        (["a.web.mesh.internal", "A"], "NXDOMAIN"),
    ] {
        let answer = dig::ask(at, &words);
        assert_eq!((answer.status.as_str(), answer.records.len()), (expected, 0), "{words:?}");
        assert!(answer.text.contains("mesh.internal.\t\t3\tIN\tSOA"), "{}", answer.text);
    }

    proxy.scene.replace("services.yaml", b"services: {web: {endpoints: ['10.1.0.3:80']}}\n");
    wait::until_true("the new endpoint", || records(at, &["web.mesh.internal", "A"]) == ["10.1.0.3"]);
    assert_eq!(records(at, &["-x", "10.1.0.3"]).len(), 1);
}

#[test]
fn large_answers_are_cut_over_udp_and_whole_over_tcp() {
    let many: Vec<String> = (0..200).map(|n| format!("'10.2.0.{n}:80'")).collect();
    let proxy = Scene::new().set("dns", "{listen: '127.0.0.1:0'}").endpoints("big", &many).start();
    let at = proxy.dns();
    let name = "big.mesh.internal";
    let cut = dig::ask(at, &[name, "A", "+ignore", "+noedns"]);
    assert!(cut.flags.contains("tc") && cut.records.len() < 40, "{}", cut.text);
    let larger = dig::ask(at, &[name, "A", "+ignore", "+bufsize=4096"]);
    assert!(larger.flags.contains("tc") && larger.records.len() > 60, "{}", larger.text);
    let whole = dig::ask(at, &[name, "A"]);
    assert!(!whole.flags.contains("tc"), "{}", whole.text);
    assert_eq!(whole.records.len(), 200);
    assert!(whole.text.contains("(TCP)"), "{}", whole.text);
}

#[test]
fn consuls_names_are_answered_when_asked_for() {
    let proxy = scene(", consul: {datacenter: east}").start();
    let at = proxy.dns();
    for name in ["web.service.consul", "web.service.east.consul", "web.service.east.dc.consul"] {
        assert_eq!(records(at, &[name, "A"]), ["10.1.0.1", "10.1.0.2"], "{name}");
    }
    assert_eq!(records(at, &["blue.web.service.consul", "A"]), ["10.1.0.1"]);
    assert_eq!(
        records(at, &["_web._tcp.service.consul", "SRV"]),
        ["1 1 82 0a010002.addr.east.consul.", "1 3 81 0a010001.addr.east.consul."]
    );
    assert_eq!(records(at, &["0a010001.addr.east.consul", "A"]), ["10.1.0.1"]);
    for name in ["web.service.west.consul", "red.web.service.consul", "n1.node.consul"] {
        assert_eq!(status(at, &[name, "A"]), "NXDOMAIN", "{name}");
    }
}

#[test]
fn what_is_no_plain_question_gets_the_right_refusal() {
    let proxy = scene("").start();
    let at = proxy.dns();
    let name = "web.mesh.internal";
    for (words, expected) in [
        (&[name, "A", "+edns=1", "+noednsnegotiation"][..], "BADVERS"),
        (&[name, "A", "+opcode=notify"], "REFUSED"),
        (&[name, "A", "+opcode=update"], "REFUSED"),
        (&[name, "A", "+opcode=status"], "NOTIMP"),
        (&[name, "TXT", "-c", "CH"], "REFUSED"),
        (&["mesh.internal", "AXFR", "+tcp"], ""),
        (&[name, "ANY", "+notcp"], "NOERROR"),
        (&[name, "A", "+cookie=0123456789abcdef", "+ednsopt=65001:00ff"], "NOERROR"),
        (&["localhost", "A"], "NOERROR"),
        (&["x.invalid", "A"], "NXDOMAIN"),
    ] {
        assert_eq!(status(at, words), expected, "{words:?}");
    }
    assert_eq!(records(at, &[name, "ANY", "+notcp"]), ["\"RFC8482\" \"\""]);
}

/// The service's own address is the same after a restart, and tells the service to whom only has the address.
#[test]
fn a_virtual_address_stays_and_leads_to_its_service() {
    let backend = outrigger_tests::backend::Backend::named("one");
    let services = "{web: {dns: {answer: virtual, wildcard: true}}}";
    let scene = Scene::web(&[&backend]).set("dns", "{listen: '127.0.0.1:0'}").set("services", services);
    let proxy = scene.set("state_dir", "state").start();
    let at = proxy.dns();
    let address = records(at, &["web.mesh.internal", "A"]).pop().unwrap();
    let first: u8 = address.split('.').next().unwrap().parse().unwrap();
    assert!(first >= 240, "{address}");
    assert_eq!(records(at, &["a.b.web.mesh.internal", "A"]), [address.as_str()]);
    let six = records(at, &["web.mesh.internal", "AAAA"]).pop().unwrap();
    assert!(six.starts_with("fd6f:7574:7269:"), "{six}");
    assert_eq!(records(at, &["-x", &address]), ["web.mesh.internal."]);
    assert_eq!(records(at, &["web.endpoints.mesh.internal", "A"]), ["127.0.0.1"]);
    let shown = proxy.ask("/names");
    assert_eq!(shown["services"]["web"]["ipv4"], address.as_str());
    assert_eq!(proxy.get(&address, "/").status, 200);
    assert_eq!(proxy.get(&format!("[{six}]:80"), "/").status, 200);
    assert_eq!(proxy.get("240.9.9.9", "/").status, 404, "nobody has it");

    let both = [("web", backend.address), ("api", backend.address)];
    let both = both.map(|(name, address)| format!("{name}: {{endpoints: ['{address}']}}"));
    proxy.scene.replace("services.yaml", format!("services: {{{}}}\n", both.join(", ")).as_bytes());
    wait::until_true("the new service", || proxy.ask("/names")["services"]["api"]["ipv4"].is_string());
    let all = proxy.ask("/names")["services"].clone();
    let saved = || {
        let files = std::fs::read_dir(proxy.scene.path("state")).into_iter().flatten().flatten();
        let texts = files.filter_map(|file| std::fs::read_to_string(file.path()).ok());
        texts.into_iter().any(|text| text.contains("\"api\"")).then_some(())
    };
    wait::until("the addresses to be saved", saved);
    let proxy = proxy.stop().start_again();
    assert_eq!(proxy.ask("/names")["services"], all);
}

#[test]
fn a_search_list_is_followed_without_a_round_trip_for_each_suffix() {
    let search = ", search: [apps.mesh.internal, mesh.internal]";
    let proxy = scene(search).start();
    let at = proxy.dns();
    // The client's first attempt at `web`, and what it would have found at its second.
    let answer = dig::ask(at, &["web.apps.mesh.internal", "A"]);
    assert_eq!(answer.status, "NOERROR");
    assert_eq!(answer.records[0], "web.mesh.internal.");
    assert_eq!(answer.records.len(), 3, "{}", answer.text);
    assert_eq!(status(at, &["web.mesh.internal", "AAAA"]), "NOERROR");
}
