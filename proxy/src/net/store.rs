//! What we made and gave away, on disk: the one place from which `undo`, `status` and a run after a crash know.
//!
//! A run writes down what it is about to make before the first change, and what it has made after the last. Each write
//! is a whole new file, synchronised and put in the place of the old one; so after a crash there is the one or the
//! other, and everything that may be in the kernel is in it. One run at a time holds the lock.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::ipam::Lease;
use super::item::Inside;
use super::overlay::{self, Subnets};
use super::plan::Made;
use super::prefix::Prefix;
use super::settings::{Settings, Workload};

const VERSION: u32 = 1;
const FILE: &str = "network.json";
const NEW_FILE: &str = "network.json.new";
const LOCK: &str = "lock";
const LOCK_OF_ONE: &str = "run.lock";
const FILE_BYTES_MAX: u64 = 64 << 20;
/// How often a lock that another run holds is tried.
const RETRY_EVERY: Duration = Duration::from_millis(10);
const BOOT: &str = "/proc/sys/kernel/random/boot_id";

/// Everything that is remembered.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Record {
    pub version: u32,
    /// The kernel's number for this boot: nothing outlives it.
    pub boot: String,
    /// The namespace that is the host.
    pub host: u64,
    pub settings: Settings,
    /// What of the settings the last whole file named; the rest was added beside it, one by one.
    #[serde(default)]
    pub from_file: Names,
    /// The namespaces that workloads were put on the network in.
    pub insides: BTreeMap<String, Inside>,
    /// Of networks that go on on other hosts, what this host last knew.
    #[serde(default)]
    pub overlays: BTreeMap<String, overlay::State>,
    /// Subnets that this host had, and asks for first. They outlive a boot.
    #[serde(default)]
    pub previous: BTreeMap<String, Subnets>,
    pub leases: Vec<Lease>,
    /// The last address given of each subnet.
    pub last: BTreeSet<IpAddr>,
    pub made: Vec<Made>,
    /// A run has begun and not ended: some of `made` may not be there.
    pub unfinished: bool,
}

/// Names of entries in a network file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Names {
    pub networks: BTreeSet<String>,
    pub workloads: BTreeSet<String>,
}

#[derive(Debug, Error)]
pub enum StoreError {
    #[error("{}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("{}: {problem}; it is written by `outrigger net` alone, so restore it, or undo by hand and remove it", path.display())]
    Content { path: PathBuf, problem: String },
    #[error("another run holds {} for longer than {waited:?}", path.display())]
    Busy { path: PathBuf, waited: Duration },
    #[error("another `outrigger net run` works with {}; give another `--state`", folder.display())]
    Running { folder: PathBuf },
    #[error(
        "{} is about another network namespace (net:[{recorded}], this is net:[{own}]); give another `--state`",
        path.display()
    )]
    OtherHost { path: PathBuf, recorded: u64, own: u64 },
}

/// A folder; locked while this is held, if it was opened to be written.
#[derive(Debug)]
pub struct Store {
    folder: PathBuf,
    lock: Option<File>,
}

