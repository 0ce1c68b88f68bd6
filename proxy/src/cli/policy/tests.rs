//! The verbs, on the built-in policies and on a crate fresh from `new`.

use std::path::Path;

use clap::{Parser, Subcommand};

use super::{PolicyCommand, Verb, bench, check, new};
use crate::policy::builtin;

#[derive(Parser)]
struct Program {
    #[command(subcommand)]
    verb: Outer,
}

#[derive(Subcommand)]
enum Outer {
    Policy(PolicyCommand),
}

fn parsed(line: &[&str]) -> Verb {
    let line = ["outrigger", "policy"].iter().chain(line);
    let Outer::Policy(command) = Program::try_parse_from(line).expect("parses").verb;
    command.verb
}

fn report(line: &[&str]) -> outrigger_sdk::testing::conformance::Report {
    let Verb::Check(args) = parsed(line) else { panic!("another verb") };
    check::check(&args).expect("checks")
}

#[test]
fn built_in_policies_conform_as_components() {
    for (name, claims) in [
        ("round-robin", None),
        ("weighted", Some("weighted")),
        ("random", None),
        ("least-request", Some("load-aware")),
        ("p2c", Some("weighted,load-aware,retries-elsewhere")),
        ("peak-ewma", Some("load-aware,avoids-failures")),
        ("maglev", Some("hashed")),
        ("rendezvous", Some("hashed")),
        ("canary", None),
    ] {
        let mut line = vec!["check", name];
        line.extend(claims.iter().flat_map(|claims| ["--claim", claims]));
        let report = report(&line);
        assert!(report.passed(), "{name}:\n{report}");
    }
}

#[test]
fn all_first_party_policies_are_built_in() {
    let names: Vec<&str> = builtin::names().collect();
    let expected = [
        "canary",
        "header-match",
        "least-request",
        "maglev",
        "p2c",
        "peak-ewma",
        "random",
        "rendezvous",
        "round-robin",
        "weighted",
    ];
    assert_eq!(names, expected);
    for name in names {
        let roles = builtin::roles(name).expect("roles");
        assert_eq!(roles.router, matches!(name, "canary" | "header-match"), "{name}");
        assert_ne!(roles.router, roles.balancer, "{name}");
    }
}

#[test]
fn a_claim_that_does_not_hold_fails() {
    assert!(!report(&["check", "random", "--claim", "hashed"]).passed());
    let refused = report(&["check", "p2c", "--config", r#"{"choices": 3}"#]);
    assert!(!refused.passed());
    assert_eq!(refused.checks.len(), 1);
}

#[test]
fn the_bench_measures_every_size() {
    let Verb::Bench(args) = parsed(&["bench", "p2c", "--calls", "10", "--json"]) else {
        panic!("another verb")
    };
    let measured = bench::bench(&args).expect("measures");
    assert_eq!(measured.rows.len(), 4);
    assert!(measured.rows.iter().all(|row| row.call_ns > 0.0));
}

#[test]
fn a_new_policy_brings_its_sdk() {
    let parent = tempfile::tempdir().expect("directory");
    let dir = parent.path().join("mine");
    let line = ["new", "mine", "--dir", dir.to_str().expect("path")];
    let Verb::New(args) = parsed(&line) else { panic!("another verb") };
    new::write(&args).expect("written");
    let read = |path: &str| std::fs::read_to_string(dir.join(path)).expect(path);
    assert!(read("Cargo.toml").contains(r#"outrigger-sdk = { path = "vendor/outrigger-sdk" }"#));
    let sdk = read("vendor/outrigger-sdk/Cargo.toml");
    assert!(!sdk.contains("workspace") && sdk.contains("wit-bindgen = {"), "{sdk}");
    assert!(Path::new(&dir).join("vendor/outrigger-sdk/wit/policy.wit").is_file());
    assert!(new::write(&args).is_err(), "an existing directory is left alone");
}
