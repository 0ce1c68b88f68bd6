//! Questions over one connection to an upstream, many at a time, answered in any order (RFC 7766), with or without TLS
//! (RFC 7858).
//!
//! A task owns the connection for as long as it is used and a little longer; askers reach it through a bounded queue.
//! Invariant: ids are unique among the questions that wait, and whatever ends the connection is told to all of them.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::task::spawn_local;
use tokio::time::{Instant, sleep_until, timeout};

use super::attempt::Failure;
use super::question::{Lie, fits};
use super::random::Random;
use super::upstream::Upstream;
use crate::config::ResolverVia;

/// Waiting to be sent.
const QUEUE_MAX: usize = 256;
/// Sent, and not answered.
const PENDING_MAX: usize = 256;
const CONNECT_TIME_MAX: Duration = Duration::from_secs(2);
const WRITE_TIME_MAX: Duration = Duration::from_secs(2);
/// Without a byte, while somebody waits.
const SILENCE_MAX: Duration = Duration::from_secs(3);
/// With nothing to do.
const IDLE_TIME_MAX: Duration = Duration::from_secs(10);
const LENGTH_BYTES: usize = 2;
/// What one read makes room for.
const READ_BYTES: usize = 4096;

/// The way to the connection, if there is one.
#[derive(Debug, Default)]
pub(super) struct Stream(RefCell<Option<mpsc::Sender<Request>>>);

#[derive(Debug)]
struct Request {
    message: Vec<u8>,
    /// Name, type and class, as they are in the message.
    asked: Box<[u8]>,
    reply: oneshot::Sender<Result<Vec<u8>, Failure>>,
}

/// A question that waits for its reply.
struct Pending {
    asked: Box<[u8]>,
    reply: oneshot::Sender<Result<Vec<u8>, Failure>>,
}

/// Asks on the connection that there is, or on a new one.
pub(super) async fn ask(
    upstream: &Rc<Upstream>,
    random: &Rc<Random>,
    message: Vec<u8>,
    asked: &[u8],
) -> Result<Vec<u8>, Failure> {
    // A server may close a connection just when it is used again, which says nothing about the server.
    for _ in 0..2 {
        let (reply, answer) = oneshot::channel();
        let request = Request { message: message.clone(), asked: asked.into(), reply };
        let (sender, is_new) = connection(upstream, random);
        // A queue that is full will not be shorter soon.
        if let Err(error) = sender.try_send(request) {
            match error {
                mpsc::error::TrySendError::Full(_) => return Err(Failure::Busy),
                mpsc::error::TrySendError::Closed(_) => continue,
            }
        }
        match answer.await {
            Ok(Err(Failure::Closed)) | Err(_) if !is_new => {}
            Ok(result) => return result,
            Err(_) => return Err(Failure::Closed),
        }
    }
    Err(Failure::Closed)
}

/// The queue of the connection, and whether it has just been begun.
fn connection(upstream: &Rc<Upstream>, random: &Rc<Random>) -> (mpsc::Sender<Request>, bool) {
    let mut current = upstream.stream.0.borrow_mut();
    if let Some(sender) = current.as_ref().filter(|sender| !sender.is_closed()) {
        return (sender.clone(), false);
    }
    let (sender, requests) = mpsc::channel(QUEUE_MAX);
    *current = Some(sender.clone());
    spawn_local(carry(Rc::clone(upstream), Rc::clone(random), requests));
    (sender, true)
}

/// From the first question to the end of the connection.
async fn carry(upstream: Rc<Upstream>, random: Rc<Random>, mut requests: mpsc::Receiver<Request>) {
    let mut conversation = Conversation { upstream, random, waiting: HashMap::new() };
    let end = conversation.run(&mut requests).await;
    requests.close();
    for pending in conversation.waiting.into_values() {
        // Whoever waited may have gone.
        let _ = pending.reply.send(Err(end));
    }
    while let Ok(request) = requests.try_recv() {
        let _ = request.reply.send(Err(end));
    }
}

struct Conversation {
    upstream: Rc<Upstream>,
    random: Rc<Random>,
    /// By id.
    waiting: HashMap<u16, Pending>,
}

