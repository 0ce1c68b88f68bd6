//! Which virtual address a service has: by its name's hash, so that it is the same everywhere and always, and the next
//! free one where two names meet.
//!
//! What was assigned is kept in `state_dir`, so that a service whose place was taken keeps the one it found. The address
//! of a service that is gone rests for a day: clients and connections may still know it.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tokio::sync::watch;

use crate::config::{Config, VirtualRanges};
use crate::metrics::unix_seconds;
use crate::shared_map::SharedMap;
use crate::snapshot::{Addresses, Snapshot};

const REST: Duration = Duration::from_secs(24 * 60 * 60);
/// Of services that are gone; beyond it the oldest is given up first.
const RESTING_MAX: usize = 8192;
/// How often those are looked for that have rested long enough, unless there are too many.
const SWEEP: Duration = Duration::from_secs(60);
/// Changes are written together, so many as come in this time.
const SAVE_PAUSE: Duration = Duration::from_secs(1);
const FILE_BYTES_MAX: u64 = 64 << 20;

/// All that is assigned or rests.
#[derive(Debug, Default)]
pub(super) struct AddressBook {
    addresses: Addresses,
    resting: SharedMap<Arc<str>, Resting>,
    /// Numbers that rest.
    rests: HashSet<u32>,
    /// In seconds since 1970: when those that have rested long enough were looked for.
    swept: f64,
    saver: Option<watch::Sender<State>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
struct Resting {
    number: u32,
    /// In seconds since 1970.
    since: f64,
}

/// What is to be saved; cheap to clone.
type State = (Addresses, SharedMap<Arc<str>, Resting>);

/// As written down.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct File {
    services: BTreeMap<Arc<str>, u32>,
    resting: BTreeMap<Arc<str>, Resting>,
}

impl AddressBook {
    /// With what is known from earlier runs. Writes on this runtime from now on.
    pub(super) async fn open(config: &Config) -> Self {
        let Some(dns) = &config.dns else { return Self::default() };
        let ranges = dns.virtual_addresses;
        let path = config.state_dir.as_ref().map(|dir| dir.join(file_name(config, &ranges)));
        let file = match path.clone() {
            Some(path) => tokio::task::spawn_blocking(move || load(&path)).await.unwrap_or_default(),
            None => File::default(),
        };
        let mut book = Self::of(ranges, file);
        book.saver = path.map(|path| {
            let (saver, changes) = watch::channel(State::default());
            tokio::spawn(save_changes(path, changes));
            saver
        });
        book
    }

    /// Until control says which services there are, all that were known rest.
    fn of(ranges: VirtualRanges, file: File) -> Self {
        let mut book = Self { addresses: Addresses::new(Some(ranges)), ..Self::default() };
        let now = unix_seconds(SystemTime::now());
        let known = file.services.into_iter().map(|(name, number)| (name, Resting { number, since: now }));
        for (name, resting) in known.chain(file.resting) {
            if ranges.numbers().contains(&resting.number) && !book.rests.contains(&resting.number) {
                book.rest(name, resting);
            }
        }
        book
    }

    /// Addresses for the services of this snapshot. If nothing but these services may have come or gone since the one
    /// before, the cost follows their number.
    pub(super) fn follow(&mut self, snapshot: &Snapshot, touched: Option<&BTreeSet<Arc<str>>>) -> Addresses {
        let Some(ranges) = self.addresses.ranges().copied() else { return self.addresses.clone() };
        let now = unix_seconds(SystemTime::now());
        let is_there = |name: &Arc<str>| snapshot.services.contains(name);
        let (gone, come): (Vec<Arc<str>>, Vec<Arc<str>>) = match touched {
            Some(touched) => (
                touched.iter().filter(|name| !is_there(name)).cloned().collect(),
                touched.iter().filter(|name| is_there(name)).cloned().collect(),
            ),
            None => (
                self.addresses.iter().map(|(name, _)| name).filter(|name| !is_there(name)).cloned().collect(),
                sorted(snapshot.services.iter().map(|(name, _)| Arc::clone(name))),
            ),
        };
        let mut changed = false;
        for name in gone {
            if let Some(number) = self.addresses.remove(&name) {
                self.rest(name, Resting { number, since: now });
                changed = true;
            }
        }
        for name in come {
            changed |= self.assign(&name, &ranges);
        }
        if changed {
            self.forget_rested(now);
            self.save();
        }
        self.addresses.clone()
    }

