//! From an empty directory to a policy that serves: what the documents tell authors to do works as written.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use outrigger_tests::backend::Backend;
use outrigger_tests::program::{self, Said};
use outrigger_tests::proxy::Scene;
use tempfile::TempDir;

/// Built crates are kept here between runs.
fn target_dir() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("authors")
}

pub(super) fn outrigger(arguments: &[&str], dir: &Path) -> Said {
    let mut command = Command::new(program::outrigger());
    program::say(command.args(arguments).current_dir(dir).env("CARGO_TARGET_DIR", target_dir()))
}

fn cargo(arguments: &[&str], dir: &Path) -> Said {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    program::say(Command::new(cargo).args(arguments).current_dir(dir).env("CARGO_TARGET_DIR", target_dir()))
}

/// Serves two backends in zones `a` and `b` by the component, without a fallback or a failure.
fn assert_serves(component: &Path, requests: usize) -> Vec<String> {
    let backends = [Backend::named("a"), Backend::named("b")];
    let endpoint =
        |backend: &Backend, zone: &str| format!("{{address: '{}', zone: {zone}}}", backend.address);
    let proxy = Scene::new()
        .endpoints("web", &[endpoint(&backends[0], "a"), endpoint(&backends[1], "b")])
        .component("mine", &fs::read(component).unwrap())
        .set("node", "{service: shop, zone: b}")
        .set("policies", "{mine: {file: mine.wasm}}")
        .set("services", "{web: {balancer: mine}}")
        .start();
    let mut client = proxy.client();
    let answers = (0..requests).map(|_| client.get("web", "/", "").backend().to_owned()).collect();
    let metrics = proxy.metrics();
    assert_eq!(metrics.sum("outrigger_policy_failures_total", &[]), 0.0, "{}", proxy.log());
    assert_eq!(metrics.sum("outrigger_policy_fallbacks_total", &[]), 0.0);
    assert!(metrics.sum("outrigger_policy_calls_total", &[("policy", "mine")]) >= requests as f64);
    answers
}

#[test]
fn a_new_policy_is_tested_built_checked_measured_and_served() {
    let dir = TempDir::new().unwrap();
    outrigger(&["policy", "new", "my-policy"], dir.path()).expect_ok("policy new");
    let home = dir.path().join("my-policy");
    let tested = cargo(&["test"], &home).expect_ok("cargo test of a new policy");
    assert!(
        tested.out.contains("test result: ok") && !tested.out.contains("running 0 tests\n\nrunning"),
        "{}",
        tested.out
    );
    let built = outrigger(&["policy", "build"], &home).expect_ok("policy build");
    let component = home.join(built.out.trim());
    assert!(component.is_file(), "{}", built.out);
    let file = component.to_str().unwrap();
    let shown = outrigger(&["policy", "show", file], &home).expect_ok("policy show");
    assert!(shown.out.contains("balancer") && !shown.out.contains("wasi"), "{}", shown.out);
    outrigger(&["policy", "check", file], &home).expect_ok("policy check");
    let measured =
        outrigger(&["policy", "bench", "--calls", "200", "--json", file], &home).expect_ok("policy bench");
    let measured: serde_json::Value = serde_json::from_str(&measured.out).expect("JSON");
    assert_eq!(measured["rows"].as_array().map(Vec::len), Some(4), "{measured:#}");
    assert_eq!(assert_serves(&component, 20).len(), 20);
    let again = outrigger(&["policy", "new", "my-policy"], dir.path());
    assert!(!again.ok() && again.err.contains("exists already"), "{again:?}");
}

#[test]
fn a_new_router_is_tested_built_and_checked() {
    let dir = TempDir::new().unwrap();
    outrigger(&["policy", "new", "my-router", "--router"], dir.path()).expect_ok("policy new");
    let home = dir.path().join("my-router");
    cargo(&["test"], &home).expect_ok("cargo test of a new router");
    let built = outrigger(&["policy", "build"], &home).expect_ok("policy build");
    outrigger(&["policy", "check", built.out.trim()], &home).expect_ok("policy check");
}

