//! Compiled policies are kept on disk, and never trusted further than they can be checked.

use std::fs;
use std::path::{Path, PathBuf};

use outrigger_tests::backend::Backend;
use outrigger_tests::proxy::{Proxy, Scene};

fn entries(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().filter_map(Result::ok) {
        let path = entry.path();
        if path.is_dir() { found.extend(entries(&path)) } else { found.push(path) }
    }
    found
}

fn assert_serves(proxy: &Proxy) {
    for _ in 0..5 {
        assert_eq!(proxy.get("web", "/").status, 200);
    }
    let metrics = proxy.metrics();
    assert_eq!(metrics.sum("outrigger_policy_failures_total", &[]), 0.0);
    assert_eq!(metrics.sum("outrigger_policy_fallbacks_total", &[]), 0.0, "the policy itself has served");
}

/// The machine code in the cache is not what a thief or a broken disk has left there.
#[test]
fn damaged_and_foreign_entries_are_not_used() {
    type Damage = fn(Vec<u8>) -> Vec<u8>;
    let damages: [Damage; 4] = [
        |mut bytes| {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            bytes
        },
        |mut bytes| {
            bytes.truncate(bytes.len() / 2);
            bytes
        },
        |_| Vec::new(),
        |_| b"\x7fELF, and whatever follows".to_vec(),
    ];
    let backend = Backend::named("a");
    let mut scene = Scene::web(&[&backend]).start().stop();
    for damage in damages {
        let cache = scene.path("cache");
        let before = entries(&cache);
        assert!(!before.is_empty(), "something is kept");
        for path in &before {
            let bytes = fs::read(path).unwrap();
            fs::write(path, damage(bytes)).unwrap();
        }
        let proxy = scene.start_again();
        assert_serves(&proxy);
        scene = proxy.stop();
    }
}

#[test]
fn a_cache_that_cannot_be_used_costs_time_only() {
    let backend = Backend::named("a");
    // A file stands where the directory should be.
    let scene = Scene::web(&[&backend]);
    fs::write(scene.path("cache"), "in the way").unwrap();
    assert_serves(&scene.start());
    assert_serves(&Scene::web(&[&backend]).set("policy_host", "{cache_dir: none}").start());
}
