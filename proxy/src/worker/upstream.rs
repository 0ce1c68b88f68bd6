//! Connections to one address, kept by one worker.
//!
//! Idle ones are used again last in, first out, so that a pool shrinks to what it needs. Nothing here is shared
//! between workers, and an `Upstream` outlives snapshots for as long as somebody uses it.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use tokio::net::TcpSocket;
use tokio::time::Instant;

use super::socket::Socket;
use crate::tcp;

pub(super) mod balance;
pub(super) mod health;

#[derive(Debug)]
pub(super) struct Upstream {
    address: SocketAddr,
    idle: RefCell<Vec<Idle>>,
    /// Idle and busy.
    open: Cell<usize>,
}

#[derive(Debug)]
struct Idle {
    stream: Socket,
    since: Instant,
}

/// A connection in use. Dropped, it is closed; given back, it is used again.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) stream: Socket,
    pub(super) reused: bool,
    lease: Lease,
}

/// Counts one connection as open for as long as it lives.
#[derive(Debug)]
struct Lease(Rc<Upstream>);

impl Drop for Lease {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get() - 1);
    }
}

/// Why there is no connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ConnectError {
    /// `limits.endpoint_connections_max` is reached.
    Full,
    Refused,
    Timeout,
}

impl Upstream {
    pub(super) fn new(address: SocketAddr) -> Self {
        Self { address, idle: RefCell::new(Vec::new()), open: Cell::new(0) }
    }

    pub(super) fn open(&self) -> usize {
        self.open.get()
    }

    /// The idle connection used last, if one is still alive.
    pub(super) fn reuse(self: &Rc<Self>) -> Option<Connection> {
        loop {
            let idle = self.idle.borrow_mut().pop()?;
            let lease = Lease(Rc::clone(self));
            if idle.stream.is_quiet() {
                return Some(Connection { stream: idle.stream, reused: true, lease });
            }
        }
    }

    /// A new connection.
    pub(super) async fn connect(
        self: &Rc<Self>,
        open_max: usize,
        timeout: Duration,
    ) -> Result<Connection, ConnectError> {
        if self.open.get() >= open_max {
            return Err(ConnectError::Full);
        }
        self.open.set(self.open.get() + 1);
        let lease = Lease(Rc::clone(self));
        match tokio::time::timeout(timeout, dial(self.address)).await {
            Ok(Ok(stream)) => Ok(Connection { stream, reused: false, lease }),
            Ok(Err(error)) if error.kind() == io::ErrorKind::TimedOut => Err(ConnectError::Timeout),
            Ok(Err(_)) => Err(ConnectError::Refused),
            Err(_) => Err(ConnectError::Timeout),
        }
    }

    /// Closes what has been idle since before `since`; connections idle longest lie at the front.
    pub(super) fn close_idle_since(&self, since: Instant) {
        let mut idle = self.idle.borrow_mut();
        let old = idle.partition_point(|i| i.since <= since);
        idle.drain(..old);
        self.open.set(self.open.get() - old);
    }
}

impl Connection {
    /// Keeps the connection for another request, unless enough are idle. It was in use until `since`.
    pub(super) fn give_back(self, idle_max: usize, since: Instant) {
        let upstream = Rc::clone(&self.lease.0);
        let mut idle = upstream.idle.borrow_mut();
        if idle.len() < idle_max {
            // The lease goes, the connection stays: count it anew.
            upstream.open.set(upstream.open.get() + 1);
            idle.push(Idle { stream: self.stream, since });
        }
    }
}

async fn dial(address: SocketAddr) -> io::Result<Socket> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // Without it small writes wait for acknowledgements; a failure costs latency, not correctness.
    let _ = socket.set_nodelay(true);
    tcp::spare_loopback((&socket).into(), address.ip());
    Ok(Socket::new(socket.connect(address).await?.into_std()?.into()))
}
