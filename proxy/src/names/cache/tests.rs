use super::*;
use crate::names::facts::Facts;
use crate::names::wire::{HEADER_BYTES, Query, u16_at};

const LIMITS: Limits = Limits { entries_max: 4, bytes_max: 1 << 20, stale_ms: 60_000, prefetch: true };

fn bounds() -> TtlBounds {
    TtlBounds { positive: 0..=86_400, negative_max: 900 }
}

fn question(name: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for label in name.split('.').filter(|label| !label.is_empty()) {
        bytes.push(label.len() as u8);
        bytes.extend(label.bytes());
    }
    bytes.extend([0, 0, 1, 0, 1]);
    bytes
}

/// A query for `name`, type A; with EDNS if `edns` says how much it takes.
fn query(name: &str, edns: Option<u16>) -> Vec<u8> {
    let mut bytes = vec![0xab, 0xcd, 1, 0, 0, 1, 0, 0, 0, 0, 0, u8::from(edns.is_some())];
    bytes.extend(question(name));
    if let Some(size) = edns {
        bytes.extend([0, 0, 41]);
        bytes.extend(size.to_be_bytes());
        bytes.extend([0; 6]);
    }
    bytes
}

/// A reply with so many addresses.
fn reply(name: &str, addresses: u8, ttl: u32) -> Vec<u8> {
    let mut bytes = vec![0, 0, 0x85, 0xa0, 0, 1, 0, addresses, 0, 0, 0, 0];
    bytes.extend(question(name));
    for n in 0..addresses {
        bytes.extend([0xc0, 12, 0, 1, 0, 1]);
        bytes.extend(ttl.to_be_bytes());
        bytes.extend([0, 4, 10, 0, 0, n]);
    }
    bytes
}

fn kept_of(bytes: &[u8]) -> Rc<Kept> {
    Rc::new(Kept::new(bytes, &Facts::read(bytes).unwrap(), &bounds()))
}

fn kept(name: &str, addresses: u8, ttl: u32) -> Rc<Kept> {
    kept_of(&reply(name, addresses, ttl))
}

fn failure() -> Rc<Kept> {
    let extended = crate::names::wire::Extended { code: 23, text: "nobody" };
    Rc::new(Kept::failure(&question("a.example"), extended, 5))
}

fn write(kept: &Kept, asked: &[u8], age: Age, bytes_max: usize) -> Vec<u8> {
    let mut out = vec![1, 2, 3];
    kept.write(&Query::parse(asked).unwrap(), age, bytes_max, &mut out);
    out
}

fn is_fresh(cache: &Cache, key: &[u8], now_ms: u64) -> bool {
    matches!(cache.find(key, now_ms), Some(Found::Fresh { .. }))
}

#[test]
fn a_hit_has_the_clients_id_and_spelling_and_what_is_left_of_the_ttl() {
    let kept = kept("a.example", 2, 60);
    let out = write(&kept, &query("A.eXample", None), Age::Seconds(25), 512);
    assert_eq!(out[..2], [0xab, 0xcd]);
    assert_eq!(out[2..4], [0x81, 0x80], "not authoritative, recursion there, and nobody asked for AD");
    assert_eq!(out[HEADER_BYTES..][..15], question("A.eXample")[..]);
    let facts = Facts::read(&out).unwrap();
    assert_eq!(facts.ttl, Some(35));
    assert_eq!(facts.records.len(), 2);
    let new = write(&kept, &query("a.example", None), Age::New, 512);
    assert_eq!(new[2], 0x85, "what has just come is as authoritative as it was");
    let mut asks = query("a.example", None);
    asks[3] |= 0x20;
    assert_eq!(write(&kept, &asks, Age::Seconds(1), 512)[3], 0xa0, "whoever asks is told");
}

#[test]
fn what_has_expired_says_so_and_may_be_used_for_half_a_minute() {
    let kept = kept("a.example", 1, 60);
    let out = write(&kept, &query("a.example", Some(1232)), Age::Stale, 1232);
    let facts = Facts::read(&out).unwrap();
    assert_eq!(facts.ttl, Some(30));
    assert_eq!(out[facts.options.unwrap()], [0, 15, 0, 2, 0, 3]);
    let plain = write(&kept, &query("a.example", None), Age::Stale, 512);
    assert_eq!(Facts::read(&plain).unwrap().options, None);
}

#[test]
fn what_is_too_large_is_cut_between_records() {
    let kept = kept("a.example", 100, 60);
    for (edns, bytes_max, fits) in [(None, 512, 30), (Some(1232), 1232, 74), (Some(4096), 1700, 100)] {
        let out = write(&kept, &query("a.example", edns), Age::Seconds(1), bytes_max);
        let facts = Facts::read(&out).unwrap();
        assert!(out.len() <= bytes_max);
        assert_eq!((facts.counts[0], facts.truncated), (fits, fits < 100), "{edns:?}");
        assert_eq!(facts.options.is_some(), edns.is_some());
    }
    // Not even one fits.
    let asked = query("a.example", None);
    let out = write(&kept, &asked, Age::New, asked.len());
    assert_eq!((out.len(), u16_at(&out, 6)), (asked.len(), 0));
    assert!(Facts::read(&out).unwrap().truncated);
}