    /// Whether it had none.
    fn assign(&mut self, name: &Arc<str>, ranges: &VirtualRanges) -> bool {
        if self.addresses.number_of(name).is_some() {
            return false;
        }
        let number = match self.resting.remove(name) {
            Some(resting) => {
                self.rests.remove(&resting.number);
                resting.number
            }
            None => match self.free_number(name, ranges) {
                Some(number) => number,
                None => {
                    tracing::error!(
                        service = &**name,
                        "no virtual address is free; widen dns.virtual_addresses"
                    );
                    return false;
                }
            },
        };
        self.addresses.assign(name, number);
        true
    }

    /// The name's own, or the next that nobody has. A range holds far more than the services there can be.
    fn free_number(&self, name: &str, ranges: &VirtualRanges) -> Option<u32> {
        let numbers = ranges.numbers();
        let count = numbers.end() - numbers.start() + 1;
        let hash = Sha256::digest(name.as_bytes());
        let hash = hash.iter().take(8).fold(0_u64, |hash, byte| hash << 8 | u64::from(*byte));
        let from = (hash % u64::from(count)) as u32;
        let places = (from..count).chain(0..from).map(|place| numbers.start() + place);
        let is_free = |number: &u32| !self.addresses.is_taken(*number) && !self.rests.contains(number);
        places.into_iter().find(is_free)
    }

    fn rest(&mut self, name: Arc<str>, resting: Resting) {
        self.rests.insert(resting.number);
        self.resting.insert(name, resting);
    }

    /// Now and then, since all of them are looked at.
    fn forget_rested(&mut self, now: f64) {
        if self.resting.len() <= RESTING_MAX + RESTING_MAX / 8 && now - self.swept < SWEEP.as_secs_f64() {
            return;
        }
        self.swept = now;
        let over = self.resting.len().saturating_sub(RESTING_MAX);
        let mut since: Vec<f64> = self.resting.values().map(|resting| resting.since).collect();
        since.sort_by(f64::total_cmp);
        // Those before this moment are given up: too old, or too many.
        let oldest = over.checked_sub(1).and_then(|last| since.get(last)).copied().unwrap_or(f64::MIN);
        let stays = |resting: &Resting| now - resting.since < REST.as_secs_f64() && resting.since > oldest;
        let leaving: Vec<Arc<str>> = self
            .resting
            .iter()
            .filter(|(_, resting)| !stays(resting))
            .map(|(name, _)| Arc::clone(name))
            .collect();
        for name in leaving {
            if let Some(resting) = self.resting.remove(&name) {
                self.rests.remove(&resting.number);
            }
        }
    }

    fn save(&self) {
        if let Some(saver) = &self.saver {
            saver.send_replace((self.addresses.clone(), self.resting.clone()));
        }
    }
}

impl File {
    fn of((addresses, resting): &State) -> Self {
        let services = addresses.iter().map(|(name, number)| (Arc::clone(name), number)).collect();
        Self { services, resting: resting.iter().map(|(name, one)| (Arc::clone(name), *one)).collect() }
    }
}

fn sorted(names: impl Iterator<Item = Arc<str>>) -> Vec<Arc<str>> {
    let mut names: Vec<Arc<str>> = names.collect();
    names.sort();
    names
}

/// Sidecars of one registry share it: they assign the same.
fn file_name(config: &Config, ranges: &VirtualRanges) -> String {
    let digest = Sha256::digest(format!("{:?} {ranges:?}", config.registry.source));
    let name: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    format!("addresses-{name}.json")
}

fn load(path: &Path) -> File {
    let mut bytes = Vec::new();
    let read = std::fs::File::open(path).and_then(|file| file.take(FILE_BYTES_MAX).read_to_end(&mut bytes));
    match read {
        Ok(_) => serde_json::from_slice(&bytes).unwrap_or_else(|error| {
            tracing::warn!(path = %path.display(), %error, "the saved virtual addresses cannot be used");
            File::default()
        }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => File::default(),
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "the saved virtual addresses cannot be read");
            File::default()
        }
    }
}

/// Ends when the book is gone.
async fn save_changes(path: PathBuf, mut changes: watch::Receiver<State>) {
    while changes.changed().await.is_ok() {
        tokio::time::sleep(SAVE_PAUSE).await;
        let (state, path) = (changes.borrow_and_update().clone(), path.clone());
        let saved = tokio::task::spawn_blocking(move || save(&path, &File::of(&state))).await;
        if let Ok(Err(error)) = saved {
            tracing::warn!(%error, "the virtual addresses cannot be saved; a restart may assign others");
        }
    }
}

