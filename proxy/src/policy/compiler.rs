//! From a policy's bytes to machine code: here, or in a child process that can be killed.
//!
//! Compiling is the one thing a hostile or huge component makes dear (JavaScript: 10 s of CPU and 316 MiB), so the
//! running proxy does it in a child with bounds; tests and small tools do it in place.

use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use rustix::process::{Resource, Rlimit, setrlimit};
use wit_component::{ComponentEncoder, StringEncoding};
use wit_parser::Resolve;

use super::engine::configuration;
use super::inspect::inspect;
use super::refusal::Refusal;
use super::shape::with_core_exported;

/// Compiles in this process. The result is what `Component::serialize` makes.
pub(super) fn compile(engine: &wasmtime::Engine, bytes: &[u8]) -> Result<Vec<u8>, Refusal> {
    let component = componentize(bytes)?;
    let component = with_core_exported(&component).unwrap_or(component);
    engine.precompile_component(&component).map_err(|e| Refusal::Malformed { message: format!("{e:#}") })
}

/// The component itself, or the one that a core module describes.
pub fn componentize(bytes: &[u8]) -> Result<Vec<u8>, Refusal> {
    if !inspect(bytes)?.is_module {
        return Ok(bytes.to_vec());
    }
    let encode = || ComponentEncoder::default().validate(true).module(bytes)?.encode();
    let component = encode().map_err(|e| Refusal::Malformed { message: format!("{e:#}") })?;
    inspect(&component)?.admit()?;
    Ok(component)
}

/// The module with a description of the world it implements, for languages whose tools do not add one.
pub fn embed_world(module: &[u8], world: &str) -> Result<Vec<u8>, Refusal> {
    let refused = |message: String| Refusal::Mismatch { message };
    let mut resolve = Resolve::default();
    let package = resolve.push_str("policy.wit", WIT).map_err(|e| refused(format!("{e:#}")))?;
    let worlds = "the worlds are load-balancer, request-router and policy";
    let world = resolve.select_world(&[package], Some(world)).map_err(|_| refused(worlds.to_owned()))?;
    let mut described = module.to_vec();
    wit_component::embed_component_metadata(&mut described, &resolve, world, StringEncoding::UTF8)
        .map_err(|e| refused(format!("{e:#}")))?;
    Ok(described)
}

/// Compiles in `program compile-component`, with the wasm on its standard input and the code on its standard output.
pub(super) fn compile_in_child(program: &Path, bytes: &[u8]) -> Result<Vec<u8>, Refusal> {
    let mut command = Command::new(program);
    command.arg(CHILD_VERB).env_clear();
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|e| gave_up(format!("{}: {e}", program.display())))?;
    let answer = converse(&mut child, bytes);
    if answer.is_err() {
        let _ = child.kill();
    }
    let status = child.wait().map_err(|e| gave_up(e.to_string()))?;
    let (code, complaint) = answer?;
    match status.code() {
        Some(0) => Ok(code),
        Some(EXIT_REFUSED) => Err(Refusal::Malformed { message: complaint }),
        // Killed by its own limits, most likely.
        _ => Err(gave_up(format!("{status}; {complaint}"))),
    }
}

/// Gives the child its input and takes its output, both within the time.
fn converse(child: &mut Child, bytes: &[u8]) -> Result<(Vec<u8>, String), Refusal> {
    let (Some(mut stdin), Some(stdout), Some(stderr)) =
        (child.stdin.take(), child.stdout.take(), child.stderr.take())
    else {
        return Err(gave_up("no pipes".to_owned()));
    };
    let (sender, answer) = std::sync::mpsc::sync_channel(1);
    let reader = move || {
        let mut code = Vec::new();
        let mut complaint = String::new();
        let read = stdout.take(CODE_BYTES_MAX).read_to_end(&mut code);
        let _ = stderr.take(COMPLAINT_BYTES_MAX).read_to_string(&mut complaint);
        let _ = sender.send(read.map(|_| (code, complaint)));
    };
    let spawned = std::thread::Builder::new().name("compiler".to_owned()).spawn(reader);
    spawned.map_err(|e| gave_up(e.to_string()))?;
    // The child reads everything before it starts; if it dies first, its status says why.
    let _ = stdin.write_all(bytes);
    drop(stdin);
    match answer.recv_timeout(CHILD_TIME_MAX) {
        Ok(read) => read.map_err(|e| gave_up(e.to_string())),
        Err(_) => Err(gave_up(format!("still compiling after {CHILD_TIME_MAX:?}"))),
    }
}

/// The hidden verb: what runs in the child.
pub fn child_main() -> ExitCode {
    match compile_stdin() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            let _ = write!(std::io::stderr(), "{message}");
            ExitCode::from(EXIT_REFUSED as u8)
        }
    }
}

fn compile_stdin() -> Result<(), String> {
    limit_ourselves().map_err(|e| e.to_string())?;
    let mut bytes = Vec::new();
    std::io::stdin().lock().take(CODE_BYTES_MAX).read_to_end(&mut bytes).map_err(|e| e.to_string())?;
    let engine = wasmtime::Engine::new(&configuration()).map_err(|e| format!("{e:#}"))?;
    let code = compile(&engine, &bytes).map_err(|refusal| match refusal {
        Refusal::Malformed { message } => message,
        other => other.to_string(),
    })?;
    std::io::stdout().lock().write_all(&code).map_err(|e| e.to_string())
}

/// Memory and CPU time are bounded, and the workers go first.
fn limit_ourselves() -> rustix::io::Result<()> {
    let at_most = |n| Rlimit { current: Some(n), maximum: Some(n) };
    setrlimit(Resource::As, at_most(CHILD_MEMORY_BYTES_MAX))?;
    setrlimit(Resource::Cpu, at_most(CHILD_CPU_SECONDS_MAX))?;
    setrlimit(Resource::Core, at_most(0))?;
    rustix::process::nice(CHILD_NICENESS)?;
    Ok(())
}

fn gave_up(message: String) -> Refusal {
    Refusal::Compiler { message }
}

/// The contract.
pub const WIT: &str = include_str!("../../../sdk/wit/policy.wit");
/// The verb of the program that compiles; not for people.
pub const CHILD_VERB: &str = "compile-component";
const EXIT_REFUSED: i32 = 1;
const CHILD_TIME_MAX: Duration = Duration::from_secs(120);
/// JavaScript, the dearest seen, takes 10 s and 316 MiB.
const CHILD_CPU_SECONDS_MAX: u64 = 100;
const CHILD_MEMORY_BYTES_MAX: u64 = 4 << 30;
const CHILD_NICENESS: i32 = 10;
const CODE_BYTES_MAX: u64 = 512 << 20;
const COMPLAINT_BYTES_MAX: u64 = 4096;
