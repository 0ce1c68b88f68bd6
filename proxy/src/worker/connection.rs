//! One client connection: request after request until one side has had enough.
//!
//! While it waits for a request it holds no buffer. Heads have a deadline of their own, so that nobody can keep a
//! connection busy with half a head.

use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::Instant;

use super::accept::Seat;
use super::captured::Destination;
use super::deadline::{Deadline, at_once};
use super::http1::Buffer;
use super::respond::{self, Reason};
use super::socket::Socket;
use super::{Worker, request};
use crate::head::{BadHead, Framing, Progress, RequestFacts, ResponseHead};

/// From the first byte of a head to its last.
const HEAD_TIMEOUT: Duration = Duration::from_secs(15);
/// How long a refused client may take to read why, and how much of what it still sends is thrown away meanwhile.
const LINGER: Duration = Duration::from_secs(2);
const LINGER_BYTES_MAX: usize = 256 * 1024;

/// Our end of a client's connection, with the buffers in use while a request is served.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) socket: Socket,
    /// What the client has sent and nobody has taken yet.
    pub(super) buffer: Buffer,
    /// What is to be written next, to either side.
    pub(super) out: Vec<u8>,
    /// Kept for its allocations.
    pub(super) response: ResponseHead,
    /// The request's body has not been read to its end.
    pub(super) unread: bool,
    /// It ends by a reset, without an answer.
    pub(super) broken: bool,
}

/// Who the client is.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) address: SocketAddr,
    /// For the access log; empty if there is none.
    pub(super) text: String,
    /// Where it meant to go.
    pub(super) destination: Destination,
}

impl Client {
    pub(super) fn new(socket: Socket) -> Self {
        Self {
            socket,
            buffer: Buffer::default(),
            out: Vec::new(),
            response: ResponseHead::default(),
            unread: false,
            broken: false,
        }
    }
}

impl Peer {
    pub(super) fn new(worker: &Worker, address: SocketAddr) -> Self {
        let text = if worker.access.is_some() { address.to_string() } else { String::new() };
        Self { address, text, destination: Destination::Authority }
    }
}

/// Serves a connection that was made to us knowingly, to its end.
pub(super) async fn serve(worker: Rc<Worker>, socket: Socket, address: SocketAddr, seat: Seat) {
    let peer = Peer::new(&worker, address);
    let mut client = Client::new(socket);
    // Most clients come with a request in hand.
    equip(&worker, &mut client);
    if !matches!(client.buffer.read_now(&client.socket), Some(Ok(1..))) {
        unequip(&worker, &mut client);
    }
    converse(&worker, &mut client, &peer, &seat).await;
    release(&worker, client);
}

/// Request after request, until one side has had enough.
pub(super) async fn converse(worker: &Worker, client: &mut Client, peer: &Peer, seat: &Seat) {
    let mut idle_since = Instant::now();
    let deadline = Deadline::new(idle_since + HEAD_TIMEOUT);
    let mut facts = Some(Box::<RequestFacts>::default());
    loop {
        seat.idle();
        if client.buffer.is_empty() {
            deadline.set(idle_since + worker.idle_timeout());
            if !matches!(deadline.run(pin!(client.socket.readable())).await, Ok(Ok(()))) {
                return;
            }
        }
        seat.busy();
        equip(worker, client);
        let kept = match head(worker, client, &mut facts, peer, &deadline).await {
            Ok(at) => request::serve(worker, client, &mut facts, peer, (at, &deadline)).await,
            Err(None) => return,
            Err(Some(reason)) => {
                client.unread = true;
                refuse(worker, client, reason, &deadline).await;
                None
            }
        };
        // A policy that never gave the request back cannot happen; a fresh one costs nothing.
        facts.get_or_insert_default();
        match kept {
            Some(at) if !worker.draining.get() => idle_since = at,
            _ if client.broken => return client.socket.break_off(),
            _ => {
                if client.unread || !client.buffer.is_empty() || has_more(client) {
                    linger(client, &deadline).await;
                }
                return;
            }
        }
        if client.buffer.is_empty() {
            unequip(worker, client);
        }
    }
}