/// Replaces the file whole.
fn save(path: &Path, file: &File) -> std::io::Result<()> {
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory)?;
    }
    let beside = path.with_extension(format!("{}.new", std::process::id()));
    let replaced =
        std::fs::write(&beside, serde_json::to_vec(file)?).and_then(|()| std::fs::rename(&beside, path));
    if replaced.is_err() {
        // What is half written is of no use.
        let _ = std::fs::remove_file(&beside);
    }
    replaced
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::fixtures::{catalogue, config};
    use crate::control::publish::{Pin, World};
    use crate::snapshot::Digest;

    /// So narrow that names meet.
    fn ranges() -> VirtualRanges {
        VirtualRanges { v4: ("240.0.0.0".parse().unwrap(), 20), v6: ("fd00::".parse().unwrap(), 96) }
    }

    fn snapshot(services: &[Arc<str>]) -> Arc<Snapshot> {
        let services: Vec<(&str, u8)> = services.iter().map(|name| (&**name, 1)).collect();
        let pin = Pin { digest: Digest::of(b"p2c"), epoch: 1, configuration: None };
        let pins = [("p2c".into(), pin)].into();
        World::next(None, &Arc::new(config()), &catalogue(&services), &pins).unwrap().snapshot
    }

    fn names(numbers: std::ops::Range<usize>) -> Vec<Arc<str>> {
        numbers.map(|n| format!("s{n}").into()).collect()
    }

    #[test]
    fn each_service_has_its_own_and_keeps_it() {
        let mut book = AddressBook::of(ranges(), File::default());
        let all = names(0..250);
        let first = book.follow(&snapshot(&all), None);
        let numbers: BTreeSet<u32> = first.iter().map(|(_, number)| number).collect();
        assert_eq!(numbers.len(), 250, "collision-free");
        let again = AddressBook::of(ranges(), File::default()).follow(&snapshot(&all), None);
        assert!(first.iter().eq(again.iter()), "by the name alone");

        // In another order of arrival, names that meet would change places, were it not for what was saved.
        let file =
            File { services: first.iter().map(|(n, at)| (Arc::clone(n), at)).collect(), ..File::default() };
        let mut restarted = AddressBook::of(ranges(), file);
        for name in all.iter().rev() {
            restarted.follow(&snapshot(&all), Some(&[Arc::clone(name)].into()));
        }
        assert!(first.iter().eq(restarted.addresses.iter()));
        let address = first.of("s7").unwrap().0;
        assert_eq!(first.service_at(address.into()).map(|name| &**name), Some("s7"));
    }

    #[test]
    fn the_address_of_a_service_that_is_gone_rests() {
        let mut book = AddressBook::of(ranges(), File::default());
        let (all, one) = (names(0..2), names(0..1));
        let before = book.follow(&snapshot(&all), None).number_of("s1").unwrap();
        let touched: BTreeSet<Arc<str>> = [all[1].clone()].into();
        let without = book.follow(&snapshot(&one), Some(&touched));
        assert_eq!((without.len(), without.number_of("s1")), (1, None));
        assert!(!without.is_taken(before) && book.rests.contains(&before), "and nobody gets it");
        assert_eq!(book.follow(&snapshot(&all), Some(&touched)).number_of("s1"), Some(before), "but itself");

        book.follow(&snapshot(&one), None);
        book.forget_rested(unix_seconds(SystemTime::now()) + REST.as_secs_f64() + 1.0);
        assert!(book.rests.is_empty() && book.resting.is_empty());
        let all = RESTING_MAX + RESTING_MAX / 8 + 1;
        for n in 0..all {
            let number = u32::try_from(n).unwrap() + 1;
            book.rest(format!("gone{n}").into(), Resting { number, since: number.into() });
        }
        book.forget_rested(all as f64);
        assert_eq!((book.resting.len(), book.rests.len()), (RESTING_MAX, RESTING_MAX));
        assert!(
            !book.resting.contains(&*format!("gone{}", all - RESTING_MAX - 1))
                && book.resting.contains(&*format!("gone{}", all - RESTING_MAX))
        );
    }

    #[test]
    fn what_was_saved_comes_back() {
        let directory = tempfile::TempDir::new().unwrap();
        let path = directory.path().join("deep/addresses.json");
        assert_eq!(load(&path), File::default());
        let resting = [("old".into(), Resting { number: 9, since: 5.0 })].into();
        let file = File { services: [("web".into(), 7)].into(), resting };
        save(&path, &file).unwrap();
        assert_eq!(load(&path), file);
        std::fs::write(&path, "{").unwrap();
        assert_eq!(load(&path), File::default());
    }
}
