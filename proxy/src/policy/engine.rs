//! The one Wasm engine of the process: how policies are compiled, linked and kept in time.
//!
//! Cloning shares it. Its thread ends with the last clone; compiled policies and instances hold one each.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use thiserror::Error;
use wasmtime::component::{Component, HasSelf, Linker};
use wasmtime::{Config, OptLevel};

use super::bindings::{env, request, stats, types};
use super::cache::{Cache, deserialize};
use super::compiled::{Compiled, Provenance};
use super::compiler;
use super::direct;
use super::epoch::{Epoch, Pulse};
use super::host::HostState;
use super::inspect::inspect;
use super::refusal::Refusal;
use crate::config::PolicyHost;
use crate::snapshot::Digest;

/// Compiles policies and keeps them in check.
#[derive(Clone)]
pub struct Engine {
    shared: Arc<Shared>,
}

struct Shared {
    wasmtime: wasmtime::Engine,
    linker: Linker<HostState>,
    core_linker: wasmtime::Linker<HostState>,
    host: PolicyHost,
    cache: Option<Cache>,
    /// The program that compiles; `None` compiles in this process.
    compiler: Option<PathBuf>,
    epoch: Epoch,
}

/// The engine cannot be made at all: a fault of this build or machine.
#[derive(Debug, Error)]
pub enum EngineError {
    #[error("the Wasm engine does not start: {0}")]
    Engine(String),
    #[error("the epoch thread does not start: {0}")]
    Thread(#[from] std::io::Error),
}

impl Engine {
    pub fn new(host: &PolicyHost) -> Result<Self, EngineError> {
        Self::make(host, None)
    }

    /// Compiles by running `program compile-component`, so that a hostile or huge component costs this process
    /// neither memory nor its life.
    pub fn with_compiler_child(host: &PolicyHost, program: PathBuf) -> Result<Self, EngineError> {
        Self::make(host, Some(program))
    }

    fn make(host: &PolicyHost, compiler: Option<PathBuf>) -> Result<Self, EngineError> {
        let wasmtime = wasmtime::Engine::new(&configuration()).map_err(failed)?;
        let linker = linker(&wasmtime).map_err(failed)?;
        let core_linker = direct::linker(&wasmtime).map_err(failed)?;
        let epoch = Epoch::start(wasmtime.weak())?;
        let cache = host.cache_dir.as_deref().and_then(|dir| Cache::open(dir, &wasmtime));
        let host = host.clone();
        Ok(Self { shared: Arc::new(Shared { wasmtime, linker, core_linker, host, cache, compiler, epoch }) })
    }

    /// From bytes to something that can be instantiated. Blocks while compiling: call it off the workers and off the
    /// control loop.
    pub fn load(&self, bytes: &[u8]) -> Result<Arc<Compiled>, Refusal> {
        let max = self.shared.host.component_bytes_max;
        if bytes.len() > max {
            return Err(Refusal::TooLarge { bytes: bytes.len(), max });
        }
        let inspection = inspect(bytes)?;
        inspection.admit()?;
        let digest = Digest::of(bytes);
        let start = Instant::now();
        let cached = self.shared.cache.as_ref().and_then(|cache| cache.read(&self.shared.wasmtime, digest));
        let from_cache = cached.is_some();
        let (component, code_bytes) = match cached {
            Some(found) => found,
            None => self.compile(bytes, digest)?,
        };
        let how = Provenance { wasm_bytes: bytes.len(), code_bytes, load_time: start.elapsed(), from_cache };
        Ok(Arc::new(Compiled::new(self, digest, &component, &inspection, how)?))
    }

    fn compile(&self, bytes: &[u8], digest: Digest) -> Result<(Component, usize), Refusal> {
        let wasmtime = &self.shared.wasmtime;
        let code = match &self.shared.compiler {
            Some(program) => compiler::compile_in_child(program, bytes)?,
            None => compiler::compile(wasmtime, bytes)?,
        };
        let component =
            deserialize(wasmtime, &code).map_err(|e| Refusal::Compiler { message: format!("{e:#}") })?;
        if let Some(cache) = &self.shared.cache {
            cache.write(digest, &code);
        }
        Ok((component, code.len()))
    }

    pub(super) fn wasmtime(&self) -> &wasmtime::Engine {
        &self.shared.wasmtime
    }

    pub(super) fn linker(&self) -> &Linker<HostState> {
        &self.shared.linker
    }

    pub(super) fn core_linker(&self) -> &wasmtime::Linker<HostState> {
        &self.shared.core_linker
    }

    pub(super) fn host(&self) -> &PolicyHost {
        &self.shared.host
    }

    pub(super) fn pulse(&self) -> Pulse {
        self.shared.epoch.pulse()
    }
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").field("host", &self.shared.host).finish_non_exhaustive()
    }
}

/// The same in the proxy and in its compiler child: code is exchanged between them.
pub(super) fn configuration() -> Config {
    let mut config = Config::new();
    config
        .cranelift_opt_level(OptLevel::Speed)
        // Off also where a dependency has switched the feature on: it makes a call three times as dear.
        .concurrency_support(false)
        .epoch_interruption(true)
        // Replays give the same picks on any machine.
        .cranelift_nan_canonicalization(true)
        .wasm_relaxed_simd(false)
        .wasm_memory64(false)
        .max_wasm_stack(STACK_BYTES)
        // Traps name functions, not offsets; the code is smaller.
        .generate_address_map(false);
    config
}

/// Everything a policy may import, for all worlds.
fn linker(engine: &wasmtime::Engine) -> wasmtime::Result<Linker<HostState>> {
    let mut linker = Linker::new(engine);
    types::add_to_linker::<_, HasSelf<HostState>>(&mut linker, |state| state)?;
    request::add_to_linker::<_, HasSelf<HostState>>(&mut linker, |state| state)?;
    stats::add_to_linker::<_, HasSelf<HostState>>(&mut linker, |state| state)?;
    env::add_to_linker::<_, HasSelf<HostState>>(&mut linker, |state| state)?;
    Ok(linker)
}

#[expect(clippy::needless_pass_by_value, reason = "fits map_err")]
fn failed(error: wasmtime::Error) -> EngineError {
    EngineError::Engine(format!("{error:#}"))
}

/// Of a guest's stack. Guests run on the worker's own stack, which is larger.
const STACK_BYTES: usize = 256 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    /// Feature unification with another crate may bring it back, at three times the price of a call.
    #[test]
    fn concurrency_support_is_off() {
        let engine = wasmtime::Engine::new(&configuration()).expect("engine");
        assert!(!engine.get_concurrency_support());
        assert!(engine.get_epoch_interruption());
    }
}
