//! Docker's containers with a sidecar in the same network namespace, by hand what the example for Compose does: a step
//! with one privilege captures from within, and the names are Docker's and ours.

use outrigger_tests::docker::Docker;
use outrigger_tests::images::{self, IMAGE, SIDECAR};
use outrigger_tests::machine::{Machine, Status};
use outrigger_tests::metrics::Metrics;
use outrigger_tests::netlab::Lab;
use outrigger_tests::program::{self, Said};
use outrigger_tests::wait;

const WEB: &str = "http://web.mesh.internal/cgi-bin/who";

fn get(docker: &Docker<'_>, url: &str) -> Said {
    docker.say(&["exec", "shop", "/usr/bin/curl", "-sSf", "--max-time", "2", url])
}

/// So many requests that came to the workload, or that it sent.
fn counted(docker: &Docker<'_>, direction: &str, service: &str) -> f64 {
    let said = get(docker, "http://127.0.0.1:15020/metrics").expect_ok("metrics").out;
    let labels = [("direction", direction), ("service", service)];
    Metrics::parse(&said).sum("outrigger_requests_total", &labels)
}

fn until_web_answers(docker: &Docker<'_>) {
    wait::until_true("web to answer through the sidecar", || get(docker, WEB).ok());
}

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
    let step = ["--rm", "--user=0:0", "--cap-add=NET_ADMIN", "--tmpfs=/run/outrigger", SIDECAR];
    beside_shop(&docker, &[&step[..], &["net", "apply", "/etc/outrigger/network.yaml"]].concat());
    assert!(!get(&docker, "http://10.79.0.11/cgi-bin/who").ok(), "captured, and nobody there");
    beside_shop(&docker, &["--detach", "--name=sidecar", SIDECAR]);
    until_web_answers(&docker);

    // Both endpoints in turn, which see the workload's address, not the sidecar's: it is the same.
    let shop = docker.ok(&["inspect", "--format", "{{.NetworkSettings.Networks.mesh.IPAddress}}", "shop"]);
    let before = counted(&docker, "outbound", "web");
    for _ in 0..4 {
        assert!(get(&docker, WEB).expect_ok(WEB).out.contains(&shop));
    }
    assert_eq!(counted(&docker, "outbound", "web"), before + 4.0);
    let asked = |name: &str| docker.ok(&["exec", name, "/bin/busybox", "netstat", "-tn"]).contains(&shop);
    assert!(asked("web-1") && asked("web-2"));
    // A name that Docker's own resolver has, asked by way of ours, leads to the same service.
    let by_docker = get(&docker, "http://web-1/cgi-bin/who").expect_ok("a name of Docker's").out;
    assert!(by_docker.contains(&shop) && counted(&docker, "outbound", "web") > before + 4.0);
    let publicly = machine.run("curl", &["-sSf", "--max-time", "2", "http://127.0.0.1:8080/cgi-bin/who"]);
    publicly.expect_ok("the published port");
    assert_eq!(counted(&docker, "inbound", "shop"), 1.0);
    let sidecar = Status::of_process(&docker.ok(&["inspect", "--format", "{{.State.Pid}}", "sidecar"]));
    assert_eq!((sidecar.uid.as_str(), sidecar.capabilities.as_str()), ("1337", "0000000000000000"));

    // The sidecar goes and comes back; the rules stay.
    docker.ok(&["stop", "--time=5", "sidecar"]);
    assert!(!get(&docker, "http://10.79.0.11/cgi-bin/who").ok(), "captured, and nobody there");
    docker.ok(&["start", "sidecar"]);
    until_web_answers(&docker);
    docker.ok(&["rm", "--force", "sidecar", "shop"]);
    assert!(!lab.dump(&lab.node).contains("inet outrigger"), "the rules went with the namespace");
}
