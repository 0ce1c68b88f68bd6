//! `kill -9` of the embedded registry, at any moment, loses no acknowledged write.
//!
//! The process is killed, not the machine: what a power cut does to the disk is redb's and the kernel's promise, since
//! a write is acknowledged after `fdatasync` only.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use outrigger_tests::client::Client;
use outrigger_tests::registry::{Home, index, try_ask};

const KILLS: usize = 1_000;
/// Registries that are killed side by side.
const LANES: usize = 2;
const WRITERS: usize = 4;
/// Keys of each writer, written in turn.
const KEYS: u64 = 8;

/// What one writer knows: the last number acknowledged for each of its names, and the one that nobody answered for.
#[derive(Debug, Default, Clone)]
struct Ledger {
    acknowledged: BTreeMap<String, u64>,
    open: Option<(String, u64)>,
    next: u64,
}

#[test]
fn a_killed_registry_has_every_acknowledged_write() {
    let kills = std::env::var("OUTRIGGER_KILLS").map_or(KILLS, |text| text.parse().expect("a number"));
    let begun = Instant::now();
    let lanes: Vec<_> = (0..LANES).map(|_| thread::spawn(move || lane(kills.div_ceil(LANES)))).collect();
    let writes: u64 = lanes.into_iter().map(|lane| lane.join().expect("a lane without a loss")).sum();
    println!("{kills} kills survived in {:?}, {writes} acknowledged writes, none lost", begun.elapsed());
}

fn random(below: u64) -> u64 {
    RandomState::new().hash_one(0) % below
}

/// Kills one registry again and again. Answers how many writes were acknowledged.
fn lane(kills: usize) -> u64 {
    let home = Home::new("{}");
    let mut ledgers = vec![Ledger::default(); WRITERS];
    let (mut writes, mut last_index) = (0, 0);
    for _ in 0..kills {
        let mut child = home.spawn();
        if random(8) == 0 {
            // Before it serves, or just then.
            pass(Duration::from_micros(random(30_000)));
        } else {
            let (http, _) = home.wait_for(&mut child);
            last_index = verify(http, &mut ledgers, last_index);
            let (heard, acknowledged) = sync_channel(64);
            let writers: Vec<_> = ledgers
                .drain(..)
                .enumerate()
                .map(|(number, ledger)| {
                    let heard = heard.clone();
                    thread::spawn(move || write(http, number, ledger, &heard))
                })
                .collect();
            drop(heard);
            writes += let_write(&acknowledged, random(40));
            child.kill().unwrap();
            writes += acknowledged.iter().count() as u64;
            ledgers.extend(writers.into_iter().map(|writer| writer.join().expect("a ledger")));
        }
        // It may have been killed already.
        let _ = child.kill();
        child.wait().unwrap();
    }
    let registry = home.start();
    verify(registry.http, &mut ledgers, last_index);
    let home = registry.stop();
    // An end in order leaves a store that needs no repair, and holds the same.
    verify(home.start().http, &mut ledgers, last_index);
    writes
}

/// So many writes, and a moment more.
fn let_write(acknowledged: &Receiver<()>, count: u64) -> u64 {
    let mut seen = 0;
    while seen < count && acknowledged.recv().is_ok() {
        seen += 1;
    }
    let end = Instant::now() + Duration::from_micros(random(3_000));
    while acknowledged.recv_timeout(end.saturating_duration_since(Instant::now())).is_ok() {
        seen += 1;
    }
    seen
}

/// A random time is the point here: nothing can be waited for.
fn pass(time: Duration) {
    let (_nobody, never) = sync_channel::<()>(0);
    assert_eq!(never.recv_timeout(time), Err(RecvTimeoutError::Timeout));
}

/// Writes until the registry is gone: keys, and instances of services.
fn write(http: SocketAddr, number: usize, mut ledger: Ledger, heard: &SyncSender<()>) -> Ledger {
    let Ok(mut client) = Client::try_connect(http) else { return ledger };
    loop {
        let n = ledger.next;
        let (name, path, body) = if n % 4 == 3 {
            let id = format!("s{number}-{}", n / 4 % 2);
            let body = format!(r#"{{"Name": "svc", "ID": "{id}", "Port": 1, "Meta": {{"n": "{n}"}}}}"#);
            (id, "/v1/agent/service/register".to_owned(), body)
        } else {
            let key = format!("w{number}/{}", n % KEYS);
            (key.clone(), format!("/v1/kv/{key}"), n.to_string())
        };
        ledger.open = Some((name.clone(), n));
        match try_ask(&mut client, "PUT", &path, "", body.as_bytes()) {
            Ok(answer) => assert_eq!(answer.status, 200, "{}", answer.text()),
            Err(_) => return ledger,
        }
        ledger.acknowledged.insert(name, n);
        ledger.open = None;
        ledger.next += 1;
        // Whoever counts may have stopped.
        let _ = heard.send(());
    }
}

/// Every name has the last number acknowledged, or the one that was on its way. What is found counts from here on.
fn verify(http: SocketAddr, ledgers: &mut [Ledger], last_index: u64) -> u64 {
    let mut client = Client::connect(http);
    let keys = try_ask(&mut client, "GET", "/v1/kv/?recurse", "", b"").unwrap();
    let now = index(&keys);
    assert!(now >= last_index, "the index went back from {last_index} to {now}");
    let mut found = BTreeMap::new();
    if keys.status == 200 {
        for entry in keys.json().as_array().unwrap() {
            let value = entry["Value"].as_str().map(decoded).unwrap_or_default();
            found.insert(entry["Key"].as_str().unwrap().to_owned(), value.parse::<u64>().unwrap());
        }
    }
    let services = try_ask(&mut client, "GET", "/v1/agent/services", "", b"").unwrap();
    for (id, service) in services.json().as_object().unwrap() {
        found.insert(id.clone(), service["Meta"]["n"].as_str().unwrap().parse().unwrap());
    }
    for ledger in ledgers {
        if let Some((name, n)) = ledger.open.take() {
            if found.get(&name) == Some(&n) {
                ledger.acknowledged.insert(name, n);
            }
            ledger.next += 1;
        }
        for (name, n) in &ledger.acknowledged {
            assert_eq!(found.get(name), Some(n), "{name} was acknowledged");
        }
    }
    now
}

/// Base64 of digits: no other characters occur.
fn decoded(text: &str) -> String {
    const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let bits = text.bytes().filter_map(|byte| LETTERS.iter().position(|letter| *letter == byte));
    let bits: Vec<bool> = bits.flat_map(|six| (0..6).rev().map(move |bit| six >> bit & 1 == 1)).collect();
    let bytes = bits.chunks_exact(8).map(|bits| bits.iter().fold(0, |byte, bit| byte << 1 | u8::from(*bit)));
    String::from_utf8(bytes.collect()).unwrap()
}
