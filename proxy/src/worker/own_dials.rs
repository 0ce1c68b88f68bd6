//! The connections that we make ourselves, to know them when they come back to us: a capture table that does not exempt
//! this process would lead each into another, without end.
//!
//! All workers share it, since a connection comes back to any of them. It is a hint. One that was overwritten by another
//! goes round once more; one that was reset is in it until its owner notices, and its port may have another user then.

use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// More connections than come back before one of them is looked at.
const PLACES: usize = 4096;

#[derive(Debug)]
pub struct OwnDials {
    hasher: RandomState,
    places: Box<[AtomicU64]>,
}

/// Known for as long as this lives.
#[derive(Debug)]
pub(super) struct OwnDial {
    dials: Arc<OwnDials>,
    mark: u64,
}

impl Default for OwnDials {
    fn default() -> Self {
        let places = (0..PLACES).map(|_| AtomicU64::new(0)).collect();
        Self { hasher: RandomState::new(), places }
    }
}

impl OwnDials {
    pub(super) fn note(self: &Arc<Self>, from: SocketAddr, to: SocketAddr) -> OwnDial {
        let mark = self.mark(from, to);
        self.place(mark).store(mark, Relaxed);
        OwnDial { dials: Arc::clone(self), mark }
    }

    pub(super) fn know(&self, from: SocketAddr, to: SocketAddr) -> bool {
        let mark = self.mark(from, to);
        self.place(mark).load(Relaxed) == mark
    }

    /// Never 0, which is nobody's.
    fn mark(&self, from: SocketAddr, to: SocketAddr) -> u64 {
        let plain = |a: SocketAddr| (a.ip().to_canonical(), a.port());
        self.hasher.hash_one((plain(from), plain(to))) | 1 << 63
    }

    fn place(&self, mark: u64) -> &AtomicU64 {
        &self.places[mark as usize % PLACES]
    }
}

impl Drop for OwnDial {
    fn drop(&mut self) {
        // Another may have taken the place.
        let _ = self.dials.place(self.mark).compare_exchange(self.mark, 0, Relaxed, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_known_while_it_lives() {
        let dials = Arc::new(OwnDials::default());
        let (from, to) = ("10.0.0.1:4000".parse().unwrap(), "10.0.0.2:80".parse().unwrap());
        assert!(!dials.know(from, to));
        let dial = dials.note(from, to);
        assert!(dials.know(from, to) && !dials.know(to, from));
        assert!(dials.know("[::ffff:10.0.0.1]:4000".parse().unwrap(), to));
        drop(dial);
        assert!(!dials.know(from, to));
        let many: Vec<OwnDial> =
            (0..20_000_u16).map(|port| dials.note(SocketAddr::new(from.ip(), port), to)).collect();
        drop(many);
        assert!(dials.places.iter().all(|place| place.load(Relaxed) == 0), "none is left behind");
    }
}
