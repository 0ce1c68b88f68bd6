//! Network namespaces: found, told apart, and entered by threads that are thrown away.
//!
//! A socket belongs to the namespace of the thread that opened it, for ever; so a thread enters, opens what is needed,
//! hands it over and ends. No thread of a runtime ever changes its namespace.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, RawFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

const OWN: &str = "/proc/self/ns/net";
/// Namespaces are files of this filesystem.
const NSFS_MAGIC: i64 = 0x6e73_6673;

/// A namespace that stays for as long as this is held.
#[derive(Debug)]
pub struct Namespace {
    file: File,
    number: u64,
    is_own: bool,
}

impl Namespace {
    /// The one that this process is in.
    pub fn own() -> io::Result<Self> {
        let mut own = Self::read(Path::new(OWN))?;
        own.is_own = true;
        Ok(own)
    }

    pub fn open(path: &Path) -> io::Result<Self> {
        let mut found = Self::read(path)?;
        found.is_own = found.number == fs::metadata(OWN)?.ino();
        Ok(found)
    }

    fn read(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        if rustix::fs::fstatfs(&file)?.f_type as i64 != NSFS_MAGIC {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a namespace"));
        }
        let number = file.metadata()?.ino();
        Ok(Self { file, number, is_own: false })
    }

    /// The namespace with this number, if a process is in it.
    pub fn find(number: u64) -> Option<Self> {
        let processes = fs::read_dir("/proc").ok()?.filter_map(Result::ok);
        let is_process =
            |name: &std::ffi::OsStr| name.to_str().is_some_and(|name| name.parse::<u32>().is_ok());
        processes
            .filter(|entry| is_process(&entry.file_name()))
            .map(|entry| entry.path().join("ns/net"))
            .filter(|path| fs::metadata(path).is_ok_and(|found| found.ino() == number))
            .find_map(|path| Self::open(&path).ok())
            .filter(|found| found.number == number)
    }

    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { file: self.file.try_clone()?, ..*self })
    }

    /// The kernel's number for it. A number is given again when its namespace has gone.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// It is the one that this process is in.
    pub fn is_own(&self) -> bool {
        self.is_own
    }

    pub fn descriptor(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    /// Does something in the namespace, on a thread of its own.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
        if self.is_own {
            return work();
        }
        let namespace = self.file.as_fd();
        let inside = || {
            move_into_link_name_space(namespace, Some(LinkNameSpaceType::Network))?;
            work()
        };
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name("namespace".into()).spawn_scoped(scope, inside)?;
            thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread in the namespace has failed")))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_its_own_and_refuses_what_is_none() {
        let own = Namespace::own().unwrap();
        assert!(Namespace::open(Path::new(OWN)).unwrap().is_own());
        assert_eq!(Namespace::find(own.number()).unwrap().number(), own.number());
        assert_eq!(
            Namespace::open(Path::new("/proc/self/status")).unwrap_err().kind(),
            io::ErrorKind::InvalidInput
        );
        assert!(Namespace::find(1).is_none());
    }
}
