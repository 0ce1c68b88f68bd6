//! An upstream on loopback, over UDP and TCP, that does what a script says.

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Notify;
use tokio::task::{JoinHandle, spawn_local};

use crate::config::{Resolver, ResolverVia};
use crate::names::wire::Transport;

/// What has come.
pub(super) struct Asked {
    pub(super) message: Vec<u8>,
    pub(super) via: Transport,
    /// From 1 on.
    pub(super) number: usize,
}

pub(super) enum Act {
    Say(Vec<u8>),
    /// From an address that was not asked; over UDP only.
    SayFromElsewhere(Vec<u8>),
    /// Bytes as they are, without a length before them; over TCP only.
    Raw(Vec<u8>),
    /// Ends the connection.
    Close,
}

pub(super) type Script = Rc<dyn Fn(&Asked) -> Vec<Act>>;

pub(super) struct Scripted {
    pub(super) address: SocketAddr,
    /// For each question that comes.
    pub(super) asked: Rc<Notify>,
    heard: Rc<Cell<usize>>,
    pub(super) connections: Rc<Cell<usize>>,
    tasks: Vec<JoinHandle<()>>,
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Scripted {
    pub(super) async fn start(script: impl Fn(&Asked) -> Vec<Act> + 'static) -> Self {
        Self::start_at("127.0.0.1:0".parse().unwrap(), script).await
    }

    pub(super) async fn start_at(address: SocketAddr, script: impl Fn(&Asked) -> Vec<Act> + 'static) -> Self {
        Self::begin(address, None, Rc::new(script)).await
    }

    /// Each question waits for a word before the script is asked.
    pub(super) async fn start_when(word: Rc<Notify>, script: impl Fn(&Asked) -> Vec<Act> + 'static) -> Self {
        Self::begin("127.0.0.1:0".parse().unwrap(), Some(word), Rc::new(script)).await
    }

    /// An address where nobody is.
    pub(super) async fn nobody() -> Self {
        let mut nobody = Self::start(|_| Vec::new()).await;
        for task in nobody.tasks.drain(..) {
            task.abort();
            // Aborted: then its socket is gone.
            let _ = task.await;
        }
        nobody
    }

    async fn begin(address: SocketAddr, word: Option<Rc<Notify>>, script: Script) -> Self {
        let (tcp, udp) = bind(address).await.unwrap();
        let address = tcp.local_addr().unwrap();
        let (asked, heard, connections) =
            (Rc::new(Notify::new()), Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
        let stage = Rc::new(Stage {
            script,
            word,
            asked: Rc::clone(&asked),
            heard: Rc::clone(&heard),
            connections: Rc::clone(&connections),
        });
        let tasks = vec![spawn_local(Rc::clone(&stage).udp(udp)), spawn_local(stage.tcp(tcp))];
        Self { address, asked, heard, connections, tasks }
    }

    pub(super) fn over(&self, via: ResolverVia) -> Resolver {
        Resolver { address: self.address, via }
    }

    /// Questions that have come.
    pub(super) fn heard(&self) -> usize {
        self.heard.get()
    }
}

/// Both on one port; one that is free for TCP may be taken for UDP.
async fn bind(address: SocketAddr) -> io::Result<(TcpListener, UdpSocket)> {
    loop {
        let tcp = TcpListener::bind(address).await?;
        match UdpSocket::bind(tcp.local_addr()?).await {
            Ok(udp) => return Ok((tcp, udp)),
            Err(error) if address.port() != 0 => return Err(error),
            Err(_) => {}
        }
    }
}

struct Stage {
    script: Script,
    word: Option<Rc<Notify>>,
    asked: Rc<Notify>,
    heard: Rc<Cell<usize>>,
    connections: Rc<Cell<usize>>,
}

impl Stage {
    async fn act(&self, message: Vec<u8>, via: Transport) -> Vec<Act> {
        self.heard.set(self.heard.get() + 1);
        self.asked.notify_one();
        if let Some(word) = &self.word {
            word.notified().await;
        }
        (self.script)(&Asked { message, via, number: self.heard.get() })
    }

    async fn udp(self: Rc<Self>, socket: UdpSocket) {
        let elsewhere = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let mut buffer = vec![0; 4096];
        loop {
            // An answer that nobody waits for any more comes back as an error.
            let Ok((length, from)) = socket.recv_from(&mut buffer).await else { continue };
            for act in self.act(buffer[..length].to_vec(), Transport::Udp).await {
                match act {
                    Act::Say(bytes) => drop(socket.send_to(&bytes, from).await),
                    Act::SayFromElsewhere(bytes) => drop(elsewhere.send_to(&bytes, from).await),
                    Act::Raw(_) | Act::Close => {}
                }
            }
        }
    }

    async fn tcp(self: Rc<Self>, listener: TcpListener) {
        while let Ok((stream, _)) = listener.accept().await {
            self.connections.set(self.connections.get() + 1);
            let stage = Rc::clone(&self);
            spawn_local(async move {
                // The other side may close whenever it likes.
                let _ = stage.connection(stream).await;
            });
        }
    }

    async fn connection(&self, mut stream: TcpStream) -> io::Result<()> {
        loop {
            let length = stream.read_u16().await?;
            let mut message = vec![0; usize::from(length)];
            stream.read_exact(&mut message).await?;
            for act in self.act(message, Transport::Tcp).await {
                match act {
                    Act::Say(bytes) => {
                        let length = (bytes.len() as u16).to_be_bytes();
                        stream.write_all(&[&length[..], &bytes].concat()).await?;
                    }
                    Act::Raw(bytes) => stream.write_all(&bytes).await?,
                    Act::Close => return Ok(()),
                    Act::SayFromElsewhere(_) => {}
                }
            }
        }
    }
}
