//! The client: requests at fixed times, whether or not the answers to earlier ones have come.
//!
//! Latency counts from the time a request was due, so that waiting for a place, a connection or the client's own
//! thread shows in the numbers instead of hiding (coordinated omission). The timer's step is a millisecond.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::HOST;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, mpsc};

use super::backends::NAMES;
use super::sidecar::SERVICE;

/// Requests under way at once. More than these wait, and the wait counts.
const IN_FLIGHT_MAX: usize = 512;
/// Answers that may wait to be counted; the client waits when there are more.
const SAMPLES_MAX: usize = 65_536;
/// No answer within this time is a failure.
const PATIENCE: Duration = Duration::from_secs(10);
const ANSWER_BYTES_MAX: usize = 4096;

/// One request that has ended.
#[derive(Debug, Clone)]
pub(super) struct Sample {
    /// When it was due, counted from the start of the load.
    pub(super) due: Duration,
    pub(super) latency: Duration,
    /// Which backend answered; or what the client saw instead.
    pub(super) answer: Result<usize, String>,
}

/// A load that runs until its rate is set to 0.
#[derive(Debug)]
pub(super) struct Load {
    /// Closed when every request has been accounted for.
    pub(super) samples: mpsc::Receiver<Sample>,
    pub(super) began: Instant,
    pace: Arc<Pace>,
}

#[derive(Debug)]
struct Pace {
    rate: AtomicU32,
    sent: AtomicU64,
}

impl Load {
    /// Sends `rate` requests a second from now on.
    pub(super) fn start(target: SocketAddr, rate: u32) -> io::Result<Self> {
        let (sender, samples) = mpsc::channel(SAMPLES_MAX);
        let began = Instant::now();
        let pace = Arc::new(Pace { rate: AtomicU32::new(rate), sent: AtomicU64::new(0) });
        let shared = Arc::clone(&pace);
        let body = move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build_local(tokio::runtime::LocalOptions::default());
            // If it cannot be made, the closed channel tells.
            if let Ok(runtime) = runtime {
                runtime.block_on(Client::new(target, sender, began).send_all(&shared));
            }
        };
        thread::Builder::new().name("demo-load".into()).spawn(body)?;
        Ok(Self { samples, began, pace })
    }

    /// From the next request on; 0 ends the load when the requests under way have ended.
    pub(super) fn set_rate(&self, rate: u32) {
        self.pace.rate.store(rate, Relaxed);
    }

    /// Requests so far, ended or not.
    pub(super) fn sent(&self) -> u64 {
        self.pace.sent.load(Relaxed)
    }
}

struct Client {
    target: SocketAddr,
    idle: RefCell<Vec<SendRequest<Empty<Bytes>>>>,
    samples: mpsc::Sender<Sample>,
    began: Instant,
}

impl Client {
    fn new(target: SocketAddr, samples: mpsc::Sender<Sample>, began: Instant) -> Rc<Self> {
        Rc::new(Self { target, idle: RefCell::default(), samples, began })
    }

    async fn send_all(self: Rc<Self>, pace: &Pace) {
        let places = Arc::new(Semaphore::new(IN_FLIGHT_MAX));
        let mut due = Duration::ZERO;
        loop {
            let rate = pace.rate.load(Relaxed);
            if rate == 0 {
                break;
            }
            due += Duration::from_secs(1) / rate;
            tokio::time::sleep_until((self.began + due).into()).await;
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { break };
            pace.sent.fetch_add(1, Relaxed);
            let client = Rc::clone(&self);
            tokio::task::spawn_local(async move {
                client.send(due).await;
                drop(place);
            });
        }
        // All places free: all requests have ended.
        let _ = places.acquire_many(IN_FLIGHT_MAX as u32).await;
    }

    async fn send(&self, due: Duration) {
        let answer = match tokio::time::timeout(PATIENCE, self.exchange()).await {
            Ok(answer) => answer,
            Err(_) => Err(format!("no answer within {} s", PATIENCE.as_secs())),
        };
        let latency = (self.began + due).elapsed();
        // Nobody counts any more when the demo has ended.
        let _ = self.samples.send(Sample { due, latency, answer }).await;
    }

    async fn exchange(&self) -> Result<usize, String> {
        let mut connection = self.connection().await?;
        let request =
            Request::get("/").header(HOST, SERVICE).body(Empty::new()).map_err(|e| e.to_string())?;
        let answer = connection.send_request(request).await.map_err(|e| e.to_string())?;
        let status = answer.status();
        let body =
            Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await.map_err(|e| e.to_string())?;
        self.idle.borrow_mut().push(connection);
        let body = body.to_bytes();
        let text = String::from_utf8_lossy(&body);
        let name = text.trim();
        if status != StatusCode::OK {
            return Err(format!("{status}: {name}"));
        }
        NAMES.iter().position(|known| *known == name).ok_or_else(|| format!("answered by `{name}`"))
    }

    /// The connection used last, or a new one. There are never more than requests under way.
    async fn connection(&self) -> Result<SendRequest<Empty<Bytes>>, String> {
        loop {
            let idle = self.idle.borrow_mut().pop();
            let Some(mut connection) = idle else { break };
            if connection.ready().await.is_ok() {
                return Ok(connection);
            }
        }
        let stream = TcpStream::connect(self.target).await.map_err(|e| format!("cannot connect: {e}"))?;
        // Without it small requests may wait for acknowledgements.
        let _ = stream.set_nodelay(true);
        let (connection, driver) = handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
        // What ends a connection is told to the request on it.
        tokio::task::spawn_local(driver);
        Ok(connection)
    }
}