impl Store {
    /// To look only. What is read is whole, even while another run writes.
    pub fn to_read(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), lock: None }
    }

    /// To change: waits for others, but not for longer than `at_most`.
    pub async fn to_write(folder: &Path, at_most: Duration) -> Result<Self, StoreError> {
        let path = folder.join(LOCK);
        let failed = |source| StoreError::File { path: path.clone(), source };
        let lock = open_lock(folder, &path)?;
        let end = tokio::time::Instant::now() + at_most;
        while let Err(error) = flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            if error != rustix::io::Errno::WOULDBLOCK && error != rustix::io::Errno::INTR {
                return Err(failed(error.into()));
            }
            if tokio::time::Instant::now() >= end {
                return Err(StoreError::Busy { path, waited: at_most });
            }
            tokio::time::sleep(RETRY_EVERY).await;
        }
        Ok(Self { folder: folder.to_owned(), lock: Some(lock) })
    }

    /// Held by the process that stays, for as long as it does. It keeps no run from its work.
    pub fn for_one(folder: &Path) -> Result<Self, StoreError> {
        let path = folder.join(LOCK_OF_ONE);
        let lock = open_lock(folder, &path)?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { folder: folder.to_owned(), lock: Some(lock) }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(StoreError::Running { folder: folder.to_owned() }),
            Err(error) => Err(StoreError::File { path, source: error.into() }),
        }
    }

    /// The record of the host with this namespace; of an earlier boot, nothing is left.
    pub fn load(&self, host: u64) -> Result<Record, StoreError> {
        let boot = fs::read_to_string(BOOT).map(|boot| boot.trim().to_owned());
        let boot = boot.map_err(|source| StoreError::File { path: BOOT.into(), source })?;
        let empty = Record { version: VERSION, boot: boot.clone(), host, ..Record::default() };
        let path = self.folder.join(FILE);
        let mut bytes = Vec::new();
        let read = File::open(&path).and_then(|file| file.take(FILE_BYTES_MAX).read_to_end(&mut bytes));
        match read {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(empty),
            Err(source) => return Err(StoreError::File { path, source }),
            Ok(_) => (),
        }
        let broken = |problem: String| StoreError::Content { path: path.clone(), problem };
        let record: Record = serde_json::from_slice(&bytes).map_err(|error| broken(error.to_string()))?;
        if record.version != VERSION {
            return Err(broken(format!("version {}, where {VERSION} is known", record.version)));
        }
        if record.boot != boot {
            return Ok(Record { previous: record.previous, ..empty });
        }
        if record.host != host {
            return Err(StoreError::OtherHost { path, recorded: record.host, own: host });
        }
        Ok(record)
    }

    /// When this returns, the record is on the disk.
    pub fn save(&self, record: &Record) -> Result<(), StoreError> {
        let path = self.folder.join(FILE);
        let write = || -> io::Result<()> {
            let new = self.folder.join(NEW_FILE);
            let mut file = File::create(&new)?;
            file.write_all(&serde_json::to_vec(record)?)?;
            file.sync_all()?;
            fs::rename(&new, &path)?;
            File::open(&self.folder)?.sync_all()
        };
        write().map_err(|source| StoreError::File { path: path.clone(), source })
    }
}

impl Drop for Store {
    /// A process that we have started may have the file open, too (`links::part_with`).
    fn drop(&mut self) {
        if let Some(lock) = &self.lock {
            let _ = flock(lock, FlockOperation::Unlock);
        }
    }
}

fn open_lock(folder: &Path, path: &Path) -> Result<File, StoreError> {
    let failed = |source| StoreError::File { path: path.to_owned(), source };
    fs::create_dir_all(folder).map_err(failed)?;
    OpenOptions::new().create(true).truncate(false).write(true).open(path).map_err(failed)
}

impl Names {
    pub fn of(settings: &Settings) -> Self {
        Self {
            networks: settings.networks.keys().cloned().collect(),
            workloads: settings.workloads.keys().cloned().collect(),
        }
    }
}

impl Record {
    pub fn addresses(&self, workload: &str) -> Vec<IpAddr> {
        self.leases.iter().filter(|lease| lease.workload == workload).map(|lease| lease.address).collect()
    }

    /// The settings with the subnets that are leased.
    pub fn effective(&self) -> Settings {
        overlay::effective(&self.settings, &self.overlays)
    }

    /// The address of every workload in each subnet of its network.
    pub fn prefixes(&self) -> BTreeMap<String, Vec<Prefix>> {
        let settings = self.effective();
        let of_one = |(id, workload): (&String, &Workload)| {
            let plug = workload.plug.as_ref()?;
            let subnets = &settings.networks.get(&plug.network)?.subnets;
            let held = |subnet: &Prefix| {
                let mut held =
                    self.leases.iter().filter(|lease| lease.workload == *id && lease.network == plug.network);
                held.find(|lease| subnet.contains(lease.address)).map(|lease| subnet.with(lease.address))
            };
            Some((id.clone(), subnets.iter().filter_map(held).collect()))
        };
        settings.workloads.iter().filter_map(of_one).collect()
    }
}
