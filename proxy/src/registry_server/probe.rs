//! Checks that the registry carries out: HTTP, TCP and gRPC, each in a task of its own.
//!
//! A status that changes is written at once; an output that changes alone, at most once in `OUTPUT_EVERY`, so that a
//! check that shows the time does not wake everybody all the time.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Uri, Version};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout};

use super::change::{Change, OUTPUT_BYTES_MAX, Refusal};
use super::metrics::Metrics;
use super::model::{Definition, Name, Status};
use super::writer::Registry;

const OUTPUT_EVERY: Duration = Duration::from_secs(60);
/// The first run comes after a random part of this, or of the interval if that is shorter.
const FIRST_WITHIN: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(crate) struct Probe {
    pub(crate) registry: Registry,
    pub(crate) node: Name,
    pub(crate) id: Name,
    pub(crate) definition: Definition,
    /// For the metric: http, tcp, grpc.
    pub(crate) kind: String,
    pub(crate) places: Arc<Semaphore>,
    pub(crate) metrics: Metrics,
}

/// Whether this is a check to be carried out.
pub(crate) fn is_one(definition: &Definition) -> bool {
    ![&definition.http, &definition.tcp, &definition.grpc].iter().all(|target| target.is_empty())
}

type Outcome = Result<(Status, String), String>;

impl Probe {
    /// Until the task is aborted, or the registry ends.
    pub(crate) async fn run(self) {
        let first = self.definition.interval.min(FIRST_WITHIN).as_millis().max(1);
        let random = u128::from(RandomState::new().hash_one(0)) % first;
        let mut next = Instant::now() + Duration::from_millis(u64::try_from(random).unwrap_or(0));
        let (mut successes, mut failures) = (0, 0);
        let mut output_written = None;
        loop {
            tokio::time::sleep_until(next).await;
            next = Instant::now() + self.definition.interval;
            // The semaphore is never closed.
            let place = self.places.acquire().await;
            let (status, output) = self.look().await;
            drop(place);
            let enough = if status == Status::Critical {
                (successes, failures) = (0, failures + 1);
                failures >= self.definition.failures_before_critical
            } else {
                (successes, failures) = (successes + 1, 0);
                successes >= self.definition.success_before_passing
            };
            if enough && self.write(status, output, &mut output_written).await == Err(Refusal::Ended) {
                return;
            }
        }
    }

    async fn look(&self) -> (Status, String) {
        let look = async {
            match &self.definition {
                Definition { http, .. } if !http.is_empty() => self.http().await,
                Definition { tcp, .. } if !tcp.is_empty() => {
                    connect(tcp).await.map(|_| (Status::Passing, format!("TCP connect {tcp}: Success")))
                }
                Definition { grpc: target, .. } => grpc(target).await,
            }
        };
        let seen = timeout(self.definition.timeout, look).await;
        let late = || Err(format!("no answer within {:?}", self.definition.timeout));
        let (status, output) = seen.unwrap_or_else(|_| late()).unwrap_or_else(|why| (Status::Critical, why));
        self.metrics.check_runs.with_label_values(&[&self.kind, status.as_str()]).inc();
        (status, output)
    }

    async fn write(
        &self,
        status: Status,
        output: String,
        output_written: &mut Option<Instant>,
    ) -> Result<(), Refusal> {
        let state = self.registry.state();
        let Some(check) = state.nodes.get(&self.node).and_then(|node| node.check(&self.id)) else {
            return Ok(());
        };
        let fresh = output_written.is_some_and(|at| at.elapsed() < OUTPUT_EVERY);
        if check.status == status && (check.output == output || fresh) {
            return Ok(());
        }
        *output_written = Some(Instant::now());
        let (node, id) = (Name::clone(&self.node), Name::clone(&self.id));
        let change = Change::Report { node, id, status, output: Some(output) };
        self.registry.change(change).await.map(|_| ())
    }

