//! How a policy can be turned down: a `Refusal` when it is loaded or prepared, a `Failure` when it is called.
//!
//! Both speak to the policy's author: what was wrong, and what to do about it.

use std::fmt;

use thiserror::Error;

/// Why a policy does not come into force. What served before goes on serving.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Refusal {
    #[error("not WebAssembly: the file does not begin with \\0asm. Build one with `outrigger policy build`")]
    NotWasm,
    #[error("not valid WebAssembly (is the file whole?): {message}")]
    Malformed { message: String },
    #[error(
        "a core module that does not say which world it implements. Build it against the SDK, or name the world: \
         `outrigger policy build --embed-world load-balancer FILE`"
    )]
    NoWorld,
    #[error("imports `{name}`, which policies do not get. {remedy}")]
    ForeignImport { name: String, remedy: &'static str },
    #[error("exports neither `outrigger:policy/balancer@0.1` nor `outrigger:policy/router@0.1`, but {}", listed(.exports))]
    WrongWorld { exports: Vec<String> },
    #[error("does not fit the contract: {message}. Build it against the WIT of this version of Outrigger")]
    Mismatch { message: String },
    #[error(
        "{bytes} bytes, of which {max} are allowed. Build with optimisation and without symbols, or raise `component_bytes_max`"
    )]
    TooLarge { bytes: usize, max: usize },
    #[error("{message}")]
    Configuration { message: String },
    #[error("failed to start: {failure}")]
    FailedToStart { failure: Failure },
    #[error("used as a {wanted}, but is only a {is}")]
    WrongRole { wanted: &'static str, is: &'static str },
    #[error("the compiler gave up: {message}")]
    Compiler { message: String },
}

/// How a call into a policy went wrong. The instance is finished: drop it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub kind: FailureKind,
    /// Names the function of the contract and, where the component has names, the place inside the guest.
    pub message: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FailureKind {
    /// The guest trapped: a panic, a bad index given to the host, a stack overflow.
    Trap,
    /// The call used up its CPU time.
    Deadline,
    /// The guest asked for more memory than it may have.
    Memory,
    /// The call ended, but its answer is out of range or invalid.
    Nonsense,
}

impl FailureKind {
    /// As metrics have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Trap => "trap",
            Self::Deadline => "deadline",
            Self::Memory => "memory",
            Self::Nonsense => "nonsense",
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind.name(), self.message)
    }
}

impl std::error::Error for Failure {}

impl Failure {
    pub(super) fn nonsense(call: &str, message: impl fmt::Display) -> Self {
        Self { kind: FailureKind::Nonsense, message: format!("{call}: {message}") }
    }

    /// A call after one that failed half-way.
    #[cold]
    pub(super) fn poisoned(call: &str) -> Self {
        Self { kind: FailureKind::Trap, message: format!("{call}: the instance has failed before") }
    }

    /// From what wasmtime returned for a call that did not end well.
    pub(super) fn of_call(call: &str, error: &wasmtime::Error) -> Self {
        let (kind, cause) = if let Some(limit) = error.downcast_ref::<MemoryLimit>() {
            (FailureKind::Memory, limit.to_string())
        } else if let Some(deadline) = error.downcast_ref::<DeadlineExceeded>() {
            (FailureKind::Deadline, deadline.to_string())
        } else {
            (FailureKind::Trap, error.root_cause().to_string())
        };
        let place = place(error).map(|at| format!(", in `{at}`")).unwrap_or_default();
        Self { kind, message: format!("{call}: {cause}{place}") }
    }
}

/// The guest's function that was running, if the component has kept its names.
fn place(error: &wasmtime::Error) -> Option<String> {
    let frames = error.downcast_ref::<wasmtime::WasmBacktrace>()?.frames();
    let names = frames.iter().filter_map(wasmtime::FrameInfo::func_name);
    // The innermost frames of a Rust panic are the panic's own machinery.
    let name = names.into_iter().find(|n| !n.contains("rust_panic") && !n.contains("panicking"))?;
    Some(name.chars().take(NAME_CHARS_MAX).collect())
}

/// Raised by the store's limiter, and recognised here.
#[derive(Debug, Clone, Copy, Error)]
#[error("asked for {wanted} bytes of memory, of which {max} are allowed")]
pub(super) struct MemoryLimit {
    pub(super) wanted: usize,
    pub(super) max: usize,
}

/// Raised by the store's epoch callback, and recognised here.
#[derive(Debug, Clone, Copy, Error)]
#[error("still running after {budget:?} of CPU time")]
pub(super) struct DeadlineExceeded {
    pub(super) budget: std::time::Duration,
}

fn listed(names: &[String]) -> String {
    if names.is_empty() { "nothing at all".to_owned() } else { format!("`{}`", names.join("`, `")) }
}

/// Mangled names can be very long.
const NAME_CHARS_MAX: usize = 200;
