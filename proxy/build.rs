//! Builds the first-party policies for the Wasm target and puts them inside the program.
//!
//! A nested cargo builds every crate in `policies/`, and one for the demo; wit-component turns each module into a
//! component; the program includes them by generated tables. Its own target directory keeps the nested cargo from
//! waiting for ours.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::{env, fs};

use wit_component::ComponentEncoder;

fn main() -> ExitCode {
    match build() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("building the policies in policies/: {error}");
            ExitCode::FAILURE
        }
    }
}

fn build() -> Result<(), Box<dyn Error>> {
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join("..").canonicalize()?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    for input in ["policies", DEMO, "sdk/src", "sdk/wit", "sdk/Cargo.toml", "Cargo.toml", "Cargo.lock"] {
        println!("cargo::rerun-if-changed={}", root.join(input).display());
    }
    println!("cargo::rerun-if-changed=build.rs");
    let policies = policies(&root.join("policies"))?;
    let crates: Vec<PathBuf> =
        policies.iter().map(|policy| root.join("policies").join(policy)).chain([root.join(DEMO)]).collect();
    ensure_target()?;
    build_modules(&root, &out, &crates)?;
    let components = crates.iter().map(|dir| componentize(&out, dir)).collect::<Result<Vec<String>, _>>()?;
    let entry = |(name, path): (&String, &String)| format!("    ({name:?}, include_bytes!({path:?})),\n");
    // The last component has no name of its own among the policies: only the demo uses it.
    let table: String = policies.iter().zip(&components).map(entry).collect();
    fs::write(out.join("builtin.rs"), format!("const BUILTIN: &[(&str, &[u8])] = &[\n{table}];\n"))?;
    let demo = components.last().ok_or("no component")?;
    fs::write(out.join("demo.rs"), format!("const TRAPS: &[u8] = include_bytes!({demo:?});\n"))?;
    embed_sdk(&root, &out)
}

/// The SDK's files, for `outrigger policy new`, with a manifest that stands without our workspace.
fn embed_sdk(root: &Path, out: &Path) -> Result<(), Box<dyn Error>> {
    let sdk = root.join("sdk");
    let manifest = out.join("sdk-Cargo.toml");
    fs::write(&manifest, standalone(&sdk.join("Cargo.toml"), &root.join("Cargo.toml"))?)?;
    let mut files = vec![("Cargo.toml".to_owned(), manifest)];
    for dir in ["src", "wit"] {
        collect(&sdk, &sdk.join(dir), &mut files)?;
    }
    files.sort();
    let entry = |(name, path): &(String, PathBuf)| format!("    ({name:?}, include_str!({path:?})),\n");
    let table: String = files.iter().map(entry).collect();
    fs::write(out.join("sdk.rs"), format!("const SDK: &[(&str, &str)] = &[\n{table}];\n"))?;
    Ok(())
}

fn collect(base: &Path, dir: &Path, files: &mut Vec<(String, PathBuf)>) -> Result<(), Box<dyn Error>> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(base, &path, files)?;
        } else {
            files.push((path.strip_prefix(base)?.display().to_string(), path));
        }
    }
    Ok(())
}

/// The manifest with what it inherits written out: `x.workspace = true` becomes the workspace's line for `x`.
fn standalone(manifest: &Path, workspace: &Path) -> Result<String, Box<dyn Error>> {
    let shared = fs::read_to_string(workspace)?;
    let mut text = String::new();
    for line in fs::read_to_string(manifest)?.lines() {
        match line.trim().strip_suffix(".workspace = true") {
            Some(key) => {
                let start = format!("{key} = ");
                let inherited = shared.lines().find(|line| line.starts_with(&start));
                text += inherited.ok_or_else(|| format!("the workspace has no `{key}`"))?;
            }
            // The lints are the workspace's own business.
            None if line.trim() == "[lints]" => break,
            None => text += line,
        }
        text.push('\n');
    }
    Ok(text)
}