    async fn http(&self) -> Outcome {
        let Definition { http: url, method, header, body, .. } = &self.definition;
        let uri: Uri = url.parse().map_err(|error| format!("{url}: {error}"))?;
        let authority = uri.authority().ok_or("a URL without a host")?;
        let stream = connect(&with_port(authority.as_str())).await?;
        let method = if method.is_empty() { "GET" } else { method };
        let target = uri.path_and_query().map_or("/", |target| target.as_str());
        let mut request = Request::builder().method(method).uri(target);
        if !header.keys().any(|name| name.eq_ignore_ascii_case("host")) {
            request = request.header("host", authority.as_str());
        }
        request = request.header("user-agent", "Outrigger Health Check").header("connection", "close");
        for (name, values) in header {
            for value in values {
                request = request.header(name, value);
            }
        }
        let request =
            request.body(Full::new(Bytes::from(body.clone()))).map_err(|error| error.to_string())?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| explained(&e))?;
        let _driver = Driver(tokio::spawn(connection).abort_handle());
        let answer = sender.send_request(request).await.map_err(|e| explained(&e))?;
        let status = answer.status();
        let text = shown(answer.into_body()).await;
        let judged = match status.as_u16() {
            200..=299 => Status::Passing,
            429 => Status::Warning,
            _ => Status::Critical,
        };
        Ok((judged, format!("HTTP {method} {url}: {status} Output: {text}")))
    }
}

/// grpc.health.v1.Health/Check. The messages have one field each, so they are written and read by hand.
async fn grpc(target: &str) -> Outcome {
    let (address, service) = target.split_once('/').unwrap_or((target, ""));
    let stream = connect(address).await?;
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .map_err(|e| explained(&e))?;
    let _driver = Driver(tokio::spawn(connection).abort_handle());
    let request = Request::post(format!("http://{address}/grpc.health.v1.Health/Check"))
        .version(Version::HTTP_2)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Full::new(health_request(service)))
        .map_err(|error| error.to_string())?;
    let answer = sender.send_request(request).await.map_err(|e| explained(&e))?;
    let (head, body) = answer.into_parts();
    if head.status != http::StatusCode::OK {
        return Err(format!("gRPC check {target}: HTTP status {}", head.status));
    }
    let body = Limited::new(body, OUTPUT_BYTES_MAX).collect().await.map_err(|error| error.to_string())?;
    let code = |fields: &http::HeaderMap| fields.get("grpc-status").cloned();
    let code = code(&head.headers).or_else(|| body.trailers().and_then(code));
    if code.as_ref().is_none_or(|code| code.as_bytes() != b"0") {
        return Err(format!("gRPC check {target}: grpc-status {code:?}"));
    }
    match health_status(&body.to_bytes()) {
        Some(1) => Ok((Status::Passing, format!("gRPC check {target}: success"))),
        status => Err(format!("gRPC check {target}: status {}, not SERVING", status.unwrap_or(0))),
    }
}

/// The task of a connection, which ends with its only request.
struct Driver(AbortHandle);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn connect(address: &str) -> Result<TcpStream, String> {
    TcpStream::connect(address).await.map_err(|error| format!("connect to {address}: {error}"))
}

fn with_port(authority: &str) -> String {
    let after = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let has_port = after.rsplit_once(':').is_some_and(|(_, port)| port.bytes().all(|b| b.is_ascii_digit()));
    if has_port { after.to_owned() } else { format!("{after}:80") }
}

fn explained(error: &hyper::Error) -> String {
    let cause = std::error::Error::source(error).map(|cause| format!(": {cause}"));
    format!("{error}{}", cause.unwrap_or_default())
}

