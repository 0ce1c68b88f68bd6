//! A byte queue over one allocation: read into its end, consume from its front.

use std::io;

use crate::worker::socket::Socket;

#[derive(Debug, Default)]
pub(crate) struct Buffer {
    bytes: Vec<u8>,
    start: usize,
}

impl Buffer {
    pub(crate) fn filled(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.start == self.bytes.len()
    }

    /// Whether there is no room left without an allocation.
    pub(crate) fn is_full(&self) -> bool {
        self.bytes.len() == self.bytes.capacity()
    }

    pub(crate) fn consume(&mut self, count: usize) {
        self.start += count;
        debug_assert!(self.start <= self.bytes.len());
        if self.is_empty() {
            self.clear();
        }
    }

    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.start = 0;
    }

    /// Reads once into the end. `Ok(0)` is the end of the stream: there is always room to read into.
    /// Dropping the future between polls loses nothing.
    pub(crate) async fn read_from(&mut self, socket: &Socket) -> io::Result<usize> {
        self.make_room();
        socket.read(&mut self.bytes).await
    }

    /// As `read_from`, without waiting: `None` if nothing has come yet.
    pub(crate) fn read_now(&mut self, socket: &Socket) -> Option<io::Result<usize>> {
        self.make_room();
        socket.read_now(&mut self.bytes)
    }

    fn make_room(&mut self) {
        if self.bytes.capacity() - self.bytes.len() < ROOM_MIN {
            if self.start > 0 {
                self.bytes.drain(..self.start);
                self.start = 0;
            }
            self.bytes.reserve(if self.bytes.capacity() == 0 { ROOM } else { ROOM_MIN });
        }
    }

    /// Puts `bytes` in the place of the first `count`, if they fit there.
    pub(crate) fn replace_front(&mut self, count: usize, bytes: &[u8]) -> bool {
        let Some(more) = count.checked_sub(bytes.len()) else { return false };
        self.start += more;
        self.bytes[self.start..][..bytes.len()].copy_from_slice(bytes);
        true
    }

    /// Gives the allocation back for another buffer's use; what was in it is gone.
    pub(crate) fn into_vec(mut self) -> Vec<u8> {
        self.clear();
        self.bytes
    }

    pub(crate) fn from_vec(bytes: Vec<u8>) -> Self {
        debug_assert!(bytes.is_empty());
        Self { bytes, start: 0 }
    }
}

/// First allocation: a head and a small body in one read.
const ROOM: usize = 16 * 1024;
/// A read is never offered less than this.
const ROOM_MIN: usize = 4 * 1024;
