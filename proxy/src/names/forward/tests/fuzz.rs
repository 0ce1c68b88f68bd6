//! Mutated messages against everything that reads what others send: nothing panics, and what is passed on can be read
//! by others (hickory's parser).
//!
//! Deterministic, and short by default; `OUTRIGGER_FUZZ_ROUNDS=5000000 cargo test --release -p outrigger fuzz` goes on
//! for longer.

use hickory_proto::op::Message;

use super::*;
use crate::names::cache::{Age, Kept};
use crate::names::facts::Facts;
use crate::names::forward::question::fits;
use crate::names::forward::stream::next_message;
use crate::names::wire::{HEADER_BYTES, kind, u16_at};

const ROUNDS: u32 = 30_000;

/// Draws that are the same in every run.
struct Draw(u64);

impl Draw {
    fn below(&mut self, bound: usize) -> usize {
        // xorshift64.
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) as usize % bound.max(1)
    }

    fn byte(&mut self) -> u8 {
        const TELLING: [u8; 10] = [0, 1, 12, 0x29, 0x3f, 0x40, 0x7f, 0x80, 0xc0, 0xff];
        match self.below(2) {
            0 => TELLING[self.below(TELLING.len())],
            _ => self.below(256) as u8,
        }
    }

    /// Changes one thing.
    fn mutate(&mut self, bytes: &mut Vec<u8>) {
        if bytes.is_empty() {
            bytes.push(self.byte());
        }
        let at = self.below(bytes.len());
        match self.below(8) {
            0 => bytes[at] ^= 1 << self.below(8),
            1 | 2 => bytes[at] = self.byte(),
            3 => bytes.truncate(at),
            4 => bytes.insert(at, self.byte()),
            5 => {
                let part = bytes[at..(at + self.below(40)).min(bytes.len())].to_vec();
                let to = self.below(bytes.len());
                bytes.splice(to..to, part);
            }
            // A pointer to anywhere.
            6 if at + 1 < bytes.len() => {
                let target = self.below(bytes.len() + 2);
                bytes[at..at + 2].copy_from_slice(&(0xc000 | target as u16).to_be_bytes());
            }
            // A count, in the header.
            _ if bytes.len() > HEADER_BYTES => bytes[4 + self.below(8)] = self.below(4) as u8,
            _ => {}
        }
    }
}

