//! The HTTP interface: the part of Consul's that service discovery uses, and `/metrics`.
//!
//! `Server::answer` reads as its contents page. Reads look at the state as it was when they came, or wait for the next
//! one (`read`); changes are handed to the writer. No handler holds anything while it waits.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{Method, Request, Response};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::timeout;

use super::ended;
use super::keeper::Beat;
use super::metrics::Metrics;
use super::settings::Settings;
use super::writer::Registry;

mod agent;
mod ask;
mod catalog;
mod filter;
mod guard;
mod health;
mod kv;
mod maintenance;
mod read;
mod session;
mod views;
mod written;

use ask::{Answer, Ask, Problem};
use guard::Guard;

/// Of one request's head.
const HEAD_BYTES_MAX: usize = 64 * 1024;
const HEAD_TIME_MAX: Duration = Duration::from_secs(10);
const HANDSHAKE_TIME_MAX: Duration = Duration::from_secs(10);
/// After an error of `accept`, such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Connections that are told at once that there are too many; beyond it they are closed without a word, and with TLS
/// always: a handshake costs more than there is to say.
const TURNED_AWAY_MAX: usize = 64;
const TURNED_AWAY_TIME_MAX: Duration = Duration::from_secs(1);
/// For connections to end in order once the registry ends.
const END_TIME_MAX: Duration = Duration::from_secs(5);

/// What answering needs.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) registry: Registry,
    pub(crate) settings: Settings,
    pub(crate) metrics: Metrics,
    /// Signs of life for TTL checks and sessions.
    pub(crate) beats: mpsc::Sender<Beat>,
    /// Where we listen.
    pub(crate) address: std::net::SocketAddr,
    guard: Guard,
    waiters: Arc<Semaphore>,
    ending: watch::Receiver<bool>,
}

impl Server {
    pub(crate) fn new(
        registry: Registry,
        settings: Settings,
        metrics: Metrics,
        beats: mpsc::Sender<Beat>,
        (address, ending): (std::net::SocketAddr, watch::Receiver<bool>),
    ) -> Self {
        let guard = Guard::new(&settings, address);
        let waiters = Arc::new(Semaphore::new(settings.limits.waiters));
        Self { registry, settings, metrics, beats, address, guard, waiters, ending }
    }

