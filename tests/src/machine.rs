//! A machine for container runtimes: the network of a lab's node, and mounts of its own.
//!
//! Runtimes keep things in `/run`, `/etc` and `/var/lib`; here those are laid over with memory, so nothing of the real
//! machine is touched, and all of it goes with the test. A shell holds the mounts for as long as its input is open.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{IpAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::images::{self, IMAGE, SIDECAR, executable};
use crate::netlab::Lab;
use crate::netns::Host;
use crate::program::{Said, say};

const MOUNTS: &str = r#"
set -e
mount -t tmpfs tmpfs /run
for folder in etc var/lib; do
    mkdir -p /run/lay/$folder/upper /run/lay/$folder/work
    mount -t overlay overlay -o lowerdir=/$folder,upperdir=/run/lay/$folder/upper,workdir=/run/lay/$folder/work /$folder
done
mkdir -p /run/netns /etc/cni/net.d
mount -t tmpfs tmpfs /etc/cni/net.d
mount -t tmpfs tmpfs /opt
mkdir -p /opt/cni/bin
echo ready
read end
"#;
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub struct Machine {
    shell: Child,
}

impl Machine {
    pub fn new(node: &Host) -> Self {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", node.path().display()));
        command.args(["unshare", "--mount", "--propagation", "private", "sh", "-c", MOUNTS]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let missing = |error| panic!("nsenter: {error}; tests/run.sh installs what tests need");
        let mut shell = command.spawn().unwrap_or_else(missing);
        let mut line = String::new();
        BufReader::new(shell.stdout.take().expect("piped")).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n", "the mounts could not be made");
        Self { shell }
    }

    /// A program on this machine, in `/`.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--mount", "--net", "--target", &self.shell.id().to_string(), program]);
        command
    }

    pub fn run(&self, program: &str, arguments: &[&str]) -> Said {
        say(self.command(program).args(arguments))
    }

    /// Writes a file that only this machine has.
    pub fn write(&self, path: &str, text: &str) {
        let mut command = self.command("tee");
        let mut child = command.arg(path).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        child.stdin.take().expect("piped").write_all(text.as_bytes()).unwrap();
        assert!(child.wait().unwrap().success(), "{path}");
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // It reads to the end of its input.
        drop(self.shell.stdin.take());
        let _ = self.shell.wait();
    }
}

/// Podman on a machine, with everything of it in one folder.
#[derive(Debug)]
pub struct Podman<'a> {
    machine: &'a Machine,
    folder: PathBuf,
}

impl<'a> Podman<'a> {
    /// Its networks are by CNI, with our plugin and those of Debian.
    pub fn new(machine: &'a Machine, lab: &Lab) -> Self {
        let folder = lab.dir.path().join("podman");
        fs::create_dir_all(&folder).unwrap();
        let plugins = plugins(lab);
        // crun refuses hosts with both versions of cgroups; nothing here may depend on limits that the host cannot raise.
        let text = format!(
            "[engine]\nruntime = \"runc\"\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"file\"\n\
             [containers]\ndefault_ulimits = [\"nofile=4096:4096\", \"nproc=8192:8192\"]\nlog_driver = \"k8s-file\"\n\
             [network]\nnetwork_backend = \"cni\"\ncni_plugin_dirs = [\"{}\", \"{}\"]\n\
             network_config_dir = \"/etc/cni/net.d\"\n",
            plugins.display(),
            crate::cni::PLUGINS
        );
        fs::write(folder.join("containers.conf"), text).unwrap();
        Self { machine, folder }
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let words = self.inside(arguments);
        let mut command = self.machine.command(&words[0]);
        command.args(&words[1..]);
        command
    }

    /// What to execute on the machine.
    fn inside(&self, arguments: &[&str]) -> Vec<String> {
        let folder = self.folder.display();
        let configuration = format!("CONTAINERS_CONF={folder}/containers.conf");
        let root = format!("{folder}/root");
        let words = ["env", &configuration, "podman", "--root", &root, "--runroot", "/run/podman-root"];
        let words = words.iter().chain(&["--tmpdir", "/run/podman-tmp"]).chain(arguments);
        words.map(|word| (*word).to_owned()).collect()
    }

