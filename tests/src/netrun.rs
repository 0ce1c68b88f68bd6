//! `outrigger net run` on a host of its own: started, asked, signalled, and killed when it is dropped.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::client::Client;
use crate::metrics::Metrics;
use crate::netns::Host;
use crate::program::{self, Said, say};
use crate::wait;

#[derive(Debug)]
pub struct Running {
    host: Host,
    child: Child,
    log: PathBuf,
    ready: PathBuf,
}

impl Running {
    /// With this file; store, log and ready-file are in the folder.
    pub fn start(host: &Host, file: &Path, folder: &Path) -> Self {
        let (log, ready) = (folder.join("run.log"), folder.join("ready"));
        // Of one that was killed.
        let _ = fs::remove_file(&ready);
        let mut command = host.command(program::outrigger().to_str().unwrap());
        command.args(["net", "run"]).arg(file).arg("--state").arg(folder.join("state"));
        command.args(["--listen", "127.0.0.1:0", "--ready-file"]).arg(&ready);
        let output = File::options().create(true).append(true).open(&log).unwrap();
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(output);
        let child = command.spawn().expect("`ip`; tests/run.sh installs it");
        Self { host: host.clone(), child, log, ready }
    }

    /// Waits until the file is in force.
    pub fn until_ready(mut self) -> Self {
        wait::until_true("the network to be ready", || {
            let ended = self.child.try_wait().unwrap();
            assert!(ended.is_none(), "{ended:?}: {}", self.log());
            self.ready.exists()
        });
        self
    }

    fn admin(&self) -> SocketAddr {
        let ready: Value = serde_json::from_str(&fs::read_to_string(&self.ready).unwrap()).unwrap();
        ready["admin"].as_str().unwrap().parse().unwrap()
    }

    /// Status and body of what it answers.
    pub fn ask(&self, path: &str) -> (u16, String) {
        let address = self.admin();
        let answer = self.host.enter(|| {
            let mut client = Client::try_connect(address).unwrap();
            client.try_send(format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n"));
            client.try_answer("GET").unwrap()
        });
        (answer.status, answer.text())
    }

    pub fn metrics(&self) -> Metrics {
        let (status, text) = self.ask("/metrics");
        assert_eq!(status, 200, "{text}");
        Metrics::parse(&text)
    }

    /// What it says is wrong now.
    pub fn troubles(&self) -> String {
        self.ask("/ready").1
    }

    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    pub fn signal(&self, signal: Signal) {
        let id = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).expect("a process id");
        kill_process(id, signal).unwrap();
    }

    /// Ends it in order.
    pub fn stop(mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.child.wait().unwrap()
    }

    /// Its end comes without warning.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// The exit code and what it said, of one that ends by itself.
    pub fn end(mut self) -> (Option<i32>, String) {
        let code = self.child.wait().unwrap().code();
        (code, self.log())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How long it takes until this holds; the test fails if it never does.
pub fn time_until(what: &str, holds: impl FnMut() -> bool) -> Duration {
    let start = Instant::now();
    wait::until_true(what, holds);
    start.elapsed()
}

/// A tool on a host, to a good end.
#[track_caller]
pub fn tool(host: &Host, words: &[&str]) -> Said {
    let (program, arguments) = words.split_first().expect("a command");
    let mut command: Command = host.command(program);
    say(command.args(arguments)).expect_ok(&words.join(" "))
}

/// Whether our table is in a namespace.
pub fn has_table(host: &Host) -> bool {
    say(host.command("nft").args(["list", "table", "inet", "outrigger"])).ok()
}
