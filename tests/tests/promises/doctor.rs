//! `outrigger doctor` says what works on this host and what stands in the way, and changes nothing.

use outrigger_tests::netlab::{Lab, assert_same};
use outrigger_tests::netns::Host;
use outrigger_tests::program::{self, Said, say};
use serde_json::Value;

fn doctor(host: &Host, arguments: &[&str]) -> Said {
    say(host.command(program::outrigger().to_str().unwrap()).arg("doctor").args(arguments))
}

/// The verdicts on one subject, and what is said there.
fn about(said: &Said, subject: &str) -> Vec<(String, String)> {
    let json: Value = serde_json::from_str(&said.out).unwrap();
    let findings = json["findings"].as_array().unwrap().iter().filter(|found| found["about"] == subject);
    let text = |found: &Value, field: &str| found[field].as_str().unwrap_or_default().to_owned();
    findings.map(|found| (text(found, "verdict"), text(found, "says") + &text(found, "cure"))).collect()
}

#[test]
fn a_host_that_allows_everything_is_left_as_it_was() {
    let Some(lab) = Lab::new() else { return };
    let before = lab.dump(&lab.node);
    let said = doctor(&lab.node, &["--json"]).expect_ok("doctor");
    for subject in
        ["kernel", "privileges", "namespaces", "bridges", "veth", "addresses", "NAT", "capture", "flows"]
    {
        assert!(
            about(&said, subject).iter().any(|(verdict, _)| verdict == "good"),
            "{subject}: {}",
            said.out
        );
    }
    assert_eq!((about(&said, "tproxy").len(), about(&said, "VXLAN").len()), (1, 1), "{}", said.out);
    assert_same(&lab.dump(&lab.node), &before, "after the doctor");
}

#[test]
fn what_stands_in_the_way_is_named_with_its_cure() {
    let Some(lab) = Lab::new() else { return };
    lab.node.tool(
        "nft",
        &["-f", "-"],
        "table ip wall { chain ahead { type filter hook forward priority 0; policy drop; }; }
         table inet early { chain out { type nat hook output priority -150; }; }",
    );
    let listening =
        lab.node.enter(|| std::net::TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 15001)).unwrap());
    let overlay = "overlay: {etcd: {endpoints: ['http://127.0.0.1:1']}, checksum_offload: false}";
    let file =
        lab.write(&format!("networks:\n  a: {{subnets: [10.0.0.0/8, 'fd99::/16']}}\n  m: {{{overlay}}}\n"));
    let said = doctor(&lab.node, &["--json", &file]);
    assert!(about(&said, "checksums")[0].1.contains("calculated before"), "{said:?}");
    assert_eq!(said.code, Some(1), "{said:?}");
    let tables = about(&said, "other tables");
    assert_eq!(tables[0].0, "warning");
    assert!(tables[0].1.contains("`ip wall ahead` drops"), "{tables:?}");
    assert!(tables[0].1.contains("nft insert rule ip wall ahead"), "{tables:?}");
    assert!(tables[0].1.contains("`inet early out` redirects before ours"), "{tables:?}");
    assert!(about(&said, "ports")[0].1.contains("15001 (outbound)"), "{said:?}");
    let subnets = about(&said, "subnets");
    assert!(subnets.iter().all(|(verdict, says)| verdict == "bad" && says.contains("`eth0`")), "{subnets:?}");
    assert_eq!(subnets.len(), 2, "one of each family: {subnets:?}");
    drop(listening);
    // An overlay's ranges are looked at, too: other hosts' subnets come from there.
    let file = lab.write(
        "networks:\n  a: {overlay: {ranges: [10.0.0.0/8], etcd: {endpoints: 'http://10.99.0.9:2379'}}}\n",
    );
    let subnets = about(&doctor(&lab.node, &["--json", &file]), "subnets");
    assert!(subnets.len() == 1 && subnets[0].1.contains("10.0.0.0/8 of network `a` overlaps"), "{subnets:?}");
}

#[test]
fn without_the_right_to_do_it_that_is_said() {
    let Some(lab) = Lab::new() else { return };
    let mut command = lab.node.command("setpriv");
    command.args(["--reuid=1337", "--clear-groups"]).arg(program::outrigger()).args(["doctor", "--json"]);
    let said = say(&mut command);
    assert_eq!(said.code, Some(1), "{said:?}");
    let (verdict, says) = &about(&said, "privileges")[0];
    assert_eq!(verdict, "bad");
    assert!(says.contains("CAP_NET_ADMIN and CAP_SYS_ADMIN") && says.contains("as root"), "{says}");
    let wrong = doctor(&lab.node, &["missing.yaml"]);
    assert_eq!(wrong.code, Some(1));
    assert!(wrong.err.contains("missing.yaml"), "{wrong:?}");
}
