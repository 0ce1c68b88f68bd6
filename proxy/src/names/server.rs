//! From bytes to bytes: what both transports do with a question, and the sockets on which questions come.

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::rc::Rc;

use socket2::{Domain, Protocol, Socket, Type};

use super::Names;
use super::answer::alias::{question_about, reply_under_alias};
use super::answer::{Outcome, Step};
use super::forward;
use super::sight::{Dropped, Source};
use super::wire::{Code, Extended, Malformed, Query, Reply, Transport, cut, refusal};
use crate::clock;
use crate::config::Dns;

pub(super) mod tcp;
pub(super) mod udp;

/// Questions that wait for somebody else's answer, over all clients.
const WAITING_MAX: usize = 4096;
/// A question with one name and its options is far smaller.
const QUESTION_BYTES_MAX: usize = 4096;
/// Room for questions that come in a burst.
const RECEIVE_BYTES: usize = 1 << 20;
const BACKLOG: i32 = 1024;
/// Tries to find a port that is free for both, if any will do.
const BIND_TRIES: usize = 16;
/// RFC 8914, 4.1 and 4.19: too much is asked for.
const BUSY: Extended = Extended { code: 0, text: "too many questions wait" };
const TOO_MANY: Extended = Extended { code: 18, text: "too many questions from this client" };

/// Bound, so that nobody else can have the ports, and not yet read from.
#[derive(Debug)]
pub struct Sockets(Vec<(UdpSocket, TcpListener, SocketAddr)>);

/// One address, registered with the runtime.
#[derive(Debug)]
pub(super) struct Bound {
    pub(super) udp: tokio::net::UdpSocket,
    pub(super) tcp: tokio::net::TcpListener,
    pub(super) address: SocketAddr,
}

impl Sockets {
    /// At each address, or none at all; says which one failed. `inherited` may have those of a process before us.
    pub fn bind(
        dns: &Dns,
        mut inherited: impl FnMut(SocketAddr) -> Option<(UdpSocket, TcpListener)>,
    ) -> Result<Self, (SocketAddr, io::Error)> {
        let mut bound = Vec::with_capacity(dns.listen.len());
        for address in &dns.listen {
            if let Some((udp, tcp)) = inherited(*address) {
                let address = tcp.local_addr().map_err(|error| (*address, error))?;
                bound.push((udp, tcp, address));
                continue;
            }
            match bind(*address) {
                Ok(sockets) => bound.push(sockets),
                // A host without IPv6 has no ::1, and nobody asked for it.
                Err(error) if dns.listen_default && !bound.is_empty() && is_absent(&error) => {
                    tracing::info!(%address, %error, "names are not answered at this address");
                }
                Err(error) => return Err((*address, error)),
            }
        }
        Ok(Self(bound))
    }

    pub fn iter(&self) -> impl Iterator<Item = &(UdpSocket, TcpListener, SocketAddr)> {
        self.0.iter()
    }

    /// With their ports.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.0.iter().map(|(_, _, address)| *address).collect()
    }

    /// On the runtime that will read from them.
    pub(super) fn into_bound(self) -> io::Result<Vec<Bound>> {
        let bound = self.0.into_iter().map(|(udp, tcp, address)| {
            let udp = tokio::net::UdpSocket::from_std(udp)?;
            Ok(Bound { udp, tcp: tokio::net::TcpListener::from_std(tcp)?, address })
        });
        bound.collect()
    }
}

fn bind(address: SocketAddr) -> io::Result<(UdpSocket, TcpListener, SocketAddr)> {
    let mut tries = if address.port() == 0 { BIND_TRIES } else { 1 };
    loop {
        tries -= 1;
        let tcp = socket(address, Type::STREAM)?;
        tcp.listen(BACKLOG)?;
        let tcp = TcpListener::from(tcp);
        // Port 0 means any port, but the same for both.
        let address = tcp.local_addr()?;
        match socket(address, Type::DGRAM) {
            Ok(udp) => {
                // The kernel gives what it allows.
                let _ = udp.set_recv_buffer_size(RECEIVE_BYTES);
                return Ok((udp.into(), tcp, address));
            }
            Err(error) if tries == 0 => return Err(error),
            Err(_) => {}
        }
    }
}

fn socket(address: SocketAddr, kind: Type) -> io::Result<Socket> {
    let protocol = if kind == Type::STREAM { Protocol::TCP } else { Protocol::UDP };
    let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
    if kind == Type::STREAM {
        socket.set_reuse_address(true)?;
        socket.set_tcp_nodelay(true)?;
    }
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

fn is_absent(error: &io::Error) -> bool {
    let absent = [libc::EADDRNOTAVAIL, libc::EAFNOSUPPORT];
    error.raw_os_error().is_some_and(|code| absent.contains(&code))
}

/// A question as it came.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked {
    pub(super) via: Transport,
    pub(super) client: SocketAddr,
    /// Of `clock::now_ns`.
    at_ns: u64,
}

impl Asked {
    pub(super) fn now(via: Transport, client: SocketAddr) -> Self {
        Self { via, client, at_ns: clock::now_ns() }
    }

