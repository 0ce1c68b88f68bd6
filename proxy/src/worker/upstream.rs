//! Connections to one address, kept by one worker.
//!
//! Idle ones are used again last in, first out, so that a pool shrinks to what it needs. Nothing here is shared
//! between workers, and an `Upstream` outlives snapshots for as long as somebody uses it.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::sockopt::set_tcp_nodelay;
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, getsockname, ipproto, socket_with};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::own_dials::OwnDials;
use super::socket::Socket;
use crate::tcp;

pub(super) mod balance;
pub(super) mod health;

#[derive(Debug)]
pub(super) struct Upstream {
    address: SocketAddr,
    own_dials: Option<Arc<OwnDials>>,
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
    pub(super) fn new(address: SocketAddr, own_dials: Option<Arc<OwnDials>>) -> Self {
        Self { address, own_dials, idle: RefCell::new(Vec::new()), open: Cell::new(0) }
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
        match tokio::time::timeout(timeout, dial(self.address, self.own_dials.as_ref())).await {
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
            self.stream.came_about();
            // The lease goes, the connection stays: count it anew.
            upstream.open.set(upstream.open.get() + 1);
            idle.push(Idle { stream: self.stream, since });
        }
    }
}

/// A connection of our own; where what we send may be led back to us, it is noted before anybody can accept it.
pub(super) async fn dial(address: SocketAddr, own_dials: Option<&Arc<OwnDials>>) -> io::Result<Socket> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(family, SocketType::STREAM, flags, Some(ipproto::TCP))?;
    // Without it small writes wait for acknowledgements; a failure costs latency, not correctness.
    let _ = set_tcp_nodelay(&socket, true);
    tcp::spare_loopback((&socket).into(), address.ip());
    match connect(&socket, &address) {
        Ok(()) | Err(Errno::INPROGRESS) => {}
        Err(error) => return Err(error.into()),
    }
    let noted = own_dials.and_then(|dials| {
        let from = SocketAddr::try_from(getsockname(&socket).ok()?).ok()?;
        Some(dials.note(from, address))
    });
    let stream = TcpStream::from_std(socket.into())?;
    stream.writable().await?;
    match stream.take_error()? {
        Some(error) => Err(error),
        None => Ok(Socket::connected(stream, noted)),
    }
}
