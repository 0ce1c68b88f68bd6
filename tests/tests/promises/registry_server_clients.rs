//! Clients for Consul that others wrote work with the embedded registry.

use std::path::{Path, PathBuf};
use std::process::Command;

use outrigger_tests::program;
use outrigger_tests::registry::Registry;

fn sources() -> PathBuf {
    program::root().join("tests/clients")
}

#[test]
fn the_npm_client_works() {
    let packages = program::clients().join("node/node_modules");
    assert!(Path::new(&packages).is_dir(), "{} is missing; tests/run.sh installs it", packages.display());
    let registry = Registry::start();
    let mut node = Command::new("node");
    node.arg(sources().join("node/drive.js")).env("NODE_PATH", packages);
    node.arg(registry.http.ip().to_string()).arg(registry.http.port().to_string());
    program::say(&mut node).expect_ok("the npm client");
}

/// Built beside the workspace, so that its dependencies change nothing about the program's.
#[test]
fn the_rust_client_works() {
    let registry = Registry::start();
    let manifest = sources().join("rs-consul/Cargo.toml");
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["run", "--quiet", "--locked", "--manifest-path"]).arg(manifest);
    cargo.arg("--target-dir").arg(program::clients()).arg("--").arg(format!("http://{}", registry.http));
    program::say(&mut cargo).expect_ok("rs-consul");
}
