//! Mistakes in a configuration are told all at once, with their places, before anything starts.

use std::fs;
use std::path::Path;

use outrigger_tests::backend::Backend;
use outrigger_tests::program::{self, Said};
use outrigger_tests::proxy::Scene;
use serde_json::Value;
use tempfile::TempDir;

const BROKEN: &str = "\
outbnd: 127.0.0.1:15001
workers: many
registry: {file: services.yaml}
services:
  web:
    balancr: p2c
    timeouts: {connect: 5, request: 0s}
    retry: {attempts: 11}
  Shop: {}
routes:
  - service: web
    match: {hosts: [web:80]}
  - {}
";

/// Place and words of each error of `BROKEN`.
const ERRORS: [(&str, &str); 9] = [
    ("1:1", "did you mean `outbound`?"),
    ("2:10", "expected a whole number"),
    ("6:5", "did you mean `balancer`?"),
    ("7:25", "duration with its unit"),
    ("7:37", "longer than zero"),
    ("8:23", "1 to 10"),
    ("9:3", "cannot be a name"),
    ("12:21", "without scheme and port"),
    ("13:5", "either `service` or `router`"),
];

fn files(config: &str, services: &str) -> TempDir {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("outrigger.yaml"), config).unwrap();
    fs::write(dir.path().join("services.yaml"), services).unwrap();
    dir
}

fn check(dir: &Path) -> Said {
    program::run(&["check", "outrigger.yaml"], dir)
}

/// Errors go to standard error, each a line with its place.
fn assert_refused(said: &Said, lines: &[&str]) {
    assert_eq!(said.code, Some(1), "{said:#?}");
    assert_eq!(said.out, "");
    for line in lines {
        assert!(said.err.contains(line), "{line} is missing from\n{}", said.err);
    }
}

#[test]
fn check_prints_every_error_with_its_place() {
    let dir = files(BROKEN, "services: {}");
    let said = check(dir.path());
    assert_refused(&said, &[]);
    let lines: Vec<&str> = said.err.lines().collect();
    assert_eq!(lines.len(), ERRORS.len(), "{}", said.err);
    for (line, (place, words)) in lines.iter().zip(ERRORS) {
        assert!(line.contains(&format!("outrigger.yaml:{place}: ")), "{place}: {line}");
        assert!(line.contains(words), "{words}: {line}");
    }
}

#[test]
fn run_refuses_what_check_refuses_in_the_same_words() {
    let dir = files(BROKEN, "services: {}");
    let (checked, run) = (check(dir.path()), program::run(&["run", "outrigger.yaml"], dir.path()));
    assert_eq!(run.code, Some(1));
    assert_eq!(run.err, checked.err);
}

#[test]
fn a_good_pair_of_files_passes() {
    let config = "registry: {file: services.yaml}\nroutes: [{service: web}]\n";
    let dir = files(config, "services: {web: {endpoints: ['127.0.0.1:80', '127.0.0.1:81']}}");
    let said = check(dir.path()).expect_ok("check");
    for words in ["ok", "1 route", "1 service", "2 endpoints"] {
        assert!(said.out.contains(words), "{words}: {}", said.out);
    }
}

#[test]
fn errors_of_the_services_file_have_places_too() {
    let services = "services:\n  web:\n    endpoints:\n      - localhost:80\n      - {address: 127.0.0.1:80, wieght: 2}\n";
    let dir = files("registry: {file: services.yaml}\n", services);
    assert_refused(
        &check(dir.path()),
        &["services.yaml:4:9", "services.yaml:5:33", "did you mean `weight`?"],
    );
    let run = program::run(&["run", "outrigger.yaml"], dir.path());
    assert_ne!(run.code, Some(0));
    assert!(run.err.contains("services.yaml:4:9"), "{}", run.err);
}