    /// Serves until the end has come and connections have had their time.
    pub(crate) async fn serve(self: Arc<Self>, listener: TcpListener) {
        let limit = self.settings.limits.connections;
        let places = Arc::new(Semaphore::new(limit));
        let turned_away = Arc::new(Semaphore::new(TURNED_AWAY_MAX));
        let mut ending = self.ending.clone();
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = ended(&mut ending) => break,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            if let Ok(place) = Arc::clone(&places).try_acquire_owned() {
                let server = Arc::clone(&self);
                tokio::spawn(async move {
                    server.metrics.connections.inc();
                    server.connection(stream).await;
                    server.metrics.connections.dec();
                    drop(place);
                });
                continue;
            }
            self.metrics.refused.with_label_values(&["connections"]).inc();
            if self.settings.tls.is_none()
                && let Ok(place) = Arc::clone(&turned_away).try_acquire_owned()
            {
                tokio::spawn(async move {
                    // As above.
                    let _ = timeout(TURNED_AWAY_TIME_MAX, turn_away(stream, limit)).await;
                    drop(place);
                });
            }
        }
        drop(listener);
        // All places are free once all connections have ended.
        let all = u32::try_from(limit).unwrap_or(u32::MAX);
        let _ = timeout(END_TIME_MAX, places.acquire_many(all)).await;
    }

    /// A client that goes away has nobody to tell.
    async fn connection(self: &Arc<Self>, stream: TcpStream) {
        // Answers are small and waited for.
        let _ = stream.set_nodelay(true);
        let Some(tls) = &self.settings.tls else {
            let _ = self.exchanges(stream).await;
            return;
        };
        let shaken = timeout(HANDSHAKE_TIME_MAX, tls.accept(stream)).await;
        match shaken.unwrap_or_else(|late| Err(late.into())) {
            Ok(stream) => drop(self.exchanges(stream).await),
            Err(error) => {
                self.metrics.handshake_failures.inc();
                tracing::debug!(%error, "a client's handshake has failed");
            }
        }
    }

    async fn exchanges(
        self: &Arc<Self>,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    ) -> hyper::Result<()> {
        let service = service_fn(|request| {
            let server = Arc::clone(self);
            async move { Ok::<_, Infallible>(server.respond(request).await) }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIME_MAX)
            .max_buf_size(HEAD_BYTES_MAX)
            .serve_connection(TokioIo::new(stream), service);
        tokio::pin!(connection);
        let mut ending = self.ending.clone();
        tokio::select! {
            result = &mut connection => return result,
            () = ended(&mut ending) => {}
        }
        connection.as_mut().graceful_shutdown();
        connection.await
    }

    async fn respond(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let begun = Instant::now();
        let (head, body) = request.into_parts();
        let is_read = matches!(head.method, Method::GET | Method::HEAD);
        let ask = Ask::new(head);
        let waits = ask.has("index") || ask.has("hash");
        let answer = match self.answer(&ask, body).await {
            Ok(answer) => answer,
            Err(problem) => problem.answer(),
        };
        let class = format!("{}xx", answer.status.as_u16() / 100);
        self.metrics.requests.with_label_values(&[ask.endpoint(), &class]).inc();
        if !(is_read && waits) {
            let kind = if is_read { "read" } else { "write" };
            let seconds = begun.elapsed().as_secs_f64();
            self.metrics.request_duration.with_label_values(&[kind]).observe(seconds);
        }
        answer.into_response(ask.has("pretty"))
    }

    async fn answer(&self, ask: &Ask, body: Incoming) -> Result<Answer, Problem> {
        self.guard.admit(ask).inspect_err(|problem| self.count_refused(problem))?;
        let path: Vec<&str> = ask.segments.iter().map(String::as_str).collect();
        match (ask.method.as_str(), path.as_slice()) {
            ("GET" | "HEAD", ["metrics"]) => self.scrape(),
            ("GET" | "HEAD", ["v1", "status", "leader"]) => Ok(Answer::json(&self.address)),
            ("GET" | "HEAD", ["v1", "status", "peers"]) => Ok(Answer::json(&[self.address])),
            (_, ["v1", "agent", rest @ ..]) => self.agent(ask, rest, body).await,
            (_, ["v1", "catalog", rest @ ..]) => self.catalog(ask, rest, body).await,
            ("GET" | "HEAD", ["v1", "health", rest @ ..]) => self.health(ask, rest).await,
            (_, ["v1", "kv", ..]) => self.kv(ask, body).await,
            ("PUT", ["v1", "txn"]) => self.txn(ask, body).await,
            (_, ["v1", "session", rest @ ..]) => self.session(ask, rest, body).await,
            _ => Err(Problem::nothing_here(ask)),
        }
    }

    fn scrape(&self) -> Result<Answer, Problem> {
        let text = self.metrics.encode(&self.registry.state()).map_err(|error| Problem::internal(&error))?;
        Ok(Answer::text(text, "text/plain; version=0.0.4"))
    }

    fn count_refused(&self, problem: &Problem) {
        if let Some(reason) = problem.denied {
            self.metrics.denied.with_label_values(&[reason]).inc();
        }
    }
}

/// Says why, and waits until it has been read.
async fn turn_away(mut stream: TcpStream, limit: usize) -> io::Result<()> {
    let text = format!("the registry has {limit} connections open, its limit (`limits.connections`)\n");
    let length = text.len();
    let head = "HTTP/1.1 429 Too Many Requests\r\ncontent-type: text/plain\r\nconnection: close\r\n";
    stream.write_all(format!("{head}content-length: {length}\r\n\r\n{text}").as_bytes()).await?;
    stream.shutdown().await?;
    let mut rest = [0; 1024];
    while stream.read(&mut rest).await? > 0 {}
    Ok(())
}
