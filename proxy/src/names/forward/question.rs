//! A question as it goes upstream.
//!
//! Shared questions are asked in a form of our own, so that one answer serves all who ask the same. Others go in the
//! client's own bytes, but for the id and for options that are between two hops only.

use super::random::Random;
use crate::names::wire::{HEADER_BYTES, Key, Query, UDP_BYTES, class, kind, u16_at};

/// Options between a client and its resolver: they end here (RFC 7873, 7828, 7830).
const HOP_OPTIONS: [u16; 3] = [10, 11, 12];
const RD: u8 = 0x01;
const AD: u8 = 0x20;
const CD: u8 = 0x10;
const DNSSEC_OK: u8 = 0x80;

/// What is asked, with a place for the id.
#[derive(Debug, Clone)]
pub(crate) struct Question {
    message: Vec<u8>,
    /// End of type and class.
    end: usize,
    /// The OPT record is ours, so it may be left out.
    is_shared: bool,
}

impl Question {
    /// For all who ask the same.
    pub(crate) fn shared(key: &Key) -> Self {
        let bytes = key.as_bytes();
        // Name, type and class, then the flags.
        let (question, flags) = bytes.split_at(bytes.len() - 1);
        let (dnssec_ok, checking_disabled) = (flags[0] & 1 != 0, flags[0] & 2 != 0);
        // That the answer is authentic is asked for always, and told to those clients that ask.
        let second = AD | if checking_disabled { CD } else { 0 };
        let mut message = vec![0, 0, RD, second, 0, 1, 0, 0, 0, 0, 0, 1];
        message.extend_from_slice(question);
        let end = message.len();
        let [high, low] = UDP_BYTES.end().to_be_bytes();
        let flags = if dnssec_ok { DNSSEC_OK } else { 0 };
        message.extend_from_slice(&[0, 0, kind::OPT as u8, high, low, 0, 0, flags, 0, 0, 0]);
        Self { message, end, is_shared: true }
    }

    /// Any server has something to say about it.
    pub(crate) fn about_the_root() -> Self {
        let message = vec![0, 0, RD, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, kind::NS as u8, 0, class::IN as u8];
        Self { end: message.len(), message, is_shared: false }
    }

    /// For this client alone.
    pub(crate) fn private(query: &Query<'_>) -> Self {
        let mut message = query.message.to_vec();
        // A signature covers all bytes but the id.
        if !query.signed {
            without_hop_options(query, &mut message);
        }
        Self { message, end: HEADER_BYTES + query.question().len(), is_shared: false }
    }

    /// Whether others may ask the same: nothing in it is about this client.
    pub(crate) fn is_shared(query: &Query<'_>) -> bool {
        let mut options = query.edns.iter().flat_map(|edns| edns.each_option());
        query.recursion_desired() && !query.signed && options.all(|(code, _)| HOP_OPTIONS.contains(&code))
    }

    /// Each letter in a case of its own: what comes back has to have the same.
    pub(crate) fn spell(&mut self, random: &Random) {
        let letters = &mut self.message[HEADER_BYTES..self.end - 4];
        for chunk in letters.chunks_mut(8) {
            let [coins] = random.bytes();
            for (bit, letter) in chunk.iter_mut().enumerate() {
                // The bytes between labels are at most 63, and letters begin beyond.
                if letter.is_ascii_alphabetic() && coins >> bit & 1 == 1 {
                    *letter ^= 0x20;
                }
            }
        }
    }

    /// The bytes to send; the first two are for the id.
    pub(crate) fn message(&self, edns: bool) -> Vec<u8> {
        let mut message = self.message.clone();
        if self.is_shared && !edns {
            message.truncate(self.end);
            message[11] = 0;
        }
        message
    }

    /// Name, type and class, as they are sent.
    pub(crate) fn asked(&self) -> &[u8] {
        &self.message[HEADER_BYTES..self.end]
    }

    pub(crate) fn can_do_without_edns(&self) -> bool {
        self.is_shared
    }
}

/// Rewrites the options in place. The OPT record is the only one behind the question of a query that is not signed.
fn without_hop_options(query: &Query<'_>, message: &mut Vec<u8>) {
    let Some(edns) = query.edns else { return };
    let start = message.len() - edns.options.len();
    let kept: Vec<u8> = edns
        .each_option()
        .filter(|(code, _)| !HOP_OPTIONS.contains(code))
        .flat_map(|(code, value)| {
            let head = [code.to_be_bytes(), (value.len() as u16).to_be_bytes()].concat();
            [&head, value].concat()
        })
        .collect();
    message.truncate(start);
    message[start - 2..].copy_from_slice(&(kept.len() as u16).to_be_bytes());
    message.extend_from_slice(&kept);
}

/// Whether a message is the reply to what was asked, or why not.
pub(crate) fn fits(message: &[u8], id: u16, asked: &[u8]) -> Result<(), Lie> {
    if message.len() < HEADER_BYTES || message[2] & 0x80 == 0 || u16_at(message, 0) != id {
        return Err(Lie::Id);
    }
    match message.get(HEADER_BYTES..HEADER_BYTES + asked.len()) {
        Some(echo) if u16_at(message, 4) == 1 && echo == asked => Ok(()),
        // A server that cannot read a question may leave it out; it says no more than that it cannot.
        _ if message.len() == HEADER_BYTES && matches!(message[3] & 0x0f, 1 | 4) => Ok(()),
        _ => Err(Lie::Question),
    }
}

/// Why a message is not what was waited for. Somebody may be guessing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lie {
    Id,
    Question,
}

#[cfg(test)]
mod tests;