impl Conversation {
    async fn run(&mut self, requests: &mut mpsc::Receiver<Request>) -> Failure {
        let stream = match timeout(CONNECT_TIME_MAX, TcpStream::connect(self.upstream.address())).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Failure::of(&error),
            Err(_) => return Failure::Timeout,
        };
        // It only saves time.
        let _ = stream.set_nodelay(true);
        let ResolverVia::Tls { server_name } = &self.upstream.resolver.via else {
            return self.talk(stream, requests).await;
        };
        // Strict (RFC 7858, section 4.2): whom we cannot trust we do not ask.
        let Some(tls) = self.upstream.tls.clone() else { return Failure::Tls };
        match timeout(CONNECT_TIME_MAX, tls.connect(server_name, stream)).await {
            Ok(Ok(stream)) => self.talk(stream, requests).await,
            Ok(Err(error)) => {
                tracing::debug!(upstream = %self.upstream.resolver, %error, "TLS");
                Failure::Tls
            }
            Err(_) => Failure::Tls,
        }
    }

    async fn talk<S: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        mut stream: S,
        requests: &mut mpsc::Receiver<Request>,
    ) -> Failure {
        let mut heard = Vec::new();
        let mut quiet_since = Instant::now();
        loop {
            let patience = if self.waiting.is_empty() { IDLE_TIME_MAX } else { SILENCE_MAX };
            heard.reserve(READ_BYTES);
            tokio::select! {
                request = requests.recv(), if self.waiting.len() < PENDING_MAX => {
                    let Some(request) = request else { return Failure::Closed };
                    // Time counts from a question, unless others wait already.
                    if self.waiting.is_empty() {
                        quiet_since = Instant::now();
                    }
                    if let Err(failure) = self.send(&mut stream, request).await {
                        return failure;
                    }
                }
                read = stream.read_buf(&mut heard) => match read {
                    Ok(0) => return Failure::Closed,
                    Ok(_) => {
                        quiet_since = Instant::now();
                        if let Err(failure) = self.take(&mut heard) {
                            return failure;
                        }
                    }
                    Err(error) => return Failure::of(&error),
                },
                () = sleep_until(quiet_since + patience) => {
                    let somebody_waits = self.waiting.values().any(|pending| !pending.reply.is_closed());
                    return if somebody_waits { Failure::Timeout } else { Failure::Closed };
                }
            }
        }
    }

    async fn send<S: AsyncWrite + Unpin>(&mut self, stream: &mut S, request: Request) -> Result<(), Failure> {
        let Request { mut message, asked, reply } = request;
        if self.waiting.len() > PENDING_MAX / 2 {
            // Whoever has stopped waiting has left a question behind.
            self.waiting.retain(|_, pending| !pending.reply.is_closed());
        }
        let id = self.free_id();
        message[..2].copy_from_slice(&id.to_be_bytes());
        let framed = [&(message.len() as u16).to_be_bytes()[..], &message].concat();
        self.waiting.insert(id, Pending { asked, reply });
        let written = timeout(WRITE_TIME_MAX, async {
            stream.write_all(&framed).await?;
            stream.flush().await
        });
        match written.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(Failure::of(&error)),
            Err(_) => Err(Failure::Timeout),
        }
    }

    /// At most `PENDING_MAX` of 65,536 are taken.
    fn free_id(&self) -> u16 {
        loop {
            let id = self.random.id();
            if !self.waiting.contains_key(&id) {
                return id;
            }
        }
    }

    /// Hands out all replies that are whole.
    fn take(&mut self, heard: &mut Vec<u8>) -> Result<(), Failure> {
        let mut at = 0;
        while let Some(message) = next_message(&heard[at..])? {
            self.hand_out(message);
            at += LENGTH_BYTES + message.len();
        }
        heard.drain(..at);
        Ok(())
    }

    fn hand_out(&mut self, message: &[u8]) {
        let id = u16::from_be_bytes([message[0], message[1]]);
        let lie = match self.waiting.get(&id) {
            None => Lie::Id,
            Some(pending) => match fits(message, id, &pending.asked) {
                Ok(()) => {
                    if let Some(pending) = self.waiting.remove(&id) {
                        // Another upstream may have been faster.
                        let _ = pending.reply.send(Ok(message.to_vec()));
                    }
                    return;
                }
                Err(lie) => lie,
            },
        };
        self.upstream.metrics.lie(lie);
    }
}

/// The first message of what has been read, if it is whole.
pub(super) fn next_message(heard: &[u8]) -> Result<Option<&[u8]>, Failure> {
    let Some((length, rest)) = heard.split_at_checked(LENGTH_BYTES) else { return Ok(None) };
    let length = usize::from(u16::from_be_bytes([length[0], length[1]]));
    // Not even a header: what follows cannot be trusted to be where it seems.
    if length < crate::names::wire::HEADER_BYTES {
        return Err(Failure::Malformed);
    }
    Ok(rest.get(..length))
}
