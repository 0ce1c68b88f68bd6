//! The sidecar's own checks of its workload.
//!
//! `watch` tries at an interval and changes the verdict after so many results in a row. Each attempt has a time-out
//! and leaves nothing behind: a program that takes longer is killed.

use std::net::SocketAddr;
use std::process::Stdio;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST, TE};
use http::{Method, Request};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prometheus::IntGauge;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::config::{Check, CheckKind};

/// Checks until nobody wants to know.
pub async fn watch(check: Check, healthy: watch::Sender<bool>, gauge: IntGauge) {
    let mut ticks = interval(check.interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut verdict = Verdict::default();
    loop {
        ticks.tick().await;
        let result = timeout(check.timeout, attempt(&check)).await;
        let reason = match result {
            Ok(Ok(())) => None,
            Ok(Err(reason)) => Some(reason),
            Err(_) => Some(format!("no answer within {:?}", check.timeout)),
        };
        if let Some(now) = verdict.take(reason.is_none(), &check) {
            match &reason {
                None => tracing::info!("the workload is well"),
                Some(reason) => tracing::warn!(reason, "the workload is unwell"),
            }
            gauge.set(i64::from(now));
            if healthy.send(now).is_err() {
                return;
            }
        } else if healthy.is_closed() {
            return;
        }
    }
}

/// Unwell at first.
#[derive(Debug, Default)]
struct Verdict {
    healthy: bool,
    /// Results in a row that say otherwise.
    against: u32,
}

impl Verdict {
    /// The new verdict, if it changes.
    fn take(&mut self, passed: bool, check: &Check) -> Option<bool> {
        if passed == self.healthy {
            self.against = 0;
            return None;
        }
        self.against += 1;
        let needed = if passed { check.successes } else { check.failures };
        if self.against < needed {
            return None;
        }
        *self = Self { healthy: passed, against: 0 };
        Some(passed)
    }
}

async fn attempt(check: &Check) -> Result<(), String> {
    match &check.kind {
        CheckKind::Tcp => connect(check.address).await.map(drop),
        CheckKind::Http { path } => http(check.address, path).await,
        CheckKind::Grpc { service } => grpc(check.address, service).await,
        CheckKind::Exec { command } => exec(command).await,
    }
}

async fn connect(address: SocketAddr) -> Result<TcpStream, String> {
    TcpStream::connect(address).await.map_err(|error| format!("{address}: {error}"))
}

async fn http(address: SocketAddr, path: &str) -> Result<(), String> {
    let stream = TokioIo::new(connect(address).await?);
    let said = |error: hyper::Error| error.to_string();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await.map_err(said)?;
    let request =
        Request::builder().uri(path).header(HOST, address.to_string()).body(Full::<Bytes>::default());
    let request = request.map_err(|error| error.to_string())?;
    let _driver = Driver(tokio::spawn(async move { drop(connection.await) }));
    let response = sender.send_request(request).await.map_err(said)?;
    match response.status() {
        status if status.is_success() => Ok(()),
        status => Err(format!("answered {status}")),
    }
}

/// <https://github.com/grpc/grpc/blob/master/doc/health-checking.md>, over HTTP/2 with prior knowledge.
async fn grpc(address: SocketAddr, service: &str) -> Result<(), String> {
    let stream = TokioIo::new(connect(address).await?);
    let said = |error: hyper::Error| error.to_string();
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), stream);
    let (mut sender, connection) = handshake.await.map_err(said)?;
    let request = Request::builder()
        .method(Method::POST)
        .uri(format!("http://{address}/grpc.health.v1.Health/Check"))
        .header(CONTENT_TYPE, "application/grpc")
        .header(TE, "trailers")
        .body(Full::new(health_request(service)))
        .map_err(|error| error.to_string())?;
    let _driver = Driver(tokio::spawn(async move { drop(connection.await) }));
    let response = sender.send_request(request).await.map_err(said)?;
    let body = response.into_body().collect().await.map_err(said)?.to_bytes();
    match is_serving(&body) {
        true => Ok(()),
        false => Err("does not say SERVING".to_owned()),
    }
}

/// A connection's other half, which ends with the attempt.
struct Driver(JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A gRPC message, uncompressed, with field 1 as text.
fn health_request(service: &str) -> Bytes {
    let mut message = Vec::new();
    // Longer names do not fit one byte of length, and nobody has them.
    let service = &service.as_bytes()[..service.len().min(127)];
    if !service.is_empty() {
        message.extend([0x0a, service.len() as u8]);
        message.extend(service);
    }
    let mut framed = vec![0, 0, 0, 0, message.len() as u8];
    framed.extend(message);
    framed.into()
}

/// A message whose field 1 is 1.
fn is_serving(body: &[u8]) -> bool {
    matches!(body, [0, _, _, _, _, 0x08, 0x01, ..])
}

async fn exec(command: &[String]) -> Result<(), String> {
    let (program, arguments) = command.split_first().ok_or("no program")?;
    let mut child = tokio::process::Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| format!("{program}: {error}"))?;
    match child.wait().await.map_err(|error| error.to_string())? {
        status if status.success() => Ok(()),
        status => Err(status.to_string()),
    }
}

#[cfg(test)]
mod tests;