/// What is additional may be missing without a word.
#[test]
fn records_that_are_additional_go_first() {
    let mut bytes = reply("a.example", 20, 60);
    bytes[7] = 2;
    bytes[11] = 18;
    let out = write(&kept_of(&bytes), &query("a.example", None), Age::New, 100);
    let facts = Facts::read(&out).unwrap();
    assert_eq!((facts.counts[0], facts.truncated), (2, false));
    assert!(facts.counts[2] < 18);
}

#[test]
fn ttls_are_kept_within_bounds() {
    let bytes = reply("a.example", 1, 5);
    let facts = Facts::read(&bytes).unwrap();
    let of = |positive| Kept::new(&bytes, &facts, &TtlBounds { positive, negative_max: 900 });
    assert_eq!(of(30..=60).ttl_s, 30);
    assert_eq!(of(0..=3).ttl_s, 3);
    let out = write(&of(30..=60), &query("a.example", None), Age::Seconds(10), 512);
    assert_eq!(Facts::read(&out).unwrap().ttl, Some(20));
    let nothing = reply("a.example", 1, 0);
    let kept = Kept::new(&nothing, &Facts::read(&nothing).unwrap(), &bounds());
    assert_eq!(kept.ttl_s, 0);
}

#[test]
fn entries_end_with_their_ttl_and_are_stale_for_a_while() {
    let mut cache = Cache::new(LIMITS);
    cache.keep(b"a", &kept("a.example", 1, 10), 1_000);
    assert!(is_fresh(&cache, b"a", 10_999));
    assert!(matches!(cache.find(b"a", 11_000), Some(Found::Stale { at_once: false, .. })));
    assert!(matches!(cache.find(b"a", 70_999), Some(Found::Stale { .. })));
    assert!(cache.find(b"a", 71_000).is_none());
    cache.keep(b"b", &kept("b.example", 1, 0), 1_000);
    assert!(cache.find(b"b", 1_000).is_none(), "a TTL of zero is for those who wait");
}

#[test]
fn a_failure_is_remembered_but_not_in_place_of_an_answer() {
    let mut cache = Cache::new(LIMITS);
    cache.keep(b"none", &failure(), 1_000);
    assert!(is_fresh(&cache, b"none", 5_999));
    assert!(cache.find(b"none", 6_000).is_none(), "a failure is never stale");
    cache.keep(b"a", &kept("a.example", 1, 10), 1_000);
    cache.keep(b"a", &failure(), 20_000);
    let Some(Found::Stale { kept, at_once: true }) = cache.find(b"a", 20_001) else { panic!("at once") };
    assert!(kept.answers());
    assert!(matches!(cache.find(b"a", 50_001), Some(Found::Stale { at_once: false, .. })), "tried again");
    // Asked ahead in vain: what is there is still good.
    cache.keep(b"b", &self::kept("b.example", 1, 10), 1_000);
    cache.keep(b"b", &failure(), 10_500);
    assert!(is_fresh(&cache, b"b", 10_600));
}

#[test]
fn what_is_used_stays_while_a_flood_goes_by() {
    let mut cache = Cache::new(LIMITS);
    cache.keep(b"used", &kept("used.example", 1, 3600), 0);
    for n in 0..1_000_u32 {
        assert!(is_fresh(&cache, b"used", 1), "{n}");
        cache.keep(&n.to_be_bytes(), &kept("once.example", 1, 3600), 1);
        assert!(cache.entries() <= LIMITS.entries_max);
    }
    assert_eq!(cache.evictions(), 1_001 - 4);
}

#[test]
fn bytes_are_bounded_and_given_back() {
    let mut cache = Cache::new(Limits { entries_max: 1_000, bytes_max: 4_000, ..LIMITS });
    for n in 0..200_u32 {
        cache.keep(&n.to_be_bytes(), &kept("a.example", 1 + (n % 40) as u8, 60), 0);
        assert!(cache.bytes() <= 4_000 && cache.entries() > 0);
    }
    cache.keep(b"large", &kept("a.example", 255, 60), 0);
    assert!(cache.find(b"large", 0).is_none(), "larger than all there is");
    let keys: Vec<_> = cache.index.keys().cloned().collect();
    keys.iter().for_each(|key| cache.forget(key));
    assert_eq!((cache.bytes(), cache.entries()), (0, 0));
}

#[test]
fn the_last_tenth_of_what_is_used_asks_for_more() {
    let prefetches =
        |cache: &Cache, now_ms| matches!(cache.find(b"a", now_ms), Some(Found::Fresh { prefetch: true, .. }));
    let mut cache = Cache::new(LIMITS);
    cache.keep(b"a", &kept("a.example", 1, 100), 0);
    assert!(!prefetches(&cache, 89_000) && !prefetches(&cache, 89_999));
    assert!(prefetches(&cache, 90_000));
    assert!(!prefetches(&cache, 90_001), "somebody is at it");
    let mut cache = Cache::new(Limits { prefetch: false, ..LIMITS });
    cache.keep(b"a", &kept("a.example", 1, 100), 0);
    assert!((0..5).all(|_| !prefetches(&cache, 95_000)));
}