    /// As `clock::now_ms` counts.
    fn at_ms(self) -> u64 {
        self.at_ns / 1_000_000 + 1
    }
}

/// What comes of a question at once.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Now {
    /// The reply is written.
    Reply,
    /// No reply is due.
    Silence,
    /// `Names::later` has it, in a while.
    Later,
}

impl Names {
    /// Answers what can be answered at once.
    fn now(&self, asked: Asked, bytes: &[u8], out: &mut Vec<u8>) -> Now {
        let query = match Query::parse(bytes) {
            Ok(query) => query,
            Err(Malformed::Ignore) => {
                self.sight.dropped(Dropped::NoQuestion);
                return Now::Silence;
            }
            Err(Malformed::Refuse(code)) => {
                refusal(bytes, code, out);
                self.replied(asked, Source::Refused, out);
                return Now::Reply;
            }
        };
        let bytes_max = query.reply_bytes_max(asked.via);
        let source = match &self.limiter {
            Some(limiter) if !limiter.borrow_mut().allows(asked.client.ip(), asked.at_ns) => {
                Reply::to(&query, bytes_max, out).finish_with(Code::Refused, Some(TOO_MANY));
                Source::Refused
            }
            _ => match self.answerer.borrow_mut().answer(&query, (bytes_max, asked.at_ms()), out) {
                Outcome::Answered(_) => Source::Local,
                Outcome::Refused => Source::Refused,
                Outcome::Search => return Now::Later,
                Outcome::Forward => match self.forwarder.cached(&query, asked.via, asked.at_ms(), out) {
                    Some(source) => source.into(),
                    None => return Now::Later,
                },
            },
        };
        cut(out, &query, bytes_max);
        self.sight.log(&query, asked.client.ip(), source);
        self.replied(asked, source, out);
        Now::Reply
    }

    /// Answers what `now` left, perhaps with the help of others. `bytes` are a question, as `now` has seen.
    async fn later(self: Rc<Self>, asked: Asked, bytes: Box<[u8]>) -> Vec<u8> {
        let mut out = Vec::new();
        let Ok(query) = Query::parse(&bytes) else { return out };
        let bytes_max = query.reply_bytes_max(asked.via);
        let source = match self.place() {
            Some(_place) => self.found(&query, asked, &mut out).await,
            None => {
                Reply::to(&query, bytes_max, &mut out).finish_with(Code::ServFail, Some(BUSY));
                Source::Failed
            }
        };
        cut(&mut out, &query, bytes_max);
        self.sight.log(&query, asked.client.ip(), source);
        self.replied(asked, source, &out);
        out
    }

    /// Along the client's search list, if that is what the name is on; otherwise straight from others.
    async fn found(self: &Rc<Self>, query: &Query<'_>, asked: Asked, out: &mut Vec<u8>) -> Source {
        let limits = (query.reply_bytes_max(asked.via), asked.at_ms());
        // What others say about the name itself stands if the path leads nowhere.
        let mut own: Option<(Vec<u8>, forward::Source)> = None;
        let mut place = match self.answerer.borrow_mut().answer(query, limits, out) {
            Outcome::Search => Some(0),
            Outcome::Forward => None,
            // It has become ours since.
            Outcome::Answered(_) | Outcome::Refused => return Source::Local,
        };
        while let Some(from) = place {
            let step = self.answerer.borrow().walk(query, from, limits, out);
            match step {
                Step::Answered => return Source::Local,
                Step::Nowhere => break,
                Step::Ask(at, name) => {
                    let question = question_about(query, &name);
                    let (reply, source) =
                        Rc::clone(&self.forwarder).resolve(question, asked.client, asked.via).await;
                    let no_such_name = reply.get(3).is_some_and(|flags| flags & 0x0f == Code::NxDomain as u8);
                    if at == 0 {
                        own = Some((reply.clone(), source));
                    }
                    if !no_such_name && at == 0 {
                        break;
                    }
                    if !no_such_name && let Some(reply) = reply_under_alias(query, &reply, self.dns.ttl_s) {
                        *out = reply;
                        return source.into();
                    }
                    place = Some(at + 1);
                }
            }
        }
        let (reply, source) = match own {
            Some(own) => own,
            None => Rc::clone(&self.forwarder).resolve(query.message.into(), asked.client, asked.via).await,
        };
        *out = reply;
        source.into()
    }

    /// A place among those that wait, until it is dropped.
    fn place(self: &Rc<Self>) -> Option<Place> {
        if self.waiting.get() >= WAITING_MAX {
            return None;
        }
        self.waiting.set(self.waiting.get() + 1);
        Some(Place(Rc::clone(self)))
    }

    fn replied(&self, asked: Asked, source: Source, reply: &[u8]) {
        let took_ns = clock::now_ns().saturating_sub(asked.at_ns);
        self.sight.replied(asked.via, source, reply, took_ns);
    }
}

#[derive(Debug)]
struct Place(Rc<Names>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.waiting.set(self.0.waiting.get() - 1);
    }
}
