//! A wall clock that a test sets while a program runs: libfaketime answers for the system in that process alone. The
//! clock that only counts (`CLOCK_MONOTONIC`) goes on as it is, as it does when an administrator sets the time.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

/// In the folder of Debian's package `libfaketime`, below the folder of the machine's kind.
const LIBRARY: &str = "faketime/libfaketimeMT.so.1";

/// Right at first.
#[derive(Debug)]
pub struct WallClock {
    dir: TempDir,
}

impl Default for WallClock {
    fn default() -> Self {
        Self::new()
    }
}

impl WallClock {
    pub fn new() -> Self {
        let clock = Self { dir: TempDir::new().unwrap() };
        clock.set(0);
        clock
    }

    /// So many hours after the true time, or before it.
    pub fn set(&self, hours: i64) {
        let beside = self.dir.path().join("offset.new");
        fs::write(&beside, format!("{hours:+}h\n")).unwrap();
        fs::rename(beside, self.offset()).unwrap();
    }

    /// What a program is started with to live by this clock.
    pub fn environment(&self) -> Vec<(String, OsString)> {
        let fields: [(&str, OsString); 6] = [
            ("LD_PRELOAD", library().into()),
            ("FAKETIME_TIMESTAMP_FILE", self.offset().into()),
            ("FAKETIME_NO_CACHE", "1".into()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".into()),
            ("DONT_FAKE_MONOTONIC", "1".into()),
            ("NO_FAKE_STAT", "1".into()),
        ];
        fields.map(|(name, value)| (name.to_owned(), value)).into()
    }

    fn offset(&self) -> PathBuf {
        self.dir.path().join("offset")
    }
}

fn library() -> PathBuf {
    let below = |folder: &Path| folder.join(LIBRARY);
    let kinds = fs::read_dir("/usr/lib").into_iter().flatten().filter_map(Result::ok);
    let found = kinds.map(|kind| below(&kind.path())).find(|library| library.exists());
    found.unwrap_or_else(|| panic!("{LIBRARY} is missing; tests/run.sh installs it"))
}
