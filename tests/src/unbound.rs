//! A real unbound, as a resolver that is asked over TLS.

use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use crate::authority::Identity;
use crate::wait;

/// Killed when it is dropped.
#[derive(Debug)]
pub struct Unbound {
    dir: TempDir,
    pub address: SocketAddr,
    child: Child,
}

impl Unbound {
    /// Knows `NAME A ADDRESS` for each of these, and speaks TLS alone.
    pub fn start(identity: &Identity, records: &[&str]) -> Self {
        let dir = TempDir::new().unwrap();
        // Taken by another in the meantime, it would not start, and the test would say so.
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let data: String = records.iter().map(|record| format!("  local-data: \"{record}\"\n")).collect();
        let (port, cert, key) = (address.port(), identity.cert_file.display(), identity.key_file.display());
        let config = format!(
            "server:\n  interface: 127.0.0.1@{port}\n  tls-port: {port}\n  tls-service-pem: \"{cert}\"\n  \
             tls-service-key: \"{key}\"\n  do-daemonize: no\n  use-syslog: no\n  username: \"\"\n  chroot: \"\"\n  \
             pidfile: \"\"\n  directory: \"{}\"\n  num-threads: 1\n  local-zone: \"example.\" static\n{data}\
             remote-control:\n  control-enable: no\n",
            dir.path().display()
        );
        fs::write(dir.path().join("unbound.conf"), config).unwrap();
        let log = File::create(dir.path().join("log")).unwrap();
        let child = Command::new("unbound")
            .args(["-d", "-c"])
            .arg(dir.path().join("unbound.conf"))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("unbound: {error}; tests/run.sh installs it"));
        let mut unbound = Self { dir, address, child };
        wait::until_true("unbound to listen", || {
            let ended = unbound.child.try_wait().unwrap();
            assert!(ended.is_none(), "{}", fs::read_to_string(unbound.dir.path().join("log")).unwrap());
            TcpStream::connect(address).is_ok()
        });
        unbound
    }
}

impl Drop for Unbound {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