/// The start of a body.
async fn shown(mut body: hyper::body::Incoming) -> String {
    let mut bytes = Vec::new();
    while bytes.len() < OUTPUT_BYTES_MAX
        && let Some(Ok(frame)) = body.frame().await
    {
        bytes.extend(frame.into_data().unwrap_or_default());
    }
    bytes.truncate(OUTPUT_BYTES_MAX);
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A gRPC message: not compressed, its length, and field 1 with the name of the service.
fn health_request(service: &str) -> Bytes {
    let mut message = Vec::new();
    if !service.is_empty() {
        message.push(0x0a);
        let mut length = service.len();
        while length >= 0x80 {
            message.extend(u8::try_from(length & 0x7f | 0x80));
            length >>= 7;
        }
        message.extend(u8::try_from(length));
        message.extend_from_slice(service.as_bytes());
    }
    let mut framed = vec![0];
    framed.extend(u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes());
    framed.extend(message);
    framed.into()
}

/// Field 1 of the message, a small number; 0 if it is left out.
fn health_status(framed: &[u8]) -> Option<u8> {
    let (head, message) = framed.split_at_checked(5)?;
    match message {
        _ if head[0] != 0 => None,
        [] => Some(0),
        [0x08, status, ..] => Some(*status),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn health_messages_are_protobuf() {
        assert_eq!(&health_request("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(&health_request("ab")[..], [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
        assert_eq!(health_request(&"x".repeat(200))[5..8], [0x0a, 0xc8, 0x01]);
        assert_eq!(health_status(&[0, 0, 0, 0, 2, 8, 1]), Some(1));
        assert_eq!(health_status(&[0, 0, 0, 0, 0]), Some(0));
        for wrong in [&[1, 0, 0, 0, 2, 8, 1][..], &[0, 0], &[0, 0, 0, 0, 1, 9]] {
            assert_eq!(health_status(wrong), None);
        }
    }

    /// A server that knows one service, `up`, which serves.
    async fn health_server() -> std::net::SocketAddr {
        use http::{HeaderMap, HeaderValue, Response};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let service = hyper::service::service_fn(|request: Request<hyper::body::Incoming>| async {
            assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
            assert_eq!(request.headers()["content-type"], "application/grpc");
            let asked = request.into_body().collect().await.unwrap().to_bytes();
            let (message, code) = match &asked[..] {
                b"\0\0\0\0\x04\x0a\x02up" => (&b"\0\0\0\0\x02\x08\x01"[..], "0"),
                b"\0\0\0\0\0" => (&b"\0\0\0\0\x02\x08\x02"[..], "0"),
                _ => (&b""[..], "5"),
            };
            let trailers = HeaderMap::from_iter([(
                http::HeaderName::from_static("grpc-status"),
                HeaderValue::from_static(code),
            )]);
            let body = Full::new(Bytes::from_static(message)).with_trailers(async { Some(Ok(trailers)) });
            Ok::<_, std::convert::Infallible>(Response::new(body))
        });
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                tokio::spawn(builder.serve_connection(TokioIo::new(stream), service));
            }
        });
        address
    }

    #[tokio::test]
    async fn a_grpc_service_is_asked_for_its_health() {
        let address = health_server().await;
        let serving = grpc(&format!("{address}/up")).await.unwrap();
        assert_eq!(serving.0, Status::Passing);
        let whole = grpc(&address.to_string()).await.unwrap_err();
        assert!(whole.contains("status 2, not SERVING"), "{whole}");
        let unknown = grpc(&format!("{address}/none")).await.unwrap_err();
        assert!(unknown.contains("grpc-status") && unknown.contains('5'), "{unknown}");
        assert!(grpc("127.0.0.1:1").await.unwrap_err().contains("connect to 127.0.0.1:1"));
    }

    #[test]
    fn http_has_a_port_of_its_own() {
        for (given, meant) in [
            ("a", "a:80"),
            ("a:8080", "a:8080"),
            ("[::1]", "[::1]:80"),
            ("[::1]:9", "[::1]:9"),
            ("u:p@h", "h:80"),
        ] {
            assert_eq!(with_port(given), meant);
        }
    }
}
