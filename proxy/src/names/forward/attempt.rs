//! One question to one upstream, over the transport that it takes: what came of it.
//!
//! Over UDP, a socket with a random port is made for each question and connected, so that the kernel lets nobody else's
//! datagrams through. What does come and is not the answer is counted and does not end the wait: if it did, whoever
//! guesses could stop answers. Too many guesses, and the question is asked over TCP.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;

use rustix::io::Errno;
use tokio::net::UdpSocket;
use tokio::time::Instant;

use super::question::{Question, fits};
use super::random::Random;
use super::sent::Sent;
use super::stream;
use super::upstream::Upstream;
use crate::names::facts::Facts;
use crate::names::wire::{Code, UDP_BYTES, u16_at};

/// Wrong datagrams to one socket, before we turn to TCP, where guessing does not help.
const LIES_MAX: u32 = 8;
/// One more than may come, so that what is longer is seen.
const BUFFER_BYTES: usize = *UDP_BYTES.end() as usize + 1;

/// What upstreams are asked with.
#[derive(Debug)]
pub(super) struct Means {
    pub(super) random: Rc<Random>,
    pub(super) sent: Rc<Sent>,
}

/// A reply, whole and looked at.
#[derive(Debug)]
pub(super) struct Heard {
    pub(super) bytes: Vec<u8>,
    pub(super) facts: Facts,
}

/// Why an upstream gave none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failure {
    Timeout,
    /// Nobody listens there.
    Refused,
    Unreachable,
    /// The connection ended before the answer.
    Closed,
    Malformed,
    /// No handshake, or one with somebody whom we do not trust.
    Tls,
    /// Too many questions of ours wait.
    Busy,
    /// It is ourselves.
    Loop,
}

impl Failure {
    pub(super) fn of(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Self::Refused,
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe | io::ErrorKind::UnexpectedEof => {
                Self::Closed
            }
            io::ErrorKind::TimedOut => Self::Timeout,
            // Our own files are used up, which says nothing about the upstream.
            _ if matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE)) => Self::Busy,
            _ => Self::Unreachable,
        }
    }

    pub(super) fn reason(self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::Refused => "refused",
            Self::Unreachable => "unreachable",
            Self::Closed => "closed",
            Self::Malformed => "malformed",
            Self::Tls => "tls",
            Self::Busy => "busy",
            Self::Loop => "loop",
        }
    }
}

impl Heard {
    /// Whether it says something about the name. Otherwise the upstream could not find out, and another one may.
    pub(super) fn is_answer(&self) -> bool {
        self.facts.code == Code::NoError as u16 || self.facts.code == Code::NxDomain as u16
    }
}

/// Asks once, and waits until there is something to say. The caller bounds the time.
pub(super) async fn ask(
    upstream: &Rc<Upstream>,
    means: &Means,
    question: &Question,
) -> Result<Heard, Failure> {
    let started = Instant::now();
    upstream.metrics.queries.inc();
    let mut edns = upstream.takes_edns();
    loop {
        let bytes = exchange(upstream, means, question, edns).await?;
        let cannot_read = matches!(bytes.get(3).map(|flags| flags & 0x0f), Some(1 | 4));
        if edns && cannot_read && question.can_do_without_edns() {
            upstream.spare_edns();
            edns = false;
            continue;
        }
        let facts = Facts::read(&bytes).map_err(|error| {
            tracing::debug!(upstream = %upstream.resolver, %error, "a reply that is malformed");
            Failure::Malformed
        })?;
        upstream.succeeded(started.elapsed());
        return Ok(Heard { bytes, facts });
    }
}

async fn exchange(
    upstream: &Rc<Upstream>,
    means: &Means,
    question: &Question,
    edns: bool,
) -> Result<Vec<u8>, Failure> {
    let message = question.message(edns);
    if upstream.is_udp()
        && let Some(bytes) = over_udp(upstream, means, message.clone(), question.asked()).await?
    {
        return Ok(bytes);
    }
    stream::ask(upstream, &means.random, message, question.asked()).await
}

/// `None`: it has to be asked over TCP.
async fn over_udp(
    upstream: &Upstream,
    means: &Means,
    mut message: Vec<u8>,
    asked: &[u8],
) -> Result<Option<Vec<u8>>, Failure> {
    let failed = |error: io::Error| Failure::of(&error);
    let socket = socket(upstream.address()).await.map_err(failed)?;
    let id = means.random.id();
    message[..2].copy_from_slice(&id.to_be_bytes());
    let port = socket.local_addr().map_err(failed)?.port();
    let _sent = means.sent.note(port, id);
    socket.send(&message).await.map_err(failed)?;
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut lies = 0;
    while lies < LIES_MAX {
        let length = socket.recv(&mut buffer).await.map_err(failed)?;
        if means.sent.came_back(port, id) {
            upstream.came_back();
            return Err(Failure::Loop);
        }
        match fits(&buffer[..length], id, asked) {
            Ok(()) if length == BUFFER_BYTES => return Err(Failure::Malformed),
            Ok(()) if is_truncated(&buffer[..length]) => {
                upstream.metrics.truncated.inc();
                return Ok(None);
            }
            Ok(()) => {
                buffer.truncate(length);
                return Ok(Some(buffer));
            }
            Err(lie) => upstream.metrics.lie(lie),
        }
        lies += 1;
    }
    Ok(None)
}

fn is_truncated(message: &[u8]) -> bool {
    u16_at(message, 2) & 0x0200 != 0
}

/// The kernel draws the port.
async fn socket(upstream: SocketAddr) -> io::Result<UdpSocket> {
    let any: SocketAddr = match upstream {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(upstream).await?;
    Ok(socket)
}
