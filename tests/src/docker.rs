//! Docker on a machine: its daemon, and containerd below it. What they keep is in the test's folder, the rest in the
//! machine's `/run`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use crate::machine::{Machine, remove_cgroups};
use crate::netlab::Lab;
use crate::program::{self, Said, say};
use crate::wait;

const SOCKET: &str = "unix:///run/docker.sock";

#[derive(Debug)]
pub struct Docker<'a> {
    machine: &'a Machine,
    daemon: Child,
    folder: PathBuf,
    cgroups: String,
}

impl<'a> Docker<'a> {
    /// Its firewall is in the namespace of the machine. It has no network before one is made.
    pub fn new(machine: &'a Machine, lab: &Lab) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let cgroups = format!("outrigger-docker-{}-{}", std::process::id(), COUNT.fetch_add(1, Relaxed));
        let folder = lab.dir.path().join("docker");
        fs::create_dir_all(&folder).unwrap();
        // Not that of the machine that the tests run on.
        let config = folder.join("daemon.json");
        fs::write(&config, "{}").unwrap();
        let mut command = with_programs(machine, "dockerd");
        command.arg("--config-file").arg(config);
        command.args(["--host", SOCKET, "--exec-root=/run/docker", "--pidfile=/run/docker.pid"]);
        // The driver that works on any file system, also on those that are layers themselves.
        command.args(["--bridge=none", "--storage-driver=vfs", "--cgroup-parent", &cgroups, "--data-root"]);
        command.arg(&folder).stdout(Stdio::null()).stderr(fs::File::create(folder.join("log")).unwrap());
        let missing = |error| panic!("dockerd: {error}; tests/run.sh unpacks it");
        let docker = Self { machine, daemon: command.spawn().unwrap_or_else(missing), folder, cgroups };
        let serves = || docker.say(&["version"]).ok().then_some(());
        if wait::at_most(wait::WAIT_MAX, serves).is_none() {
            panic!("dockerd does not serve: {}", fs::read_to_string(docker.folder.join("log")).unwrap());
        }
        docker
    }

    pub fn say(&self, arguments: &[&str]) -> Said {
        let mut command = with_programs(self.machine, "docker");
        command.arg("--config").arg(&self.folder);
        say(command.args(["--host", SOCKET]).args(arguments))
    }

    #[track_caller]
    pub fn ok(&self, arguments: &[&str]) -> String {
        self.say(arguments).expect_ok(&format!("docker {arguments:?}")).out.trim().to_owned()
    }

    pub fn build(&self, name: &str, context: &Path) {
        let file = context.join("Containerfile");
        let (file, context) = (file.to_str().unwrap(), context.to_str().unwrap());
        self.ok(&["build", "--quiet", "--tag", name, "--file", file, context]);
    }
}

impl Drop for Docker<'_> {
    fn drop(&mut self) {
        let containers = self.say(&["ps", "--all", "--quiet"]).out;
        for container in containers.lines() {
            self.say(&["rm", "--force", container]);
        }
        let daemon = rustix::process::Pid::from_child(&self.daemon);
        // Asked to end, it takes its containerd along.
        let _ = rustix::process::kill_process(daemon, rustix::process::Signal::TERM);
        let _ = self.daemon.wait();
        remove_cgroups(&self.cgroups);
    }
}

/// A program of Docker's, which finds the others where `tests/run.sh` has unpacked them.
fn with_programs(machine: &Machine, program: &str) -> Command {
    let unpacked = program::clients().join("docker/usr");
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = machine.command("env");
    // There is no builder beside the daemon's own.
    command.arg("DOCKER_BUILDKIT=0");
    command.arg(format!("PATH={0}/bin:{0}/sbin:{path}:/usr/sbin", unpacked.display())).arg(program);
    command
}
