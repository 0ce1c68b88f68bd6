//! A sidecar's admin interface as its clients among the verbs see it: one request per connection, over TCP or a Unix
//! socket.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use http::header::{AUTHORIZATION, HOST};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::handshake;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

/// 10,000 services with ten endpoints each are 30 MB of JSON.
const ANSWER_BYTES_MAX: usize = 128 << 20;
/// Of one request, from connecting to the answer's last byte.
const ASK_TIME_MAX: Duration = Duration::from_secs(30);

/// Where an admin interface listens: `127.0.0.1:15020`, or `unix:` and a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// Which sidecar a verb talks to.
#[derive(Debug, Clone, clap::Args)]
pub struct Sidecar {
    /// Where its admin interface listens: IP:port, or unix:PATH
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:15020", env = "OUTRIGGER_ADMIN")]
    pub admin: Address,
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.strip_prefix("unix:") {
            Some("") => Err("a path follows `unix:`".to_owned()),
            Some(path) => Ok(Self::Unix(path.into())),
            None => text.parse().map(Self::Tcp).map_err(|_| "write IP:port, or unix:PATH".to_owned()),
        }
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl Address {
    /// The status and the body of an answer, whatever the status.
    pub(super) async fn ask(
        &self,
        method: Method,
        path: &str,
        token: Option<&str>,
        body: Bytes,
    ) -> anyhow::Result<(StatusCode, Bytes)> {
        let mut request = Request::builder().method(method.clone()).uri(path).header(HOST, "localhost");
        if let Some(token) = token {
            request = request.header(AUTHORIZATION, format!("Bearer {token}"));
        }
        let request = request.body(Full::new(body))?;
        let answer = async {
            match self {
                Self::Tcp(address) => exchange(TcpStream::connect(address).await?, request).await,
                Self::Unix(path) => exchange(UnixStream::connect(path).await?, request).await,
            }
        };
        let answer = tokio::time::timeout(ASK_TIME_MAX, answer);
        answer
            .await
            .map_err(|_| anyhow::anyhow!("no answer within {ASK_TIME_MAX:?}"))
            .flatten()
            .with_context(|| format!("{method} {path} of {self}"))
    }

    /// The body of a good answer.
    pub(super) async fn get(&self, path: &str) -> anyhow::Result<Bytes> {
        let (status, body) = self.ask(Method::GET, path, None, Bytes::new()).await?;
        if !status.is_success() {
            bail!("GET {path} of {self}: {status}: {}", String::from_utf8_lossy(&body).trim());
        }
        Ok(body)
    }
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    request: Request<Full<Bytes>>,
) -> anyhow::Result<(StatusCode, Bytes)> {
    let (mut connection, driver) = handshake(TokioIo::new(stream)).await?;
    let driver = tokio::spawn(driver);
    let answer = connection.send_request(request).await?;
    let status = answer.status();
    let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
    driver.abort();
    Ok((status, body.map_err(|error| anyhow::anyhow!("{error}"))?.to_bytes()))
}

/// Runs what a verb has to wait for.
pub(super) fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_socket_or_a_path() {
        assert_eq!("[::1]:7".parse(), Ok(Address::Tcp("[::1]:7".parse().expect("address"))));
        assert_eq!("unix:/run/x".parse(), Ok(Address::Unix("/run/x".into())));
        for bad in ["", "localhost", "unix:", "1.2.3.4", "http://1.2.3.4:5"] {
            assert!(bad.parse::<Address>().is_err(), "{bad}");
        }
        assert_eq!("unix:/run/x".parse::<Address>().expect("address").to_string(), "unix:/run/x");
    }
}
