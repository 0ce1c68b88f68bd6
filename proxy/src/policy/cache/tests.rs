//! Code that is odd in any way is never run: it is compiled anew and overwritten.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;

use super::super::Engine;
use super::super::builtin;
use crate::config::PolicyHost;
use crate::policy::tests::guest::host;

struct Fixture {
    dir: tempfile::TempDir,
}

impl Fixture {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().expect("directory") }
    }

    fn host(&self) -> PolicyHost {
        PolicyHost { cache_dir: Some(self.dir.path().join("cache")), ..host() }
    }

    /// Whether the code came from the cache.
    fn load(&self) -> bool {
        let bytes = builtin::bytes("round-robin").expect("built in");
        Engine::new(&self.host()).expect("engine").load(bytes).expect("loads").from_cache
    }

    /// With one cached file.
    fn filled() -> (Self, PathBuf) {
        let fixture = Self::new();
        assert!(!fixture.load());
        let file = fixture.files().pop().expect("cached");
        (fixture, file)
    }

    fn files(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.dir.path().join("cache")).expect("directory");
        entries.map(|entry| entry.expect("entry").path()).collect()
    }

    /// Compiled anew now, and served from the cache afterwards.
    fn heals(&self) {
        assert!(!self.load());
        assert!(self.load());
        assert_eq!(self.files().len(), 1);
    }
}

#[test]
fn the_second_start_compiles_nothing() {
    let (fixture, file) = Fixture::filled();
    assert!(fixture.load());
    let mode = |path: &std::path::Path| fs::metadata(path).expect("metadata").permissions().mode() & 0o777;
    assert_eq!(mode(&file), 0o600);
    assert_eq!(mode(file.parent().expect("directory")), 0o700);
}

#[test]
fn one_changed_bit_is_found() {
    let (fixture, file) = Fixture::filled();
    let whole = fs::read(&file).expect("bytes");
    // In the magic, in the seal, in the code, at the end.
    for at in [0, 20, 4000, whole.len() - 1] {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        fs::write(&file, &bytes).expect("written");
        fixture.heals();
    }
}

#[test]
fn truncated_files_are_found() {
    let (fixture, file) = Fixture::filled();
    let whole = fs::read(&file).expect("bytes");
    for end in [0, 10, 47, 48, whole.len() - 1] {
        fs::write(&file, &whole[..end]).expect("written");
        fixture.heals();
    }
}

/// Sealed correctly, but for another policy.
#[test]
fn a_file_under_anothers_name_is_found() {
    let (fixture, file) = Fixture::filled();
    let bytes = builtin::bytes("maglev").expect("built in");
    Engine::new(&fixture.host()).expect("engine").load(bytes).expect("loads");
    let other = fixture.files().into_iter().find(|path| *path != file).expect("second file");
    fs::rename(other, &file).expect("renamed");
    fixture.heals();
}

#[test]
fn files_that_others_may_write_are_not_used() {
    let (fixture, file) = Fixture::filled();
    for mode in [0o620, 0o602] {
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).expect("mode");
        fixture.heals();
    }
}

#[test]
fn links_are_not_followed() {
    let (fixture, file) = Fixture::filled();
    let elsewhere = fixture.dir.path().join("elsewhere");
    fs::rename(&file, &elsewhere).expect("renamed");
    symlink(&elsewhere, &file).expect("linked");
    fixture.heals();
    assert!(elsewhere.exists());
}

#[test]
fn directories_that_others_may_write_are_not_used() {
    let (fixture, file) = Fixture::filled();
    let dir = file.parent().expect("directory");
    for mode in [0o770, 0o707] {
        fs::set_permissions(dir, fs::Permissions::from_mode(mode)).expect("mode");
        assert!(!fixture.load());
        assert!(!fixture.load());
    }
    fs::set_permissions(dir, fs::Permissions::from_mode(0o700)).expect("mode");
    assert!(fixture.load());
}

/// Only root can give a file away, so only root can try.
#[test]
fn files_of_others_are_not_used() {
    let (fixture, file) = Fixture::filled();
    if !rustix::process::geteuid().is_root() {
        return;
    }
    std::os::unix::fs::chown(&file, Some(12345), None).expect("given away");
    fixture.heals();
    let dir = file.parent().expect("directory");
    std::os::unix::fs::chown(dir, Some(12345), None).expect("given away");
    assert!(!fixture.load());
    assert!(!fixture.load());
}

#[test]
fn a_cache_that_cannot_be_made_refuses_nothing() {
    let fixture = Fixture::new();
    fs::write(fixture.dir.path().join("cache"), "a file").expect("written");
    assert!(!fixture.load());
}

#[test]
fn the_oldest_files_are_evicted() {
    let (fixture, file) = Fixture::filled();
    let dir = file.parent().expect("directory");
    for i in 0..super::FILES_MAX + 5 {
        fs::write(dir.join(format!("{i}.code")), "").expect("written");
    }
    fs::write(dir.join("1-1.tmp"), "left by a crash").expect("written");
    let bytes = builtin::bytes("random").expect("built in");
    Engine::new(&fixture.host()).expect("engine").load(bytes).expect("loads");
    assert_eq!(fixture.files().len(), super::FILES_MAX);
}