/// Reads one head into `facts` and answers when it was there. `Err(None)` says that the client left without a request.
async fn head(
    worker: &Worker,
    client: &mut Client,
    facts: &mut Option<Box<RequestFacts>>,
    peer: &Peer,
    deadline: &Deadline,
) -> Result<Instant, Option<Reason>> {
    let facts = facts.get_or_insert_default();
    facts.source = peer.address.ip();
    facts.tried.clear();
    let mut waiting = false;
    loop {
        // An empty line before a request is a client's old habit (RFC 9112, 2.2).
        while client.buffer.filled().starts_with(b"\r\n") {
            client.buffer.consume(2);
        }
        if !client.buffer.is_empty() {
            match facts.head.parse(client.buffer.filled(), worker.head_limits) {
                Ok(Progress::Complete(length)) => {
                    client.buffer.consume(length);
                    client.unread = facts.head.framing() != Framing::None;
                    return Ok(Instant::now());
                }
                Ok(Progress::Partial) => {}
                Err(bad) => return Err(Some(Reason::Head(bad))),
            }
        }
        let read = {
            let mut read = pin!(client.buffer.read_from(&client.socket));
            match at_once(read.as_mut()).await {
                Some(read) => Ok(read),
                None => {
                    if !std::mem::replace(&mut waiting, true) {
                        deadline.set_after(HEAD_TIMEOUT);
                    }
                    deadline.run(read).await
                }
            }
        };
        match read {
            Ok(Ok(1..)) => {}
            Ok(Ok(_)) if client.buffer.is_empty() => return Err(None),
            Ok(Ok(_)) => return Err(Some(Reason::Head(BadHead::Syntax))),
            Ok(Err(_)) => return Err(None),
            Err(_) if client.buffer.is_empty() => return Err(None),
            Err(_) => return Err(Some(Reason::HeadTimeout)),
        }
    }
}

/// Tells the client why its request was not one.
async fn refuse(worker: &Worker, client: &mut Client, reason: Reason, deadline: &Deadline) {
    worker.bad_request(reason);
    client.out.clear();
    respond::refuse(&mut client.out, reason, false, true);
    deadline.set_after(LINGER);
    let _ = deadline.run(pin!(client.socket.write_all(&client.out))).await;
}

/// Whether a client that nobody has watched has sent more than its request.
fn has_more(client: &mut Client) -> bool {
    !client.socket.is_watched() && matches!(client.buffer.read_now(&client.socket), Some(Ok(1..)))
}

/// Ends our side and reads what is still coming, so that the client sees our last answer and not a reset.
async fn linger(client: &mut Client, deadline: &Deadline) {
    if client.socket.end().is_err() {
        return;
    }
    deadline.set_after(LINGER);
    let mut seen = 0;
    client.buffer.clear();
    while seen < LINGER_BYTES_MAX {
        match deadline.run(pin!(client.buffer.read_from(&client.socket))).await {
            Ok(Ok(count @ 1..)) => seen += count,
            _ => return,
        }
        client.buffer.clear();
    }
}

/// Buffers for a request, from those the worker has at hand.
pub(super) fn equip(worker: &Worker, client: &mut Client) {
    if client.buffer.is_empty() {
        client.buffer = Buffer::from_vec(worker.take_buffer());
    }
    if client.out.capacity() == 0 {
        client.out = worker.take_buffer();
    }
}

pub(super) fn unequip(worker: &Worker, client: &mut Client) {
    worker.keep_buffer(std::mem::take(&mut client.buffer).into_vec());
    let mut out = std::mem::take(&mut client.out);
    out.clear();
    worker.keep_buffer(out);
}

pub(super) fn release(worker: &Worker, mut client: Client) {
    client.buffer.clear();
    unequip(worker, &mut client);
}
