//! A resolver upstream that does what a script says, over UDP and TCP on one port of loopback.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use std::time::Duration;

use socket2::SockRef;

use crate::shared::Shared;

pub const A: u16 = 1;
pub const CNAME: u16 = 5;
pub const SOA: u16 = 6;
pub const TXT: u16 = 16;
pub const AAAA: u16 = 28;
const OPT: u16 = 41;
const RRSIG: u16 = 46;
const HEADER_BYTES: usize = 12;
/// How often a thread looks whether it shall end.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What has been asked.
#[derive(Debug, Clone)]
pub struct Question {
    /// Lower case, without a dot at the end.
    pub name: String,
    pub kind: u16,
    pub tcp: bool,
    /// The client wants signatures.
    pub dnssec: bool,
    pub message: Vec<u8>,
    end: usize,
}

/// A reply in the making.
#[derive(Debug, Clone)]
pub struct Reply {
    pub bytes: Vec<u8>,
}

/// What is sent for a question: none, one or several messages.
type Script = dyn Fn(&Question) -> Vec<Reply> + Send + Sync;

/// A resolver that serves until it is dropped.
#[derive(Debug)]
pub struct Resolver {
    pub address: SocketAddr,
    heard: Shared<Vec<Question>>,
    ending: Arc<AtomicBool>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Drop for Resolver {
    fn drop(&mut self) {
        self.ending.store(true, SeqCst);
        for thread in self.threads.drain(..) {
            // A script that has failed has said so.
            let _ = thread.join();
        }
    }
}

impl Resolver {
    pub fn start(script: impl Fn(&Question) -> Vec<Reply> + Send + Sync + 'static) -> Self {
        Self::start_at("127.0.0.1:0".parse().unwrap(), script)
    }

    pub fn start_at(
        address: SocketAddr,
        script: impl Fn(&Question) -> Vec<Reply> + Send + Sync + 'static,
    ) -> Self {
        let (tcp, udp) = bind(address).unwrap();
        let address = udp.local_addr().unwrap();
        let stage =
            Stage { script: Arc::new(script), heard: Shared::new(Vec::new()), ending: Arc::default() };
        let (heard, ending) = (stage.heard.clone(), Arc::clone(&stage.ending));
        let other = stage.clone();
        let threads = vec![thread::spawn(move || stage.udp(&udp)), thread::spawn(move || other.tcp(&tcp))];
        Self { address, heard, ending, threads }
    }

    /// How often this name has been asked for, whatever the type.
    pub fn heard(&self, name: &str) -> usize {
        self.heard.with(|heard| heard.iter().filter(|question| question.name == name).count())
    }

    pub fn all_heard(&self) -> Vec<Question> {
        self.heard.with(|heard| heard.clone())
    }
}

/// Both on one port; one that is free for TCP may be taken for UDP.
fn bind(address: SocketAddr) -> io::Result<(TcpListener, UdpSocket)> {
    loop {
        let tcp = TcpListener::bind(address)?;
        match UdpSocket::bind(tcp.local_addr()?) {
            Ok(udp) => return Ok((tcp, udp)),
            Err(error) if address.port() != 0 => return Err(error),
            Err(_) => {}
        }
    }
}

#[derive(Clone)]
struct Stage {
    script: Arc<Script>,
    heard: Shared<Vec<Question>>,
    ending: Arc<AtomicBool>,
}

impl Stage {
    fn ends(&self) -> bool {
        self.ending.load(SeqCst)
    }

    fn replies(&self, message: &[u8], tcp: bool) -> Vec<Reply> {
        let question = Question::read(message, tcp);
        self.heard.with(|heard| heard.push(question.clone()));
        (self.script)(&question)
    }

    fn udp(&self, socket: &UdpSocket) {
        socket.set_read_timeout(Some(LOOK_EVERY)).unwrap();
        let mut buffer = [0; 4096];
        while !self.ends() {
            // Nothing has come, or an answer could not be delivered.
            let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
            for reply in self.replies(&buffer[..length], false) {
                let _ = socket.send_to(&reply.bytes, from);
            }
        }
    }

    fn tcp(&self, listener: &TcpListener) {
        // Linux has it apply to `accept`, too.
        SockRef::from(listener).set_read_timeout(Some(LOOK_EVERY)).unwrap();
        let mut connections = Vec::new();
        while !self.ends() {
            // Nobody has come, or has gone again.
            let Ok((stream, _)) = listener.accept() else { continue };
            let stage = self.clone();
            connections.push(thread::spawn(move || drop(stage.connection(stream))));
        }
        connections.into_iter().for_each(|connection| drop(connection.join()));
    }

