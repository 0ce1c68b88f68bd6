//! Three HTTP/1.1 servers on a thread of their own, whose speed and health the script changes while they serve.
//!
//! Each answers its name. The time it works for a request varies around a mean by a fixed sequence, not by chance, so
//! that two runs are alike.

use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::sync::Semaphore;

/// Connections that one backend serves at once; more wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 2048;
/// After an error of `accept`, such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

pub(super) const COUNT: usize = 3;
pub(super) const NAMES: [&str; COUNT] = ["alpha", "beta", "gamma"];
/// Mean time that each works for a request when all is well.
const WORK_MS: [u32; COUNT] = [2, 5, 9];

/// One backend, as script and screen see it.
#[derive(Debug)]
pub(super) struct Backend {
    pub(super) address: SocketAddr,
    pub(super) name: &'static str,
    usual_ms: u32,
    work_ms: AtomicU32,
    failing: AtomicBool,
    arrived: AtomicU32,
    refused: AtomicU64,
}

/// What a backend does with requests now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Condition {
    Well,
    /// It works this long for a request.
    Slow(u32),
    /// It answers 500.
    Failing,
}

/// Starts all three; they end with the process.
pub(super) fn start() -> io::Result<Vec<Arc<Backend>>> {
    let mut backends = Vec::with_capacity(COUNT);
    let mut listeners = Vec::with_capacity(COUNT);
    for (name, usual_ms) in NAMES.into_iter().zip(WORK_MS) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        backends.push(Arc::new(Backend {
            address: listener.local_addr()?,
            name,
            usual_ms,
            work_ms: AtomicU32::new(usual_ms),
            failing: AtomicBool::new(false),
            arrived: AtomicU32::new(0),
            refused: AtomicU64::new(0),
        }));
        listeners.push(listener);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let serving: Vec<Arc<Backend>> = backends.clone();
    let body = move || {
        runtime.block_on(async {
            for (listener, backend) in listeners.into_iter().zip(serving) {
                tokio::spawn(accept(listener, backend));
            }
            std::future::pending::<()>().await;
        });
    };
    thread::Builder::new().name("demo-backends".into()).spawn(body)?;
    Ok(backends)
}

impl Backend {
    pub(super) fn set(&self, condition: Condition) {
        self.failing.store(condition == Condition::Failing, Relaxed);
        let work_ms = if let Condition::Slow(ms) = condition { ms } else { self.usual_ms };
        self.work_ms.store(work_ms, Relaxed);
    }

    pub(super) fn condition(&self) -> Condition {
        match self.work_ms.load(Relaxed) {
            _ if self.failing.load(Relaxed) => Condition::Failing,
            ms if ms == self.usual_ms => Condition::Well,
            ms => Condition::Slow(ms),
        }
    }

    pub(super) fn usual_ms(&self) -> u32 {
        self.usual_ms
    }

    /// Requests that it has answered with 500 so far.
    pub(super) fn errors(&self) -> u64 {
        self.refused.load(Relaxed)
    }

    async fn answer(&self) -> Response<Full<Bytes>> {
        let turn = self.arrived.fetch_add(1, Relaxed);
        if self.failing.load(Relaxed) {
            self.refused.fetch_add(1, Relaxed);
            let mut answer = Response::new(Full::from("out of order\n"));
            *answer.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
            return answer;
        }
        tokio::time::sleep(work_time(self.work_ms.load(Relaxed), turn)).await;
        Response::new(Full::from(format!("{}\n", self.name)))
    }
}

async fn accept(listener: TcpListener, backend: Arc<Backend>) -> io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let place = Arc::clone(&places).acquire_owned().await.map_err(io::Error::other)?;
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        // Small answers must not wait for acknowledgements; a failure would show as latency.
        let _ = stream.set_nodelay(true);
        let backend = Arc::clone(&backend);
        tokio::spawn(async move {
            let _place = place;
            let service =
                service_fn(|_: Request<Incoming>| async { Ok::<_, Infallible>(backend.answer().await) });
            // The sidecar closes connections as it likes.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

/// Between 80 and 120 % of the mean: multiples of the golden ratio fall evenly between 0 and 1.
fn work_time(mean_ms: u32, turn: u32) -> Duration {
    let fraction = (f64::from(turn) * 0.618_033_988_749_895).fract();
    Duration::from_millis(mean_ms.into()).mul_f64(0.8 + 0.4 * fraction)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_varies_around_its_mean() {
        let times: Vec<f64> = (0..1000).map(|turn| work_time(50, turn).as_secs_f64() * 1000.0).collect();
        assert!(times.iter().all(|ms| (40.0..=60.0).contains(ms)));
        let mean = times.iter().sum::<f64>() / 1000.0;
        assert!((mean - 50.0).abs() < 0.5, "{mean}");
    }
}
