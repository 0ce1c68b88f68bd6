//! Names as they stand in a message: labels, and pointers to what came before.

use super::Malformed;
use crate::names::wire::{HEADER_BYTES, NAME_BYTES_MAX};

/// A name has at most 127 labels; a pointer that points at a pointer says nothing.
const POINTERS_MAX: usize = 127;

/// Where the name at `start` ends in the message. A pointer leads to what lies wholly in front of the labels before it,
/// so following pointers comes to an end, and nothing is read in two ways.
pub(super) fn end(bytes: &[u8], start: usize) -> Result<usize, Malformed> {
    // The labels that are read now begin at `first` and have to end before `limit`.
    let (mut first, mut at, mut limit) = (start, start, bytes.len());
    let (mut length, mut pointers) = (0, 0);
    let mut end = None;
    loop {
        let byte = usize::from(*bytes.get(at).ok_or(Malformed::Short)?);
        match byte >> 6 {
            0 => {
                length += 1 + byte;
                at += 1 + byte;
                if length > NAME_BYTES_MAX || at > limit {
                    return Err(Malformed::Name);
                }
                if byte == 0 {
                    return Ok(end.unwrap_or(at));
                }
            }
            3 => {
                let second = usize::from(*bytes.get(at + 1).ok_or(Malformed::Short)?);
                let target = (byte & 0x3f) << 8 | second;
                pointers += 1;
                let leads_back = (HEADER_BYTES..first).contains(&target) && at + 2 <= limit;
                if !leads_back || pointers > POINTERS_MAX {
                    return Err(Malformed::Name);
                }
                end.get_or_insert(at + 2);
                (limit, first, at) = (first, target, target);
            }
            _ => return Err(Malformed::Name),
        }
    }
}
