//! The admin interface: a small HTTP server on the control thread, over TCP or a Unix socket.
//!
//! `answer` reads as its contents page. Reads look at `Status`, which control replaces whole; changes go through
//! `Control` and are answered when all workers serve them. A connection carries one request, so that a client that
//! dawdles holds one of a bounded number of places for a bounded time.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_LENGTH, CONTENT_TYPE};
use http::request::Parts;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;

use super::{Control, Denied, Done};
use crate::config::Secret;
use crate::link::Command;
use crate::metrics::Metrics;

mod config_view;
mod endpoints;
mod guard;
mod listen;
mod names;
mod scrape;
mod target;
#[cfg(test)]
mod tests;

pub use listen::Listener;

use guard::Exposure;
use target::Target;

/// Connections served at once; more wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 64;
/// Of one request's head.
const HEAD_BYTES_MAX: usize = 16 * 1024;
const HEAD_TIME_MAX: Duration = Duration::from_secs(5);
const BODY_TIME_MAX: Duration = Duration::from_secs(30);
/// From accept to close; compiling a large component takes a while.
const CONNECTION_TIME_MAX: Duration = Duration::from_secs(120);
/// After an error of `accept`, such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What answering needs.
#[derive(Debug)]
struct Admin {
    control: Control,
    metrics: Metrics,
    workers: Vec<mpsc::Sender<Command>>,
    token: Option<Secret>,
    exposure: Exposure,
}

type Answer = Response<Full<Bytes>>;

impl Listener {
    /// Serves until the task is aborted.
    pub async fn serve(
        self,
        token: Option<Secret>,
        control: Control,
        metrics: Metrics,
        workers: Vec<mpsc::Sender<Command>>,
    ) -> Infallible {
        let admin = Arc::new(Admin { control, metrics, workers, token, exposure: self.exposure() });
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else {
                // The semaphore is never closed.
                std::future::pending::<()>().await;
                continue;
            };
            match self.accept().await {
                Ok(stream) => {
                    let admin = Arc::clone(&admin);
                    tokio::spawn(async move {
                        let _place = place;
                        // A client that goes away or runs out of time has nobody to tell.
                        let _ = timeout(CONNECTION_TIME_MAX, connection(stream, admin)).await;
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "the admin interface cannot accept");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

async fn connection(stream: impl AsyncRead + AsyncWrite + Unpin, admin: Arc<Admin>) -> hyper::Result<()> {
    let service = service_fn(move |request| {
        let admin = Arc::clone(&admin);
        async move { Ok::<_, Infallible>(admin.answer(request).await) }
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME_MAX)
        .max_buf_size(HEAD_BYTES_MAX)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service)
        .await
}

impl Admin {
    async fn answer(&self, request: Request<Incoming>) -> Answer {
        let (head, body) = request.into_parts();
        if let Err(refused) = guard::host(&head, self.exposure) {
            return refused.answer();
        }
        let Some(target) = Target::of(head.uri.path()) else {
            return failure(StatusCode::NOT_FOUND, &format!("nothing is at {}; see /", head.uri.path()));
        };
        let method = if head.method == Method::HEAD { Method::GET } else { head.method.clone() };
        if !target.methods().contains(&method) {
            return wrong_method(&target);
        }
        if method != Method::GET
            && let Err(refused) = guard::change(&head, self.exposure, self.token.as_ref())
        {
            return refused.answer();
        }
        match target {
            Target::Index => json(StatusCode::OK, &target::index()),
            Target::Live => json(StatusCode::OK, &json!({ "live": true })),
            Target::Metrics => self.metrics().await,
            Target::Ready => self.ready(),
            Target::Config => json(StatusCode::OK, &config_view::view(&self.control.status().config)),
            Target::Endpoints => {
                json(StatusCode::OK, &endpoints::view(self.control.status().world.as_deref()))
            }
            Target::Names => {
                let status = self.control.status();
                json(StatusCode::OK, &names::view(&status.config, status.world.as_deref()))
            }
            Target::Policies => {
                let status = self.control.status();
                json(StatusCode::OK, &json!({ "policies": status.policy_views().collect::<Vec<_>>() }))
            }
            Target::Policy(name) if method == Method::GET => self.policy(name),
            Target::Policy(name) => self.put(name, &head, body).await,
            Target::Rollback(name) => done(self.control.rollback(name, target::query(&head.uri, "to")).await),
            Target::Reset(name) => done(self.control.reset(name).await),
        }
    }

    async fn metrics(&self) -> Answer {
        match scrape::text(&self.control.status(), &self.metrics, &self.workers).await {
            Ok(text) => {
                let mut answer = Response::new(Full::from(text));
                answer
                    .headers_mut()
                    .insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; version=0.0.4"));
                answer
            }
            Err(error) => failure(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
        }
    }

    fn ready(&self) -> Answer {
        let ready = &self.control.status().ready;
        let status = if ready.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        json(status, &json!(ready))
    }

    fn policy(&self, name: &str) -> Answer {
        let status = self.control.status();
        match status.policy_views().find(|policy| policy.status.name == name) {
            Some(policy) => json(StatusCode::OK, &json!(policy)),
            None => failure(StatusCode::NOT_FOUND, &format!("no policy `{name}` is in use")),
        }
    }

    async fn put(&self, name: &str, head: &Parts, body: Incoming) -> Answer {
        let max = self.control.status().config.policy_host.component_bytes_max;
        let too_large =
            || failure(StatusCode::PAYLOAD_TOO_LARGE, &format!("a component may have {max} bytes"));
        let announced =
            head.headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
        if announced.is_some_and(|bytes| bytes > max) {
            return too_large();
        }
        match timeout(BODY_TIME_MAX, Limited::new(body, max).collect()).await {
            Ok(Ok(body)) => done(self.control.put(name, body.to_bytes()).await),
            Ok(Err(error)) if error.is::<LengthLimitError>() => too_large(),
            Ok(Err(error)) => failure(StatusCode::BAD_REQUEST, &error.to_string()),
            Err(_) => failure(StatusCode::REQUEST_TIMEOUT, "the body took too long"),
        }
    }
}

fn done(result: Result<Done, Denied>) -> Answer {
    let denied = match result {
        Ok(Done { digest, version }) => {
            return json(StatusCode::OK, &json!({ "digest": digest.to_string(), "version": version }));
        }
        Err(denied) => denied,
    };
    let status = match &denied {
        Denied::UnknownPolicy(_) => StatusCode::NOT_FOUND,
        Denied::Refused(_) => StatusCode::UNPROCESSABLE_ENTITY,
        Denied::NoVersion(_) | Denied::Overtaken => StatusCode::CONFLICT,
        Denied::NotApplied(_) => StatusCode::GATEWAY_TIMEOUT,
        Denied::Ended => StatusCode::SERVICE_UNAVAILABLE,
    };
    failure(status, &denied.to_string())
}

fn wrong_method(target: &Target<'_>) -> Answer {
    let allowed: Vec<&str> = target.methods().iter().map(Method::as_str).collect();
    let allowed = allowed.join(", ");
    let mut answer = failure(StatusCode::METHOD_NOT_ALLOWED, &format!("allowed here: {allowed}"));
    if let Ok(value) = HeaderValue::from_str(&allowed) {
        answer.headers_mut().insert(ALLOW, value);
    }
    answer
}

fn failure(status: StatusCode, message: &str) -> Answer {
    json(status, &json!({ "error": message }))
}

fn json(status: StatusCode, value: &Value) -> Answer {
    let mut answer = Response::new(Full::from(format!("{value:#}\n")));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}
