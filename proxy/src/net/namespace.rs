//! Network namespaces: found, told apart, and entered for the length of one call.
//!
//! A socket belongs to the namespace of the thread that opened it, for ever; so a thread enters, opens what is needed
//! and goes back before anything else runs on it. Between two entries, every thread is in the process's own namespace.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _, RawFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Of this thread: the main thread's, which `/proc/self` tells of, may be elsewhere for a moment.
const OWN: &str = "/proc/thread-self/ns/net";
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
            .filter_map(|path| Self::open(&path).ok())
            // A process may have been there for a moment only, and others are there to stay.
            .find(|found| found.number == number)
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

    /// Does something in the namespace. Nothing else runs on this thread meanwhile, and it is back afterwards, also
    /// from a panic. What the work leaves running, such as a thread, stays inside. The work enters and opens no other
    /// namespace: which one is a thread's own is told from outside.
    pub fn enter<T>(&self, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        if self.is_own {
            return work();
        }
        let own = File::open(OWN)?;
        // Whoever may not come back does not go.
        move_into(&own)?;
        move_into(&self.file)?;
        let _back = Back(own);
        work()
    }
}

fn move_into(namespace: &File) -> io::Result<()> {
    Ok(move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?)
}

/// Leads this thread back into the namespace that it came from.
struct Back(File);

impl Drop for Back {
    fn drop(&mut self) {
        if let Err(error) = move_into(&self.0) {
            // The next thing that this thread did for somebody else would be done to a workload.
            let told = format!(
                "outrigger: a thread cannot leave a network namespace ({error}): please report this\n"
            );
            let _ = io::stderr().write_all(told.as_bytes());
            std::process::abort();
        }
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

    #[test]
    fn is_back_from_wherever_it_was() {
        let Some(other) = elsewhere() else {
            // In CI, a test that cannot run has failed.
            return assert!(!is_root() && std::env::var_os("CI").is_none(), "no namespace can be made");
        };
        let own = Namespace::own().unwrap().number();
        let inside = other.enter(|| Ok(Namespace::own()?.number())).unwrap();
        assert_eq!((inside, Namespace::own().unwrap().number()), (other.number(), own));
        let failed: io::Result<()> = other.enter(|| Err(io::ErrorKind::NotFound.into()));
        assert_eq!(
            (failed.unwrap_err().kind(), Namespace::own().unwrap().number()),
            (io::ErrorKind::NotFound, own)
        );
        let panicked = std::panic::catch_unwind(|| other.enter(|| -> io::Result<()> { panic!("inside") }));
        assert!(panicked.is_err() && Namespace::own().unwrap().number() == own);
    }

    fn is_root() -> bool {
        rustix::process::geteuid().is_root()
    }

    /// A namespace that a thread has made, and left with its end.
    fn elsewhere() -> Option<Namespace> {
        let apart = || {
            #[expect(deprecated, reason = "it is unsafe with CLONE_FILES alone, which we do not pass")]
            rustix::thread::unshare(rustix::thread::UnshareFlags::NEWNET).ok()?;
            let mut made = Namespace::own().ok()?;
            made.is_own = false;
            Some(made)
        };
        std::thread::spawn(apart).join().unwrap()
    }
}
