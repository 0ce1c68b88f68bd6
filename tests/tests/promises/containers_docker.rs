//! Docker's containers with a sidecar in the same network namespace, by hand what the example for Compose does: a step
//! with one privilege captures from within, and the names are Docker's and ours.

use outrigger_tests::container::Container;
use outrigger_tests::docker::Docker;
use outrigger_tests::images::{self, IMAGE, SIDECAR};
use outrigger_tests::machine::{Machine, Status};
use outrigger_tests::netlab::{Lab, ask, is_closed, serve};
use outrigger_tests::program;

const WEB: &str = "http://web.mesh.internal/cgi-bin/who";
const OUT: [(&str, &str); 2] = [("direction", "outbound"), ("service", "web")];

/// A container in the namespace of `shop`, with nothing that it does not need.
fn beside_shop(docker: &Docker<'_>, more: &[&str]) {
    let config = program::root().join("examples/compose/config");
    let volume = format!("--volume={}:/etc/outrigger:ro", config.display());
    let words = ["run", "--network=container:shop", "--cap-drop=all", "--read-only", &volume];
    docker.ok(&[&words[..], &["--security-opt=no-new-privileges"], more].concat());
}

#[test]
fn a_container_of_docker_s_is_captured_from_within() {
    let Some(lab) = Lab::new() else { return };
    let machine = Machine::new(&lab.node);
    let docker = Docker::new(&machine, &lab);
    docker.build(IMAGE, &images::web(lab.dir.path()));
    docker.build(SIDECAR, &images::sidecar(lab.dir.path()));
    docker.ok(&["network", "create", "--subnet=10.79.0.0/24", "mesh"]);
    let run = |name: &str, more: &[&str]| {
        docker.ok(&[&["run", "--detach", "--network=mesh", "--name", name], more, &[IMAGE]].concat());
    };
    run("web-1", &["--ip=10.79.0.11"]);
    run("web-2", &["--ip=10.79.0.12"]);
    run("shop", &["--publish=127.0.0.1:8080:80"]);
    let shop = Container { runtime: &docker, name: "shop" };
    let step = ["--rm", "--user=0:0", "--cap-add=NET_ADMIN", "--tmpfs=/run/outrigger", SIDECAR];
    beside_shop(&docker, &[&step[..], &["net", "apply", "/etc/outrigger/network.yaml"]].concat());
    assert!(!shop.curl("http://10.79.0.11/cgi-bin/who").ok(), "captured, and nobody there");
    beside_shop(&docker, &["--detach", "--name=sidecar", SIDECAR]);
    shop.until_answered(WEB);

    // Both endpoints in turn, which see the workload's address, not the sidecar's: it is the same.
    let own = docker.ok(&["inspect", "--format", "{{.NetworkSettings.Networks.mesh.IPAddress}}", "shop"]);
    let before = shop.counted(&OUT);
    for _ in 0..4 {
        assert!(shop.curl(WEB).expect_ok(WEB).out.contains(&own));
    }
    assert_eq!(shop.counted(&OUT), before + 4.0);
    let asked = |name: &str| docker.ok(&["exec", name, "/bin/busybox", "netstat", "-tn"]).contains(&own);
    assert!(asked("web-1") && asked("web-2"));
    // A name that Docker's own resolver has, asked by way of ours, leads to the same service.
    let by_docker = shop.curl("http://web-1/cgi-bin/who").expect_ok("a name of Docker's").out;
    assert!(by_docker.contains(&own) && shop.counted(&OUT) > before + 4.0);
    let publicly = machine.run("curl", &["-sSf", "--max-time", "2", "http://127.0.0.1:8080/cgi-bin/who"]);
    publicly.expect_ok("the published port");
    assert_eq!(shop.counted(&[("direction", "inbound"), ("service", "shop")]), 1.0);
    let sidecar = Status::of_process(&docker.ok(&["inspect", "--format", "{{.State.Pid}}", "sidecar"]));
    assert_eq!((sidecar.uid.as_str(), sidecar.capabilities.as_str()), ("1337", "0000000000000000"));

    // The sidecar goes and comes back; the rules stay.
    docker.ok(&["stop", "--time=5", "sidecar"]);
    assert!(!shop.curl("http://10.79.0.11/cgi-bin/who").ok(), "captured, and nobody there");
    docker.ok(&["start", "sidecar"]);
    shop.until_answered(WEB);
}

#[test]
fn beside_docker_our_networks_need_the_rules_that_doctor_names() {
    let Some(mut lab) = Lab::new() else { return };
    let (a, b) = (lab.workload("a"), lab.workload("b"));
    let machine = Machine::new(&lab.node);
    // Docker drops what is forwarded where it has switched forwarding on itself, and where it has a network.
    lab.node.enter(|| std::fs::write("/proc/sys/net/ipv4/ip_forward", "0").unwrap());
    let docker = Docker::new(&machine, &lab);
    docker.ok(&["network", "create", "--subnet=10.79.0.0/24", "mesh"]);
    let mut text = "networks:\n  n: {bridge: or-n, subnets: [10.91.0.0/24]}\nworkloads:\n".to_owned();
    for (name, host) in [("a", &a), ("b", &b)] {
        text += &format!("  {name}: {{namespace: {{path: {}}}, network: n}}\n", host.path().display());
    }
    lab.apply(&text);
    serve(&lab.outside, 80);
    serve(&b, 80);
    assert!(is_closed(&a, lab.outside.address, 80), "Docker drops it");
    let said = machine.run(program::outrigger().to_str().unwrap(), &["doctor"]).out;
    let cure = said.lines().find_map(|line| line.split_once("-> nft insert rule ")).expect("a cure").1;
    let (rule, same) = cure.split_once("; ").unwrap();
    assert_eq!((rule, same), ("ip filter DOCKER-USER iifname BRIDGE accept", "the same with oifname"));
    for rule in [rule.to_owned(), rule.replace("iifname", "oifname")] {
        let rule = rule.replace("BRIDGE", "or-n");
        machine.run("nft", &[&format!("insert rule {rule}")]).expect_ok("nft");
    }
    assert_eq!(ask(&a, lab.outside.address, 80), Some(lab.node.address.to_string()));
    // Where Docker has the kernel show it what goes over one bridge, that was dropped, too.
    assert_eq!(ask(&a, lab.address("b", true), 80), Some(lab.address("a", true).to_string()));
    lab.undo();
}
