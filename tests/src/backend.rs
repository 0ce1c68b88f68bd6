//! Scripted HTTP/1.1 servers: a thread per connection, a function that answers, and a record of what came.

use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use crate::shared::Shared;
use crate::wire::{Body, Framing, Head, Trouble, Wire};

/// A server that ends when it is dropped.
#[derive(Debug)]
pub struct Backend {
    pub address: SocketAddr,
    record: Arc<Record>,
}

/// What the server has seen.
#[derive(Debug, Default)]
struct Record {
    connections: AtomicU64,
    /// Heads that came whole.
    requests: AtomicU64,
    stopped: AtomicBool,
    heads: Shared<Vec<Head>>,
    bodies: Shared<Vec<Body>>,
    streams: Shared<Vec<TcpStream>>,
}

/// A request on its way to an answer.
#[derive(Debug)]
pub struct Exchange<'a> {
    pub head: Head,
    /// The connection's number, from 0.
    pub connection: u64,
    /// How many requests came on this connection before.
    pub before: u64,
    pub wire: &'a mut Wire,
    framing: Framing,
    record: &'a Record,
}

/// What becomes of the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    Keep,
    Close,
}

/// What answers, possibly many times at once.
type Script = dyn Fn(&mut Exchange<'_>) -> Next + Send + Sync;

/// Heads and bodies remembered; under load only the first ones matter.
const REMEMBERED_MAX: usize = 1_000;
const IDLE_MAX: Duration = Duration::from_secs(120);

impl Backend {
    /// Answers every request with 200 and its name, in `x-backend` and as the body.
    pub fn named(name: &str) -> Self {
        let name = name.to_owned();
        Self::scripted(move |exchange| {
            let _ = exchange.body();
            exchange.reply(&name)
        })
    }

    pub fn scripted(script: impl Fn(&mut Exchange<'_>) -> Next + Send + Sync + 'static) -> Self {
        Self::on(TcpListener::bind("127.0.0.1:0").unwrap(), script)
    }

    /// Serves an address that is bound already.
    pub fn on(
        listener: TcpListener,
        script: impl Fn(&mut Exchange<'_>) -> Next + Send + Sync + 'static,
    ) -> Self {
        let address = listener.local_addr().unwrap();
        let record = Arc::new(Record::default());
        let script: Arc<Script> = Arc::new(script);
        let accepting = Arc::clone(&record);
        std::thread::spawn(move || accept(&listener, &accepting, &script));
        Self { address, record }
    }

    pub fn requests(&self) -> u64 {
        self.record.requests.load(SeqCst)
    }

    pub fn connections(&self) -> u64 {
        self.record.connections.load(SeqCst)
    }

    /// The first thousand.
    pub fn heads(&self) -> Vec<Head> {
        self.record.heads.with(|heads| heads.clone())
    }

    pub fn last_head(&self) -> Head {
        self.heads().pop().expect("a request has come")
    }

    /// Those that a script has asked for, in order.
    pub fn bodies(&self) -> Vec<Body> {
        self.record.bodies.with(|bodies| bodies.clone())
    }

    /// Ends all connections that are open now; new ones are taken.
    pub fn cut_connections(&self) {
        self.record.streams.with(|streams| {
            for stream in streams.drain(..) {
                // It may have ended by itself.
                let _ = stream.shutdown(Shutdown::Both);
            }
        });
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.record.stopped.store(true, SeqCst);
        // Wakes the accepting thread.
        let _ = TcpStream::connect(self.address);
        self.cut_connections();
    }
}

impl Exchange<'_> {
    /// Reads the request's body.
    pub fn body(&mut self) -> Result<Body, Trouble> {
        let body = self.wire.body(std::mem::replace(&mut self.framing, Framing::None))?;
        self.record.bodies.with(|bodies| remember(bodies, &body));
        Ok(body)
    }

    /// Reads a large body without keeping it.
    pub fn stream_body(&mut self, sink: impl FnMut(&[u8])) -> Result<Vec<(String, String)>, Trouble> {
        Ok(self.wire.stream_body(std::mem::replace(&mut self.framing, Framing::None), sink)?.0)
    }

    /// 200 with the name as header and body.
    pub fn reply(&mut self, name: &str) -> Next {
        let length = name.len();
        let body = if self.head.method() == "HEAD" { "" } else { name };
        self.send(format!("HTTP/1.1 200 OK\r\nx-backend: {name}\r\ncontent-length: {length}\r\n\r\n{body}"))
    }

    /// A status with an empty body.
    pub fn status(&mut self, status: u16, name: &str) -> Next {
        self.send(format!("HTTP/1.1 {status} Status\r\nx-backend: {name}\r\ncontent-length: 0\r\n\r\n"))
    }

    /// Any bytes; keeps the connection if they could be written.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> Next {
        match self.wire.send(bytes) {
            Ok(()) => Next::Keep,
            Err(_) => Next::Close,
        }
    }
}

fn accept(listener: &TcpListener, record: &Arc<Record>, script: &Arc<Script>) {
    while let Ok((stream, _)) = listener.accept() {
        if record.stopped.load(SeqCst) {
            return;
        }
        let number = record.connections.fetch_add(1, SeqCst);
        let (record, script) = (Arc::clone(record), Arc::clone(script));
        if let Ok(clone) = stream.try_clone() {
            record.streams.with(|streams| streams.push(clone));
        }
        std::thread::spawn(move || serve(stream, number, &record, &*script));
    }
}

fn serve(stream: TcpStream, connection: u64, record: &Record, script: &Script) {
    let closing = stream.try_clone();
    let _ = stream.set_nodelay(true);
    let _ = stream.set_read_timeout(Some(IDLE_MAX));
    let mut wire = Wire::new(stream);
    for before in 0.. {
        let Ok(head) = wire.head() else { break };
        record.requests.fetch_add(1, SeqCst);
        record.heads.with(|heads| remember(heads, &head));
        let Ok(framing) = head.framing(Framing::None) else { break };
        let mut exchange = Exchange { head, connection, before, wire: &mut wire, framing, record };
        let next = script(&mut exchange);
        if next == Next::Close || exchange.framing != Framing::None && exchange.body().is_err() {
            break;
        }
    }
    if let Ok(stream) = closing {
        // The clone kept for `cut_connections` would hold it open.
        let _ = stream.shutdown(Shutdown::Both);
    }
}

fn remember<T: Clone>(list: &mut Vec<T>, item: &T) {
    if list.len() < REMEMBERED_MAX {
        list.push(item.clone());
    }
}