    fn connection(&self, mut stream: TcpStream) -> io::Result<()> {
        stream.set_read_timeout(Some(LOOK_EVERY))?;
        let mut read = Vec::new();
        while !self.ends() {
            let mut buffer = [0; 4096];
            match stream.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(length) => read.extend_from_slice(&buffer[..length]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
            while let Some(message) = first_message(&mut read) {
                for reply in self.replies(&message, true) {
                    let length = u16::try_from(reply.bytes.len()).unwrap().to_be_bytes();
                    stream.write_all(&[&length[..], &reply.bytes].concat())?;
                }
            }
        }
        Ok(())
    }
}

fn first_message(read: &mut Vec<u8>) -> Option<Vec<u8>> {
    let length = usize::from(u16::from_be_bytes([*read.first()?, *read.get(1)?]));
    let message = read.get(2..2 + length)?.to_vec();
    read.drain(..2 + length);
    Some(message)
}

impl Question {
    /// What comes from the program under test is in order, or the test fails.
    fn read(message: &[u8], tcp: bool) -> Self {
        let (mut labels, mut at) = (Vec::new(), HEADER_BYTES);
        while message[at] != 0 {
            let end = at + 1 + usize::from(message[at]);
            labels.push(String::from_utf8_lossy(&message[at + 1..end]).to_ascii_lowercase());
            at = end;
        }
        let end = at + 5;
        let kind = u16::from_be_bytes([message[at + 1], message[at + 2]]);
        // An OPT record follows at once, if there is one: root, type, size, code, version and flags.
        let dnssec = message.get(end + 7).is_some_and(|flags| flags & 0x80 != 0);
        Self { name: labels.join("."), kind, tcp, dnssec, message: message.to_vec(), end }
    }

    /// Nothing in it yet.
    pub fn reply(&self, code: u8) -> Reply {
        let mut bytes = vec![self.message[0], self.message[1], 0x81, 0x80 | code, 0, 1, 0, 0, 0, 0, 0, 0];
        bytes.extend_from_slice(&self.message[HEADER_BYTES..self.end]);
        Reply { bytes }
    }

    /// So many addresses of this name.
    pub fn addresses(&self, count: u8, ttl: u32) -> Reply {
        (0..count).fold(self.reply(0), |reply, n| reply.answer(&self.name, A, ttl, &[10, 1, 0, n]))
    }

    /// There is none, for a minute.
    pub fn nothing(&self, code: u8) -> Reply {
        let numbers = [1_u32, 3600, 600, 86400, 60].map(u32::to_be_bytes).concat();
        let data = [wire("ns.example"), wire("hostmaster.example"), numbers].concat();
        self.reply(code).record(8, "example", SOA, 300, &data)
    }
}

impl Reply {
    pub fn answer(self, owner: &str, kind: u16, ttl: u32, data: &[u8]) -> Self {
        self.record(6, owner, kind, ttl, data)
    }

    /// A signature that nobody checks.
    pub fn signature(self, owner: &str, kind: u16) -> Self {
        let mut data = [&kind.to_be_bytes()[..], &[13, 2], &60_u32.to_be_bytes()].concat();
        data.extend([0x7f, 0, 0, 0, 0x60, 0, 0, 0, 0x12, 0x34]);
        data.extend(wire("example"));
        data.extend([7; 64]);
        self.answer(owner, RRSIG, 60, &data)
    }

    /// An OPT record with DO and these options, at the end.
    pub fn opt(mut self, options: &[u8]) -> Self {
        self.bytes[11] += 1;
        self.bytes.extend([0, 0, OPT as u8, 4, 208, 0, 0, 0x80, 0]);
        self.bytes.extend(u16::try_from(options.len()).unwrap().to_be_bytes());
        self.bytes.extend(options);
        self
    }

    /// In the section whose count is there in the header.
    fn record(mut self, count_at: usize, owner: &str, kind: u16, ttl: u32, data: &[u8]) -> Self {
        let count = u16::from_be_bytes([self.bytes[count_at], self.bytes[count_at + 1]]) + 1;
        self.bytes[count_at..count_at + 2].copy_from_slice(&count.to_be_bytes());
        self.bytes.extend(wire(owner));
        self.bytes.extend([kind.to_be_bytes(), [0, 1]].concat());
        self.bytes.extend(ttl.to_be_bytes());
        self.bytes.extend(u16::try_from(data.len()).unwrap().to_be_bytes());
        self.bytes.extend(data);
        self
    }

    pub fn changed(mut self, change: impl FnOnce(&mut Vec<u8>)) -> Self {
        change(&mut self.bytes);
        self
    }
}

/// A name as it stands in messages.
pub fn wire(name: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for label in name.split('.').filter(|label| !label.is_empty()) {
        bytes.push(u8::try_from(label.len()).unwrap());
        bytes.extend(label.bytes());
    }
    bytes.push(0);
    bytes
}
