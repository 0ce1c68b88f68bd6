//! What `outrigger net run` tells by HTTP: metrics, and whether all is in force. It takes no orders.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http::header::CONTENT_TYPE;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::time::{sleep, timeout};

use super::metrics::Metrics;

/// Connections served at once; more wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 16;
const HEAD_BYTES_MAX: usize = 16 * 1024;
const HEAD_TIME_MAX: Duration = Duration::from_secs(5);
/// From accept to close.
const CONNECTION_TIME_MAX: Duration = Duration::from_secs(30);
/// After an error of `accept`, such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What there is to tell.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sight {
    /// A file is in force, with the subnets that it needs.
    pub is_ready: bool,
    /// What is wrong now, each in a sentence.
    pub troubles: Vec<String>,
}

/// Serves until the task is aborted.
pub async fn serve(listener: TcpListener, metrics: Metrics, sight: watch::Receiver<Sight>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        // The semaphore is never closed.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let (metrics, sight) = (metrics.clone(), sight.clone());
                tokio::spawn(async move {
                    let _place = place;
                    let service = service_fn(move |request| {
                        let answer = answer(&request, &metrics, &sight.borrow());
                        async move { Ok::<_, Infallible>(answer) }
                    });
                    let connection = http1::Builder::new()
                        .timer(TokioTimer::new())
                        .header_read_timeout(HEAD_TIME_MAX)
                        .max_buf_size(HEAD_BYTES_MAX)
                        .serve_connection(TokioIo::new(stream), service);
                    // A client that goes away or runs out of time has nobody to tell.
                    let _ = timeout(CONNECTION_TIME_MAX, connection).await;
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

type Answer = Response<Full<Bytes>>;

fn answer(request: &Request<Incoming>, metrics: &Metrics, sight: &Sight) -> Answer {
    let path = request.uri().path();
    if ![Method::GET, Method::HEAD].contains(request.method()) {
        return text(StatusCode::METHOD_NOT_ALLOWED, "text/plain", "only GET and HEAD\n".into());
    }
    match path {
        "/metrics" => match metrics.encode() {
            Ok(metrics) => text(StatusCode::OK, "text/plain; version=0.0.4", metrics),
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, "text/plain", format!("{error}\n")),
        },
        "/live" => as_json(StatusCode::OK, &json!({ "live": true })),
        "/ready" => {
            let code = if sight.is_ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
            as_json(code, &json!({ "ready": sight.is_ready, "troubles": sight.troubles }))
        }
        _ => text(StatusCode::NOT_FOUND, "text/plain", "here are /metrics, /ready and /live\n".into()),
    }
}

fn as_json(code: StatusCode, value: &serde_json::Value) -> Answer {
    text(code, "application/json", format!("{value}\n"))
}

fn text(code: StatusCode, kind: &'static str, body: String) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(body)));
    *answer.status_mut() = code;
    answer.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static(kind));
    answer
}