/// Names of the crates in `policies/`, sorted: the directory's name is the policy's.
fn policies(dir: &Path) -> Result<Vec<String>, Box<dyn Error>> {
    let Ok(entries) = fs::read_dir(dir) else { return Ok(Vec::new()) };
    let mut names = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.join("Cargo.toml").is_file() {
            names.extend(path.file_name().and_then(|n| n.to_str()).map(str::to_owned));
        }
    }
    names.sort();
    Ok(names)
}

fn build_modules(root: &Path, out: &Path, crates: &[PathBuf]) -> Result<(), Box<dyn Error>> {
    let mut cargo = Command::new(env::var("CARGO")?);
    cargo.current_dir(root).args(["build", "--profile", "policy", "--target", TARGET, "--lib"]);
    cargo.arg("--target-dir").arg(out.join("policies"));
    for dir in crates {
        cargo.args(["-p", &package(dir)?]);
    }
    if root.join("Cargo.lock").is_file() {
        cargo.arg("--locked");
    }
    // What is meant for the host: flags such as `-C target-cpu=native`, wrappers such as clippy's, and directories.
    for variable in HOST_ONLY {
        cargo.env_remove(variable);
    }
    let status = cargo.status()?;
    if status.success() { Ok(()) } else { Err(format!("cargo build for {TARGET}: {status}").into()) }
}

/// The package's name as its manifest has it.
fn package(dir: &Path) -> Result<String, Box<dyn Error>> {
    let manifest = dir.join("Cargo.toml");
    let text = fs::read_to_string(&manifest)?;
    let name = text.lines().find_map(|line| line.trim().strip_prefix("name = \"")?.strip_suffix('"'));
    name.map(str::to_owned).ok_or_else(|| format!("{} names no package", manifest.display()).into())
}

/// The path of the component made of what this crate has been built to.
fn componentize(out: &Path, dir: &Path) -> Result<String, Box<dyn Error>> {
    let package = package(dir)?;
    let module =
        out.join("policies").join(TARGET).join("policy").join(format!("{}.wasm", package.replace('-', "_")));
    let bytes = fs::read(&module).map_err(|e| format!("{}: {e}", module.display()))?;
    let component = ComponentEncoder::default().validate(true).module(&bytes)?.encode();
    let path = out.join(format!("{package}.component.wasm"));
    fs::write(&path, component.map_err(|e| format!("{package}: {e:#}"))?)?;
    Ok(path.display().to_string())
}

/// Looks for the target's standard library, and installs it where rustup can.
fn ensure_target() -> Result<(), Box<dyn Error>> {
    let rustc = env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
    let installed = || {
        let query = ["--print", "target-libdir", "--target", TARGET];
        let answer = Command::new(&rustc).args(query).output().ok()?;
        let dir = PathBuf::from(String::from_utf8(answer.stdout).ok()?.trim());
        fs::read_dir(dir).ok()?.next().map(|_| ())
    };
    if installed().is_some() {
        return Ok(());
    }
    let mut rustup = Command::new("rustup");
    rustup.args(["target", "add", TARGET]);
    if let Ok(toolchain) = env::var("RUSTUP_TOOLCHAIN") {
        rustup.args(["--toolchain", &toolchain]);
    }
    let added = rustup.status().is_ok_and(|status| status.success());
    if added && installed().is_some() {
        return Ok(());
    }
    Err(format!("the Rust target {TARGET} is missing. Run: rustup target add {TARGET}").into())
}

/// A policy with a bug, for `outrigger demo` alone.
const DEMO: &str = "examples/policy-traps";
const TARGET: &str = "wasm32-unknown-unknown";
const HOST_ONLY: [&str; 10] = [
    "RUSTFLAGS",
    "CARGO_ENCODED_RUSTFLAGS",
    "CARGO_BUILD_RUSTFLAGS",
    "RUSTC_WRAPPER",
    "RUSTC_WORKSPACE_WRAPPER",
    "CARGO_BUILD_TARGET",
    "CARGO_BUILD_TARGET_DIR",
    "CARGO_TARGET_DIR",
    "CLIPPY_ARGS",
    "RUSTDOCFLAGS",
];
