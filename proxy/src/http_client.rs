//! A small HTTP/1.1 client for registries, with TLS or without: several servers, one of them at a time, everything with
//! a time-out and a bound.
//!
//! Each task that talks to a registry has its own `Client`. A connection is kept between exchanges; after a failure
//! the next exchange goes to the next server. Nothing is repeated here but on a kept connection that had ended.
//! Invariant: once other certificates are in force, no exchange begins on a connection made with the old ones.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_TYPE, HOST};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::config::Server;
use crate::tls::{self, ClientConfig};

/// Of one answer, and of one line of a stream.
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// Of an answer that is shown in an error.
const SHOWN_BYTES_MAX: usize = 200;
/// When a silent connection is asked whether it lives, and when it counts as dead.
const KEEPALIVE: Duration = Duration::from_secs(5);
const DEAD_AFTER: Duration = Duration::from_secs(10);

/// Why an exchange came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0}: cannot connect: {1}")]
    Connect(Server, std::io::Error),
    #[error("{0}: TLS: {1}")]
    Tls(Server, String),
    #[error("{0}: {1}")]
    Broken(Server, hyper::Error),
    #[error("{0}: no answer within {1:?}")]
    Slow(Server, Duration),
    #[error("{0}: an answer larger than {ANSWER_BYTES_MAX} bytes")]
    TooLarge(Server),
    #[error("{0}: {1}: {2}")]
    Refused(Server, StatusCode, String),
    #[error("{0}: nonsense: {1}")]
    Nonsense(Server, String),
}

/// Talks to one server of several.
pub struct Client {
    servers: Vec<Server>,
    tls: Option<tls::Client>,
    /// Index of the one in use.
    at: usize,
    pub timeout: Duration,
    /// Sent with every request.
    pub fields: Vec<(HeaderName, HeaderValue)>,
    kept: Option<Connection>,
}

/// The connection's driver ends with it.
struct Connection {
    sender: SendRequest<Full<Bytes>>,
    driver: JoinHandle<()>,
    /// What TLS was set up with.
    made_with: Option<Arc<ClientConfig>>,
}

/// A whole answer with a good status.
#[derive(Debug)]
pub struct Answer {
    pub fields: HeaderMap,
    pub body: Bytes,
}

/// An answer that goes on, line by line.
pub struct Lines {
    server: Server,
    body: Incoming,
    buffer: BytesMut,
    /// Of `buffer`, known to hold no line's end.
    searched: usize,
    _connection: Connection,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("server", &self.server()).finish_non_exhaustive()
    }
}

impl Client {
    /// There is at least one server: configuration sees to it. The first to be asked follows from the process, which
    /// spreads sidecars over servers.
    pub fn new(servers: Vec<Server>, tls: Option<tls::Client>, timeout: Duration) -> Self {
        let at = std::process::id() as usize % servers.len().max(1);
        Self { servers, tls, at, timeout, fields: Vec::new(), kept: None }
    }

    pub fn server(&self) -> Server {
        self.servers.get(self.at).cloned().unwrap_or_else(|| Server { host: String::new(), port: 0 })
    }

    /// The next exchange goes elsewhere, if there is an elsewhere.
    pub fn turn(&mut self) {
        self.kept = None;
        self.at = (self.at + 1) % self.servers.len().max(1);
    }

    /// One request and its whole answer within a time. A status that is not 2xx is an error.
    pub async fn exchange(
        &mut self,
        method: Method,
        path: &str,
        body: Bytes,
        within: Duration,
    ) -> Result<Answer, Error> {
        let server = self.server();
        let whole = timeout(within, self.whole(method, path, body)).await;
        let result = whole.unwrap_or(Err(Error::Slow(server, within)));
        // A refusal is an answer; after anything else the connection is in an unknown state.
        if !matches!(result, Ok(_) | Err(Error::Refused(..))) {
            self.kept = None;
        }
        result
    }

    async fn whole(&mut self, method: Method, path: &str, body: Bytes) -> Result<Answer, Error> {
        let server = self.server();
        if let Some(mut connection) = self.kept.take().filter(|kept| self.is_up_to_date(kept))
            && connection.sender.ready().await.is_ok()
        {
            let request = self.request(&method, path, body.clone())?;
            match connection.sender.send_request(request).await {
                Ok(response) => {
                    let answer = read(&server, response).await;
                    self.kept = Some(connection);
                    return answer;
                }
                // It had been closed while nobody looked.
                Err(error) if error.is_closed() || error.is_canceled() || error.is_incomplete_message() => {}
                Err(error) => return Err(broken(&server, error)),
            }
        }
        let mut connection = self.connect().await?;
        let request = self.request(&method, path, body)?;
        let response = connection.sender.send_request(request).await;
        let answer = read(&server, response.map_err(|error| broken(&server, error))?).await;
        self.kept = Some(connection);
        answer
    }

