//! The benchmarks work: a short run of each, in which no request of ours may fail. Their figures are taken by hand.

use std::process::Command;

use outrigger_tests::program;

fn smoke(script: &str, arguments: &[&str]) -> String {
    let mut command = Command::new("python3");
    command.arg(script).arg("--smoke").args(arguments);
    command.current_dir(program::root().join("tests/bench")).env("OUTRIGGER", program::outrigger());
    program::say(&mut command).expect_ok(script).out
}

#[test]
fn the_comparison_with_peers_runs() {
    let table = smoke("peers.py", &["--only", "outrigger,nginx"]);
    assert!(table.contains("outrigger") && table.contains("nginx"), "{table}");
}

#[test]
fn the_benchmarks_of_parts_run() {
    let table = smoke("micro.py", &[]);
    assert!(table.contains("peak-ewma") && table.contains("swaps under load"), "{table}");
}

#[test]
fn the_benchmark_of_scale_runs() {
    let table = smoke("scale.py", &[]);
    assert!(table.contains("ready ms") && table.contains("one: PSS MiB"), "{table}");
}

#[test]
fn the_benchmark_of_registries_runs() {
    let table = smoke("registry.py", &[]);
    assert!(["file", "etcd", "embedded"].iter().all(|name| table.contains(name)), "{table}");
}

#[test]
fn the_benchmark_of_names_runs() {
    let table = smoke("dns.py", &[]);
    let parts = ["outrigger", "unbound", "dnsmasq", "changes/s"];
    assert!(parts.iter().all(|name| table.contains(name)), "{table}");
}

#[test]
fn the_benchmark_of_containers_networks_runs() {
    let table = smoke("net.py", &[]);
    let parts = ["outrigger", "cni-list", "netavark", "ADD", "DEL"];
    assert!(parts.iter().all(|name| table.contains(name)) && !table.contains("not installed"), "{table}");
}