fn rounds() -> u32 {
    std::env::var("OUTRIGGER_FUZZ_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(ROUNDS)
}

fn seeds() -> Vec<Vec<u8>> {
    let asked = query("www.Example.com", 1);
    let addresses = reply(&asked, 3, 300);
    let mut chain = reply(&asked, 0, 0);
    chain[7] = 2;
    chain.extend(b"\xc0\x0c\0\x05\0\x01\0\0\0\x3c\0\x06\x03cdn\xc0\x10");
    chain.extend(b"\xc0\x2d\0\x01\0\x01\0\0\0\x3c\0\x04\x0a\0\0\x01");
    let mut nothing = code(&asked, 3);
    nothing[9] = 1;
    nothing.extend(b"\xc0\x10\0\x06\0\x01\0\0\x0e\x10\0\x1d\x02ns\xc0\x10\x01m\xc0\x10");
    nothing.extend([0; 20]);
    let mut mixed = reply(&asked, 1, 20);
    mixed[7] = 6;
    mixed.extend(b"\xc0\x0c\0\x0f\0\x01\0\0\0\x3c\0\x07\0\x0a\x02mx\xc0\x10");
    mixed.extend(b"\xc0\x0c\0\x10\0\x01\0\0\0\x3c\0\x06\x02hi\x02yo");
    mixed.extend(b"\xc0\x0c\0\x21\0\x01\0\0\0\x3c\0\x0c\0\x01\0\x02\0\x50\x01a\x02bc\0");
    mixed.extend(b"\xc0\x0c\0\x1c\0\x01\0\0\0\x3c\0\x10\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01");
    mixed.extend(b"\xc0\x0c\x03\xe7\0\x01\0\0\0\x3c\0\x03\x01\x02\x03");
    let with_opt = |mut bytes: Vec<u8>| {
        bytes[11] += 1;
        bytes.extend([0, 0, 41, 4, 208, 0, 0, 0x80, 0, 0, 10, 0, 15, 0, 6, 0, 3, b't', b'e', b'x', b't']);
        bytes
    };
    let many = reply(&query("a.example", 1), 120, 5);
    let plain = [addresses, chain, nothing, mixed, many];
    let mut all: Vec<_> = plain.iter().cloned().map(with_opt).collect();
    all.extend(plain);
    for seed in &all {
        let read = Facts::read(seed);
        assert!(read.is_ok(), "a seed is no message: {read:?} {seed:02x?}");
    }
    all
}

/// Whether hickory should be able to read it: it also looks into types that we pass on as they are.
fn is_plain(bytes: &[u8], facts: &Facts) -> bool {
    let looked_at = [
        kind::A,
        kind::NS,
        kind::CNAME,
        kind::SOA,
        kind::PTR,
        kind::MX,
        kind::TXT,
        kind::AAAA,
        kind::SRV,
        999,
    ];
    facts.records.iter().all(|mark| {
        let ttl_at = usize::from(mark.ttl_at);
        looked_at.contains(&u16_at(bytes, ttl_at - 4)) && u16_at(bytes, ttl_at - 2) == 1
    })
}

#[test]
fn mutated_replies_are_refused_or_can_be_read_by_others() {
    let (seeds, bounds) = (seeds(), TtlBounds { positive: 0..=86_400, negative_max: 900 });
    let (mut draw, mut passed) = (Draw(0x5eed_cafe_f00d_0001), 0);
    for round in 0..rounds() {
        let mut bytes = seeds[draw.below(seeds.len())].clone();
        for _ in 0..draw.below(4) {
            draw.mutate(&mut bytes);
        }
        let Ok(facts) = Facts::read(&bytes) else { continue };
        // The same question, as a client would ask it.
        let question = &bytes[HEADER_BYTES..facts.question_end];
        let asked = [&[9, 9, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0][..], question].concat();
        let edns = [&asked[..11], &[1], question, &[0, 0, 41, 2, 88, 0, 0, 0, 0, 0, 0]].concat();
        let kept = Kept::new(&bytes, &facts, &bounds);
        for message in [&asked, &edns] {
            let Ok(query) = Query::parse(message) else { continue };
            for (age, bytes_max) in
                [(Age::New, 65_535), (Age::Seconds(7), 512), (Age::Stale, 600), (Age::Seconds(4), 700)]
            {
                let mut out = Vec::new();
                kept.write(&query, age, bytes_max, &mut out);
                let context = || format!("round {round}: {bytes:02x?} became {out:02x?}");
                assert!(out.len() <= bytes_max, "{}", context());
                let again = Facts::read(&out).unwrap_or_else(|error| panic!("{error}, {}", context()));
                assert!(!is_plain(&bytes, &facts) || Message::from_vec(&out).is_ok(), "{}", context());
                assert!(again.records.len() <= facts.records.len(), "{}", context());
                assert_eq!(again.options.is_some(), query.edns.is_some(), "{}", context());
                passed += 1;
            }
        }
    }
    assert!(passed > rounds() / 10, "mutations leave something to look at: {passed}");
}

#[test]
fn mutated_questions_are_refused_or_can_be_answered() {
    let seeds = [query("www.example.com", 1), query("a", 28), query("_x._tcp.web.service.consul", 33)];
    let (mut draw, mut passed) = (Draw(0x5eed_cafe_f00d_0002), 0);
    let extended = Extended { code: 0, text: "fuzz" };
    for round in 0..rounds() {
        let mut bytes = seeds[draw.below(seeds.len())].clone();
        for _ in 0..draw.below(4) {
            draw.mutate(&mut bytes);
        }
        let mut out = Vec::new();
        let Ok(query) = Query::parse(&bytes) else {
            refusal(&bytes, Code::FormErr, &mut out);
            continue;
        };
        passed += 1;
        let kept = Kept::failure(query.question(), extended, 5);
        kept.write(&query, Age::New, query.reply_bytes_max(Transport::Udp), &mut out);
        assert!(Facts::read(&out).is_ok(), "round {round}: {bytes:02x?} became {out:02x?}");
        let shared = Question::shared(&query.key());
        assert!(
            Query::parse(&shared.message(true))
                .is_ok_and(|again| again.key().as_bytes() == query.key().as_bytes())
        );
        assert!(
            Query::parse(&Question::private(&query).message(true)).is_ok(),
            "round {round}: {bytes:02x?}"
        );
        let _ = fits(&bytes, 7, query.question());
    }
    assert!(passed > rounds() / 10, "{passed}");
}

/// However a stream is cut into reads, the same messages come out of it.
#[test]
fn framing_does_not_depend_on_reads() {
    let seeds = seeds();
    let mut draw = Draw(0x5eed_cafe_f00d_0003);
    for _ in 0..rounds() / 100 {
        let mut stream = Vec::new();
        for _ in 0..1 + draw.below(5) {
            let message = &seeds[draw.below(seeds.len())];
            stream.extend((message.len() as u16).to_be_bytes());
            stream.extend(message);
        }
        if draw.below(3) == 0 {
            draw.mutate(&mut stream);
        }
        let whole = messages(&stream, &mut || usize::MAX);
        let cut = messages(&stream, &mut || 1 + draw.below(300));
        assert_eq!(whole, cut);
    }
}

/// What comes out of a stream that is read in such pieces.
fn messages(stream: &[u8], piece: &mut dyn FnMut() -> usize) -> Vec<Vec<u8>> {
    let (mut heard, mut rest, mut found) = (Vec::new(), stream, Vec::new());
    while !rest.is_empty() {
        let (read, after) = rest.split_at(piece().min(rest.len()));
        heard.extend_from_slice(read);
        rest = after;
        loop {
            let message = match next_message(&heard) {
                Ok(Some(message)) => message.to_vec(),
                Ok(None) => break,
                Err(_) => return found,
            };
            heard.drain(..2 + message.len());
            found.push(message);
        }
    }
    found
}
