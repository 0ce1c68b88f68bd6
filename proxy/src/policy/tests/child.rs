//! Compiling in a child: whatever the child does, the answer is code or a refusal.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::guest::{Balancer, engine, host};
use crate::policy::compiler::compile;
use crate::policy::{Engine, Refusal};

/// A program that takes the place of `outrigger compile-component`.
fn program(dir: &Path, name: &str, body: &str) -> PathBuf {
    let path = dir.join(name);
    fs::write(&path, format!("#!/bin/sh\n{body}\n")).expect("written");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).expect("mode");
    path
}

fn load(program: PathBuf) -> Result<(), Refusal> {
    let engine = Engine::with_compiler_child(&host(), program).expect("engine");
    Balancer::default().load(&engine).map(drop)
}

/// One test, so that no other thread holds a program open for writing while it is started.
#[test]
fn a_child_gives_code_or_a_refusal() {
    let dir = tempfile::tempdir().expect("directory");
    let code = dir.path().join("code");
    let compiled = compile(engine().wasmtime(), &Balancer::default().component()).expect("compiles");
    fs::write(&code, compiled).expect("written");

    let honest = format!("/bin/cat > /dev/null; /bin/cat {}", code.display());
    load(program(dir.path(), "honest", &honest)).expect("loads");

    let refusing = program(dir.path(), "refusing", "echo bad section >&2; exit 1");
    assert_eq!(load(refusing), Err(Refusal::Malformed { message: "bad section\n".to_owned() }));

    for (name, body) in
        [("killed", "kill -9 $$"), ("echo", "/bin/cat"), ("silent", "exit 0"), ("odd", "exit 9")]
    {
        let refusal = load(program(dir.path(), name, body)).expect_err(name);
        assert!(matches!(refusal, Refusal::Compiler { .. }), "{name}: {refusal}");
    }
    let refusal = load(dir.path().join("missing")).expect_err("missing");
    assert!(refusal.to_string().contains("No such file"), "{refusal}");
}