    /// A request whose answer goes on, on a connection of its own. The time is for the head.
    pub async fn lines(&mut self, path: &str, body: Bytes) -> Result<Lines, Error> {
        let (server, within) = (self.server(), self.timeout);
        let begin = async {
            let mut connection = self.connect().await?;
            let request = self.request(&Method::POST, path, body)?;
            let response = connection.sender.send_request(request).await;
            Ok((response.map_err(|error| broken(&server, error))?, connection))
        };
        let begun = timeout(within, begin).await;
        let (response, connection) = begun.unwrap_or(Err(Error::Slow(server.clone(), within)))?;
        if !response.status().is_success() {
            let answer = timeout(within, read(&server, response)).await;
            answer.unwrap_or(Err(Error::Slow(server.clone(), within)))?;
            return Err(Error::Nonsense(server, "a stream that ends at once".to_owned()));
        }
        let body = response.into_body();
        Ok(Lines { server, body, buffer: BytesMut::new(), searched: 0, _connection: connection })
    }

    /// The time of an exchange may be long; that of a connection is not.
    async fn connect(&self) -> Result<Connection, Error> {
        let connected = timeout(self.timeout, self.connect_in_any_time()).await;
        connected.unwrap_or_else(|_| Err(Error::Slow(self.server(), self.timeout)))
    }

    async fn connect_in_any_time(&self) -> Result<Connection, Error> {
        let server = self.server();
        let failed = |error| Error::Connect(server.clone(), error);
        let stream = TcpStream::connect((server.host.as_str(), server.port)).await.map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        let socket = SockRef::from(&stream);
        let keepalive = TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE);
        socket.set_tcp_keepalive(&keepalive).map_err(failed)?;
        socket.set_tcp_user_timeout(Some(DEAD_AFTER)).map_err(failed)?;
        let Some(tls) = &self.tls else { return begin(&server, stream, None).await };
        let made_with = tls.in_force();
        let shaken = tls.connect(&server.host, stream).await;
        begin(
            &server,
            shaken.map_err(|error| Error::Tls(server.clone(), error.to_string()))?,
            Some(made_with),
        )
        .await
    }

    fn is_up_to_date(&self, connection: &Connection) -> bool {
        match (&self.tls, &connection.made_with) {
            (Some(tls), Some(made_with)) => Arc::ptr_eq(&tls.in_force(), made_with),
            _ => true,
        }
    }

    fn request(&self, method: &Method, path: &str, body: Bytes) -> Result<Request<Full<Bytes>>, Error> {
        let server = self.server();
        let request = Request::builder().method(method).uri(path).header(HOST, server.to_string());
        let mut request = request.header(CONTENT_TYPE, "application/json");
        for (name, value) in &self.fields {
            request = request.header(name, value);
        }
        request.body(Full::new(body)).map_err(|error| Error::Nonsense(server, error.to_string()))
    }
}

async fn begin(
    server: &Server,
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    made_with: Option<Arc<ClientConfig>>,
) -> Result<Connection, Error> {
    let (sender, connection) =
        handshake(TokioIo::new(stream)).await.map_err(|error| broken(server, error))?;
    // Its error is the exchange's, which reports it.
    let driver = tokio::spawn(async move { drop(connection.await) });
    Ok(Connection { sender, driver, made_with })
}

/// A server may refuse our certificate after it has shaken hands.
fn broken(server: &Server, error: hyper::Error) -> Error {
    match tls::blame(&error) {
        Some(text) => Error::Tls(server.clone(), text),
        None => Error::Broken(server.clone(), error),
    }
}

async fn read(server: &Server, response: Response<Incoming>) -> Result<Answer, Error> {
    let (head, body) = response.into_parts();
    let body = match Limited::new(body, ANSWER_BYTES_MAX).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) if error.is::<LengthLimitError>() => return Err(Error::TooLarge(server.clone())),
        Err(error) => return Err(Error::Nonsense(server.clone(), error.to_string())),
    };
    if !head.status.is_success() {
        let shown = String::from_utf8_lossy(&body[..body.len().min(SHOWN_BYTES_MAX)]).trim().to_owned();
        return Err(Error::Refused(server.clone(), head.status, shown));
    }
    Ok(Answer { fields: head.headers, body })
}

impl Lines {
    /// The next line, or the end. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        loop {
            if let Some(end) = memchr::memchr(b'\n', &self.buffer[self.searched..]) {
                let line = self.buffer.split_to(self.searched + end + 1).freeze();
                self.searched = 0;
                return Ok(Some(line));
            }
            self.searched = self.buffer.len();
            if self.searched > ANSWER_BYTES_MAX {
                return Err(Error::TooLarge(self.server.clone()));
            }
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    if let Some(data) = frame.data_ref() {
                        self.buffer.extend_from_slice(data);
                    }
                }
                Some(Err(error)) => return Err(broken(&self.server, error)),
                None => return Ok(None),
            }
        }
    }
}