#[test]
fn zone_first_keeps_to_its_zone() {
    let dir = TempDir::new().unwrap();
    let component = dir.path().join("zone-first.wasm");
    let file = component.to_str().unwrap();
    let example = program::root().join("examples/policy-zone-first");
    outrigger(&["policy", "build", example.to_str().unwrap(), "-o", file], dir.path())
        .expect_ok("policy build");
    outrigger(&["policy", "check", file], dir.path()).expect_ok("policy check");
    let answers = assert_serves(&component, 20);
    assert!(answers.iter().all(|backend| backend == "b"), "in our zone: {answers:?}");
}

#[test]
fn the_policy_in_c_serves() {
    let dir = TempDir::new().unwrap();
    let example = program::root().join("examples/policy-c");
    for file in ["policy.c", "build.sh"] {
        fs::copy(example.join(file), dir.path().join(file)).unwrap();
    }
    program::tool("sh", &["build.sh"], dir.path()).expect_ok("build.sh");
    let module = "out/policy.core.wasm";
    let arguments = ["policy", "build", "--embed-world", "load-balancer", module, "-o", "policy.wasm"];
    outrigger(&arguments, dir.path()).expect_ok("policy build");
    outrigger(&["policy", "check", "policy.wasm"], dir.path()).expect_ok("policy check");
    let answers = assert_serves(&dir.path().join("policy.wasm"), 40);
    assert!(answers.contains(&"a".to_owned()) && answers.contains(&"b".to_owned()), "{answers:?}");
}

#[test]
fn built_in_policies_pass_the_check_that_authors_use() {
    let dir = TempDir::new().unwrap();
    for (name, claim) in [
        ("weighted", "weighted"),
        ("maglev", "hashed"),
        ("p2c", "load-aware"),
        ("peak-ewma", "avoids-failures"),
    ] {
        let said = outrigger(&["policy", "check", name, "--claim", claim], dir.path()).expect_ok(name);
        assert!(said.out.contains("passes"), "{}", said.out);
    }
    let claimed = outrigger(&["policy", "check", "round-robin", "--claim", "load-aware"], dir.path());
    assert_eq!(claimed.code, Some(1), "round robin does not look at load: {}", claimed.out);
    let unfit = outrigger(&["policy", "check", "/dev/null"], dir.path());
    assert!(!unfit.ok() && unfit.err.contains("not WebAssembly"), "{unfit:?}");
}

/// Every option that a document gives to a verb is one that the verb knows.
#[test]
fn documented_commands_exist() {
    let root = program::root();
    let mut documents: Vec<PathBuf> = Vec::new();
    for folder in [
        "",
        "sdk",
        "examples/policy-c",
        "examples/policy-shadow",
        "examples/policy-zone-first",
        "policies/p2c",
        "docs",
    ] {
        let listed = fs::read_dir(root.join(folder)).into_iter().flatten().filter_map(Result::ok);
        documents.extend(
            listed.map(|entry| entry.path()).filter(|path| {
                path.extension().is_some_and(|extension| extension == "md" || extension == "sh")
            }),
        );
    }
    let mut seen = 0;
    for document in documents {
        let text = fs::read_to_string(&document).unwrap();
        for line in text
            .lines()
            .filter(|line| line.contains("outrigger policy ") || line.contains("outrigger check "))
        {
            let command = &line[line.find("outrigger ").unwrap_or(0)..];
            let command = command.split(['`', '#', '(']).next().unwrap_or_default();
            let words: Vec<&str> = command.split_whitespace().skip(1).collect();
            let verbs = words.iter().take(if words[0] == "policy" { 2 } else { 1 }).copied();
            let help: Vec<&str> = verbs.chain(["--help"]).collect();
            let help = program::run(&help, root);
            let place = document.strip_prefix(root).unwrap_or(&document).display();
            assert!(help.ok(), "{place}: `{command}`: {}", help.err);
            for option in words.iter().filter(|word| word.starts_with("--") && word.len() > 2) {
                let option =
                    option.split('=').next().unwrap_or_default().trim_end_matches(['.', ',', ';', ':']);
                let known = help
                    .out
                    .split(|c: char| !c.is_ascii_alphanumeric() && c != '-')
                    .any(|word| word == option);
                assert!(known, "{place}: `{command}`: {option} is not known");
                seen += 1;
            }
        }
    }
    println!("{seen} options");
}
