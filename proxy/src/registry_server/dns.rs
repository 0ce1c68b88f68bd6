//! Consul's DNS names, over UDP and TCP: `[TAG.]SERVICE.service[.DC].consul` and `NODE.node[.DC].consul`.
//!
//! Each question is answered from the state of the moment, at once, by `answer`, which is pure; this file moves bytes
//! within limits. Nothing is forwarded.

use std::hash::{BuildHasher as _, RandomState};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, ResponseCode};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;

use super::ended;
use super::metrics::Metrics;
use super::writer::Registry;

mod answer;

pub(crate) use answer::Zone;

/// A question with one name is far smaller.
const QUESTION_BYTES_MAX: usize = 1232;
/// Without EDNS, and the most that crosses networks in one piece.
const UDP_BYTES: std::ops::RangeInclusive<u16> = 512..=1232;
const CONNECTIONS_MAX: usize = 256;
/// For the next question on a connection.
const IDLE_TIME_MAX: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(100);
/// Tries to find a port that is free for both, if any will do.
const BIND_TRIES: usize = 16;

/// Both sockets, on the same port.
#[derive(Debug)]
pub(crate) struct Sockets {
    udp: UdpSocket,
    tcp: TcpListener,
}

impl Sockets {
    pub(crate) async fn bind(address: SocketAddr) -> std::io::Result<Self> {
        let mut tries = if address.port() == 0 { BIND_TRIES } else { 1 };
        loop {
            tries -= 1;
            let tcp = TcpListener::bind(address).await?;
            match UdpSocket::bind(tcp.local_addr()?).await {
                Ok(udp) => return Ok(Self { udp, tcp }),
                Err(error) if tries == 0 => return Err(error),
                Err(_) => {}
            }
        }
    }

    pub(crate) fn address(&self) -> std::io::Result<SocketAddr> {
        self.udp.local_addr()
    }
}

#[derive(Debug)]
pub(crate) struct Dns {
    pub(crate) registry: Registry,
    pub(crate) zone: Zone,
    pub(crate) metrics: Metrics,
}

impl Dns {
    pub(crate) async fn serve(self, sockets: Sockets, ending: watch::Receiver<bool>) {
        let dns = Arc::new(self);
        let (mut udp_ending, mut tcp_ending) = (ending.clone(), ending);
        tokio::join!(
            async {
                tokio::select! { () = dns.udp(&sockets.udp) => {}, () = ended(&mut udp_ending) => {} }
            },
            async {
                tokio::select! { () = Self::tcp(&dns, &sockets.tcp) => {}, () = ended(&mut tcp_ending) => {} }
            }
        );
    }

    async fn udp(&self, socket: &UdpSocket) {
        let mut bytes = [0; QUESTION_BYTES_MAX];
        loop {
            let (length, from) = match socket.recv_from(&mut bytes).await {
                Ok(received) => received,
                // Of an answer that could not be delivered, for one.
                Err(error) => {
                    tracing::debug!(%error, "dns");
                    continue;
                }
            };
            if let Some(answer) = self.answer(&bytes[..length], "udp") {
                // Whoever asked will ask again.
                let _ = socket.send_to(&answer, from).await;
            }
        }
    }

    async fn tcp(dns: &Arc<Self>, listener: &TcpListener) {
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                tokio::time::sleep(PAUSE).await;
                continue;
            };
            let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
                dns.metrics.refused.with_label_values(&["dns_connections"]).inc();
                continue;
            };
            let dns = Arc::clone(dns);
            tokio::spawn(async move {
                // A client that goes away has nobody to tell.
                let _ = dns.connection(stream).await;
                drop(place);
            });
        }
    }

    async fn connection(&self, mut stream: TcpStream) -> std::io::Result<()> {
        loop {
            let length = timeout(IDLE_TIME_MAX, stream.read_u16()).await??;
            let mut bytes = vec![0; usize::from(length).min(QUESTION_BYTES_MAX)];
            if bytes.len() < usize::from(length) {
                return Ok(());
            }
            timeout(IDLE_TIME_MAX, stream.read_exact(&mut bytes)).await??;
            let Some(answer) = self.answer(&bytes, "tcp") else { return Ok(()) };
            let length = u16::try_from(answer.len()).unwrap_or(u16::MAX);
            let framed = [&length.to_be_bytes()[..], &answer].concat();
            timeout(IDLE_TIME_MAX, stream.write_all(&framed)).await??;
        }
    }

    /// `None` for what deserves no answer.
    fn answer(&self, bytes: &[u8], transport: &'static str) -> Option<Vec<u8>> {
        // Less than a header, or an answer: whoever answers answers may do so for ever.
        if bytes.len() < 12 || bytes[2] & 0x80 != 0 {
            return None;
        }
        let message = match Message::from_vec(bytes) {
            Ok(question) if question.metadata.message_type == MessageType::Query => {
                let limit = if transport == "tcp" {
                    u16::MAX
                } else {
                    question.max_payload().clamp(*UDP_BYTES.start(), *UDP_BYTES.end())
                };
                let turn = RandomState::new().hash_one(0);
                self.zone.answer(&self.registry.state(), &question, (limit, turn))
            }
            _ => {
                let id = u16::from_be_bytes([bytes[0], bytes[1]]);
                Message::error_msg(id, hickory_proto::op::OpCode::Query, ResponseCode::FormErr)
                    .to_vec()
                    .ok()?
            }
        };
        let code = message.get(3).map_or(0, |flags| flags & 0x0f);
        let code = match code {
            0 => "no-error",
            1 => "format-error",
            3 => "no-such-name",
            4 => "not-implemented",
            5 => "refused",
            _ => "failure",
        };
        self.metrics.dns_queries.with_label_values(&[transport, code]).inc();
        Some(message)
    }
}