#[test]
fn a_missing_file_and_broken_yaml_are_told() {
    let dir = files("registry: [\n", "services: {}");
    assert_refused(&check(dir.path()), &["outrigger.yaml:"]);
    let said = program::run(&["check", "nowhere.yaml"], dir.path());
    assert_refused(&said, &["nowhere.yaml"]);
    fs::write(dir.path().join("outrigger.yaml"), "registry: {file: elsewhere.yaml}\n").unwrap();
    assert_refused(&check(dir.path()), &["elsewhere.yaml"]);
    let run = program::run(&["run", "outrigger.yaml"], dir.path());
    assert_ne!(run.code, Some(0));
    assert!(run.err.contains("elsewhere.yaml"), "{}", run.err);
}

#[test]
fn unknown_and_misconfigured_policies_are_told_before_the_start() {
    let services = "services: {web: {endpoints: []}}";
    let base = "registry: {file: services.yaml}\nadmin: {listen: '127.0.0.1:0'}\noutbound: 127.0.0.1:0\npolicy_host: {cache_dir: none}\n";
    let cases = [
        ("services: {web: {balancer: peek-ewma}}\n", "peak-ewma"),
        ("services: {web: {balancer: canary}}\n", "router"),
        ("services: {web: {balancer: {policy: maglev, config: {table_size: 10}}}}\n", "table_size"),
        ("services: {web: {balancer: {policy: maglev, config: {table: 7}}}}\n", "table"),
        ("policies: {mine: {file: mine.wasm}}\nservices: {web: {balancer: mine}}\n", "mine.wasm"),
    ];
    for (rest, words) in cases {
        let dir = files(&format!("{base}{rest}"), services);
        let run = program::run(&["run", "outrigger.yaml"], dir.path());
        assert_ne!(run.code, Some(0), "{rest}");
        let told = run.err.lines().any(|line| line.contains(words) && line.contains("outrigger.yaml:5:"));
        assert!(told, "{words}: {}", run.err);
    }
}

#[test]
fn schemas_are_valid_json_and_know_every_field() {
    let dir = TempDir::new().unwrap();
    let schema = |arguments: &[&str]| -> Value {
        let said = program::run(arguments, dir.path()).expect_ok("schema");
        serde_json::from_str(&said.out).expect("JSON")
    };
    let config = schema(&["check", "--schema"]);
    assert!(config["$schema"].as_str().is_some_and(|name| name.contains("json-schema.org")), "{config:#}");
    for field in ["outbound", "admin", "registry", "policies", "services", "routes", "limits"] {
        assert!(config["properties"][field].is_object(), "{field}");
        assert!(config["properties"][field].to_string().contains("description"), "{field} is described");
    }
    assert_eq!(config["additionalProperties"], false);
    let services = schema(&["check", "--schema=services"]);
    assert!(services["properties"]["services"].is_object(), "{services:#}");
}

#[test]
fn wrong_arguments_are_refused_with_the_usage() {
    let dir = TempDir::new().unwrap();
    for arguments in [&["check"][..], &["rnu"], &["run", "--redy-file", "x"]] {
        let said = program::run(arguments, dir.path());
        assert_eq!(said.code, Some(2), "{said:#?}");
        assert!(said.err.contains("Usage") || said.err.contains("usage"), "{}", said.err);
    }
}

/// A port that is taken is told at once, with its number, and the process that has it keeps all of its traffic.
#[test]
fn a_second_instance_on_the_same_port_ends() {
    let a = Backend::named("a");
    let proxy = Scene::web(&[&a]).start();
    let second = Scene::web(&[&a]).set("outbound", &proxy.outbound.to_string());
    second.write();
    let path = second.path("outrigger.yaml");
    let said = program::run(&["run", path.to_str().unwrap()], path.parent().unwrap());
    assert_ne!(said.code, Some(0));
    assert!(said.err.contains(&proxy.outbound.to_string()), "{}", said.err);
    for _ in 0..10 {
        assert_eq!(proxy.get("web", "/").status, 200);
    }
}