    pub fn say(&self, arguments: &[&str]) -> Said {
        say(&mut self.command(arguments))
    }

    #[track_caller]
    pub fn ok(&self, arguments: &[&str]) -> String {
        self.say(arguments).expect_ok(&format!("podman {arguments:?}")).out.trim().to_owned()
    }

    pub fn image(&self) {
        self.build(IMAGE, &images::web(&self.folder));
    }

    pub fn sidecar_image(&self) {
        self.build(SIDECAR, &images::sidecar(&self.folder));
    }

    pub fn pause_image(&self, name: &str) {
        self.build(name, &images::pause(&self.folder));
    }

    fn build(&self, name: &str, folder: &Path) {
        self.ok(&["build", "--quiet", "--tag", name, folder.to_str().unwrap()]);
    }

    /// A program that is `podman` as here, for others to call.
    pub fn wrapper(&self) -> PathBuf {
        let path = self.folder.join("podman");
        let command = self.inside(&[]);
        let words: Vec<String> = command.iter().map(|word| format!("'{word}'")).collect();
        executable(&path, &format!("#!/bin/sh\nexec {} \"$@\"\n", words.join(" ")));
        path
    }
}

impl Drop for Podman<'_> {
    fn drop(&mut self) {
        // Twice: of a container whose keeper was killed, the first learns that it does not run.
        let _ = self.command(&["pod", "rm", "--force", "--time=0", "--all"]).output();
        for _ in 0..2 {
            let _ = self.command(&["rm", "--force", "--time=0", "--all"]).output();
        }
        remove_cgroups("libpod_parent");
    }
}

/// What the kernel says of a container's first process.
#[derive(Debug)]
pub struct Status {
    pub uid: String,
    /// Those in effect, as hexadecimal digits.
    pub capabilities: String,
}

impl Status {
    #[track_caller]
    pub fn of(podman: &Podman<'_>, container: &str) -> Self {
        Self::of_process(&podman.ok(&["inspect", "--format", "{{.State.Pid}}", container]))
    }

    #[track_caller]
    pub fn of_process(process: &str) -> Self {
        let text = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)).expect("every process has it");
            line.split_whitespace().next().unwrap().to_owned()
        };
        Self { uid: field("Uid:"), capabilities: field("CapEff:") }
    }
}

/// What a runtime has left of this name below each controller, as far as nothing is in it.
pub fn remove_cgroups(name: &str) {
    let entries = |folder: &Path| -> Vec<PathBuf> {
        fs::read_dir(folder).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path())).collect()
    };
    let root = Path::new("/sys/fs/cgroup");
    for folder in entries(root).iter().chain([&root.to_owned()]).map(|controller| controller.join(name)) {
        let inside = entries(&folder).into_iter().filter(|path| path.is_dir());
        inside.for_each(|child| drop(fs::remove_dir(child)));
        let _ = fs::remove_dir(folder);
    }
}

/// A folder in which our program has the name of a plugin.
pub fn plugins(lab: &Lab) -> PathBuf {
    let folder = lab.dir.path().join("plugins");
    if !folder.exists() {
        fs::create_dir_all(&folder).unwrap();
        std::os::unix::fs::symlink(crate::program::outrigger(), folder.join("outrigger")).unwrap();
    }
    folder
}

/// Who the container's web server sees asking, if there is a way.
pub fn ask_web(from: &Host, address: impl Into<IpAddr>, port: u16) -> Option<String> {
    let to = (address.into(), port).into();
    from.enter(|| {
        let mut stream = TcpStream::connect_timeout(&to, ANSWER_WITHIN).ok()?;
        stream.set_read_timeout(Some(ANSWER_WITHIN)).unwrap();
        stream.write_all(b"GET /cgi-bin/who HTTP/1.0\r\n\r\n").ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        let body = text.split_once("\r\n\r\n").or(text.split_once("\n\n"))?.1.trim().to_owned();
        // As it writes IPv4 on a socket of both families.
        Some(body.trim_start_matches('[').trim_start_matches("::ffff:").trim_end_matches(']').to_owned())
    })
}
