//! Questions over TCP (RFC 7766): many on one connection, answered as their answers come.
//!
//! Each connection has a reader and a writer. A question takes one of a bounded number of places before it is read,
//! and keeps it until its reply is written: a client that does not read is not read from, and holds up nobody else.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::timeout;

use super::{Asked, Now, QUESTION_BYTES_MAX};
use crate::names::Names;
use crate::names::sight::Dropped;
use crate::names::wire::{MESSAGE_BYTES_MAX, Transport};

/// After an error of `accept`, such as too many open files.
const PAUSE: Duration = Duration::from_millis(100);
/// Read at once: many questions, one call.
const READ_BYTES: usize = 2048;
/// Replies put together for one write.
const WRITE_BYTES_MAX: usize = 16 * 1024;

/// Its place is free when it is written.
type Queued = (Vec<u8>, OwnedSemaphorePermit);

pub(in crate::names) async fn run(names: Rc<Names>, listener: TcpListener) {
    loop {
        match listener.accept().await {
            Ok((stream, client)) if names.connections.get() < names.dns.limits.connections_max => {
                names.connections.set(names.connections.get() + 1);
                names.sight.connections.inc();
                let names = Rc::clone(&names);
                tokio::task::spawn_local(async move {
                    let asked = move || Asked::now(Transport::Tcp, client);
                    connection(&names, stream, asked).await;
                    names.connections.set(names.connections.get() - 1);
                    names.sight.connections.dec();
                });
            }
            // Those that are there keep their places; this one may try again.
            Ok(_) => names.sight.dropped(Dropped::Connections),
            Err(error) => {
                tracing::warn!(%error, "names over TCP: cannot accept");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

async fn connection(names: &Rc<Names>, stream: TcpStream, asked: impl Fn() -> Asked) {
    let (read, write) = stream.into_split();
    let in_flight_max = names.dns.limits.in_flight_max;
    let (replies, queue) = mpsc::channel(in_flight_max);
    let places = Arc::new(Semaphore::new(in_flight_max));
    let writing = writer(names, write, queue);
    // What is still being looked up when the client has said its last word is written all the same; a client that
    // takes no replies is not read from any more.
    let reading = reader(names, BufReader::with_capacity(READ_BYTES, read), (places, replies), asked);
    tokio::pin!(writing);
    tokio::select! {
        () = reading => writing.await,
        () = &mut writing => {}
    }
}

/// Ends at the end of the stream, and at anything that is no question: there is no way back into step.
async fn reader(
    names: &Rc<Names>,
    mut stream: BufReader<OwnedReadHalf>,
    (places, replies): (Arc<Semaphore>, mpsc::Sender<Queued>),
    asked: impl Fn() -> Asked,
) {
    let idle = names.dns.limits.idle;
    let mut bytes = vec![0; QUESTION_BYTES_MAX];
    loop {
        // The writer bounds how long this takes.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let Ok(Ok(length)) = timeout(idle, stream.read_u16()).await else { return };
        let Some(question) = bytes.get_mut(..usize::from(length)) else { return };
        let Ok(Ok(_)) = timeout(idle, stream.read_exact(question)).await else { return };
        let asked = asked();
        let mut reply = Vec::new();
        match names.now(asked, question, &mut reply) {
            Now::Silence => return,
            Now::Reply => {
                // There is room for as many as there are places.
                if replies.try_send((reply, place)).is_err() {
                    return;
                }
            }
            Now::Later => {
                let (names, replies) = (Rc::clone(names), replies.clone());
                let question = Box::from(&*question);
                tokio::task::spawn_local(async move {
                    let reply = names.later(asked, question).await;
                    // A client that has gone away needs none.
                    let _ = replies.try_send((reply, place));
                });
            }
        }
    }
}

/// Ends when nobody can queue any more, or when the client does not take what it asked for.
async fn writer(names: &Names, mut stream: OwnedWriteHalf, mut queue: mpsc::Receiver<Queued>) {
    let mut bytes = Vec::new();
    let mut places = Vec::new();
    while let Some(first) = queue.recv().await {
        bytes.clear();
        let mut next = Some(first);
        while let Some((reply, place)) = next {
            // Replies are cut to what the length can say.
            let length = u16::try_from(reply.len().min(MESSAGE_BYTES_MAX)).unwrap_or(u16::MAX);
            bytes.extend_from_slice(&length.to_be_bytes());
            bytes.extend_from_slice(&reply[..usize::from(length)]);
            places.push(place);
            next = if bytes.len() < WRITE_BYTES_MAX { queue.try_recv().ok() } else { None };
        }
        match timeout(names.dns.limits.idle, stream.write_all(&bytes)).await {
            Ok(Ok(())) => places.clear(),
            Ok(Err(_)) => return,
            Err(_) => {
                names.sight.dropped(Dropped::SlowClient);
                return;
            }
        }
    }
}
