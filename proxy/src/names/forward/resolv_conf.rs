//! The system's list of resolvers, `/etc/resolv.conf`: read leniently, as the C library does, and again when it changes.
//!
//! Nobody is told of changes here: `Watched::changed` looks, at most once a second, when somebody is about to ask
//! upstream. Invariant: a file that is gone, unreadable or without a resolver changes nothing.

use std::cell::{Cell, RefCell};
use std::fs;
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// The C library takes three.
const SERVERS_MAX: usize = 8;
const FILE_BYTES_MAX: u64 = 64 * 1024;
const LOOK_EVERY_MS: u64 = 1_000;
const PORT: u16 = 53;

/// What such a file says, as far as a forwarder wants to know.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct ResolvConf {
    pub(crate) servers: Vec<SocketAddr>,
    /// `options use-vc`: over TCP always.
    pub(crate) tcp: bool,
}

impl ResolvConf {
    pub(crate) fn parse(text: &str) -> Self {
        let mut found = Self::default();
        for line in text.lines() {
            let mut words = line.split_ascii_whitespace();
            match words.next() {
                Some("nameserver") => {
                    let server = words.next().and_then(server);
                    let is_new = server.filter(|server| !found.servers.contains(server));
                    found.servers.extend(is_new.filter(|_| found.servers.len() < SERVERS_MAX));
                }
                Some("options") => found.tcp |= words.any(|word| word == "use-vc"),
                _ => {}
            }
        }
        found
    }
}

/// An address, with the interface behind it where it is local to a link.
fn server(text: &str) -> Option<SocketAddr> {
    let Some((address, interface)) = text.split_once('%') else {
        return Some(SocketAddr::new(text.parse().ok()?, PORT));
    };
    let address: Ipv6Addr = address.parse().ok()?;
    let scope = interface.parse().ok().or_else(|| interface_index(interface))?;
    Some(SocketAddrV6::new(address, PORT, 0, scope).into())
}

fn interface_index(name: &str) -> Option<u32> {
    // A name is one component of a path, or it names no interface.
    let path = Path::new("/sys/class/net").join(Path::new(name).file_name()?).join("ifindex");
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// A file that may change.
#[derive(Debug)]
pub(crate) struct Watched {
    path: PathBuf,
    seen: Cell<Option<Stamp>>,
    looked_ms: Cell<u64>,
    last: RefCell<ResolvConf>,
}

/// What differs after a change, as good as always.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    modified: (i64, i64),
    bytes: u64,
    inode: u64,
}

impl Watched {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self {
            path,
            seen: Cell::new(None),
            looked_ms: Cell::new(0),
            last: RefCell::new(ResolvConf::default()),
        }
    }

    /// What the file says now, if that is new.
    pub(crate) fn changed(&self, now_ms: u64) -> Option<ResolvConf> {
        if self.looked_ms.get() != 0 && now_ms < self.looked_ms.get() + LOOK_EVERY_MS {
            return None;
        }
        self.looked_ms.set(now_ms);
        let stamp = Stamp::of(&self.path)?;
        if self.seen.replace(Some(stamp)) == Some(stamp) {
            return None;
        }
        let found = ResolvConf::parse(&read(&self.path, stamp)?);
        if found.servers.is_empty() {
            // Often it is just being written.
            tracing::warn!(file = %self.path.display(), "no `nameserver` in it; the resolvers stay as they were");
            return None;
        }
        let is_new = *self.last.borrow() != found;
        self.last.replace(found.clone());
        is_new.then_some(found)
    }
}

impl Stamp {
    fn of(path: &Path) -> Option<Self> {
        let metadata = fs::metadata(path).ok()?;
        Some(Self {
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            bytes: metadata.size(),
            inode: metadata.ino(),
        })
    }
}

fn read(path: &Path, stamp: Stamp) -> Option<String> {
    if stamp.bytes > FILE_BYTES_MAX {
        tracing::warn!(file = %path.display(), "it is larger than any list of resolvers; it is not read");
        return None;
    }
    match fs::read(path) {
        Ok(bytes) => Some(String::from_utf8_lossy(&bytes).into_owned()),
        Err(error) => {
            tracing::warn!(file = %path.display(), %error, "cannot be read; the resolvers stay as they were");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn servers(text: &str) -> Vec<String> {
        ResolvConf::parse(text).servers.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn it_is_read_as_the_c_library_reads_it() {
        let text = "# nameserver 1.1.1.1\n; nameserver 2.2.2.2\nsearch a.example b.example\n\
                    nameserver\t10.0.0.53 # comment\nnameserver fd00::53\nnameserver not-an-address\n\
                    nameserver 10.0.0.53\n nameserver 127.0.0.11\nnameserver fe80::1%1\noptions ndots:5 use-vc\n";
        assert_eq!(servers(text), ["10.0.0.53:53", "[fd00::53]:53", "127.0.0.11:53", "[fe80::1%1]:53"]);
        assert!(ResolvConf::parse(text).tcp);
        assert!(!ResolvConf::parse("options rotate\n").tcp);
        assert_eq!(servers("nameserver fe80::1%no-such-interface\n"), [""; 0]);
        let many: String = (0..20).map(|n| format!("nameserver 10.0.0.{n}\n")).collect();
        assert_eq!(servers(&many).len(), SERVERS_MAX);
    }

    #[test]
    fn changes_are_seen_and_mistakes_change_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("resolv.conf");
        let watched = Watched::new(path.clone());
        assert_eq!(watched.changed(1), None, "there is no file");
        fs::write(&path, "nameserver 10.0.0.1\n").unwrap();
        assert_eq!(watched.changed(500), None, "looked a moment ago");
        assert_eq!(watched.changed(1_001).unwrap().servers[0].to_string(), "10.0.0.1:53");
        assert_eq!(watched.changed(3_000), None, "as before");
        fs::write(&path, "# being written").unwrap();
        assert_eq!(watched.changed(5_000), None);
        // Swapped in whole, as most programs do it.
        fs::write(dir.path().join("new"), "nameserver 10.0.0.1\nsearch example\n").unwrap();
        fs::rename(dir.path().join("new"), &path).unwrap();
        assert_eq!(watched.changed(7_000), None, "the same resolvers");
        fs::write(&path, "nameserver 10.0.0.2\n").unwrap();
        assert_eq!(watched.changed(9_000).unwrap().servers[0].to_string(), "10.0.0.2:53");
        fs::remove_file(&path).unwrap();
        assert_eq!(watched.changed(11_000), None);
    }
}
