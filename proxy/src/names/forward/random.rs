//! Numbers that nobody can guess, from the system's generator, some at a time.

use std::cell::{Cell, RefCell};

use rustix::rand::{GetRandomFlags, getrandom};

const POOL_BYTES: usize = 512;

/// Bytes that have been drawn and not yet been used.
#[derive(Debug)]
pub(crate) struct Random {
    pool: RefCell<[u8; POOL_BYTES]>,
    next: Cell<usize>,
}

impl Random {
    pub(crate) fn new() -> Self {
        Self { pool: RefCell::new([0; POOL_BYTES]), next: Cell::new(POOL_BYTES) }
    }

    /// An id for a question.
    pub(crate) fn id(&self) -> u16 {
        u16::from_ne_bytes(self.bytes())
    }

    /// 0 to 1.
    pub(crate) fn fraction(&self) -> f64 {
        f64::from(u32::from_ne_bytes(self.bytes())) / f64::from(u32::MAX)
    }

    pub(crate) fn bytes<const N: usize>(&self) -> [u8; N] {
        const { assert!(N <= POOL_BYTES) };
        if self.next.get() + N > POOL_BYTES {
            self.fill();
        }
        let at = self.next.replace(self.next.get() + N);
        let mut bytes = [0; N];
        bytes.copy_from_slice(&self.pool.borrow()[at..at + N]);
        bytes
    }

    fn fill(&self) {
        let mut pool = self.pool.borrow_mut();
        let mut filled = 0;
        while filled < POOL_BYTES {
            // It fails only where the kernel has no such call, and is interrupted only before the first boot is over.
            filled += getrandom(&mut pool[filled..], GetRandomFlags::empty()).unwrap_or(0);
        }
        self.next.set(0);
    }
}
