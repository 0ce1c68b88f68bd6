//! The program under test, and other tools that tests call.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

/// What a program has said at its end.
#[derive(Debug)]
pub struct Said {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Said {
    pub fn ok(&self) -> bool {
        self.code == Some(0)
    }

    /// Panics with all it said unless it ended well.
    #[track_caller]
    pub fn expect_ok(self, what: &str) -> Self {
        assert!(self.ok(), "{what}: {self:#?}");
        self
    }
}

/// `OUTRIGGER_BIN`, or the release build, made once.
pub fn outrigger() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| match std::env::var_os("OUTRIGGER_BIN") {
        Some(path) => PathBuf::from(path),
        None => build(),
    })
}

fn build() -> PathBuf {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    let said = say(command.current_dir(root()).args(["build", "--release", "-p", "outrigger"]));
    said.expect_ok("cargo build");
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    root().join(target).join("release/outrigger")
}

/// The repository.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the repository")
}

/// Where `tests/run.sh` puts what clients by others need.
pub fn clients() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    root().join(target).join("clients")
}

/// Runs `outrigger` to its end.
pub fn run(arguments: &[&str], dir: &Path) -> Said {
    say(Command::new(outrigger()).args(arguments).current_dir(dir))
}

/// Runs a tool to its end. That it is missing is an error: `tests/run.sh` installs what is needed.
pub fn tool(name: &str, arguments: &[&str], dir: &Path) -> Said {
    say(Command::new(name).args(arguments).current_dir(dir))
}

pub fn say(command: &mut Command) -> Said {
    let output = command.output();
    let missing = |error| panic!("{command:?}: {error}; tests/run.sh installs what tests need");
    let Output { status, stdout, stderr } = output.unwrap_or_else(missing);
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Said { code: status.code(), out: text(stdout), err: text(stderr) }
}
