//! One attempt: a request goes to one endpoint, its answer comes back, both at once and byte by byte.
//!
//! `feed` carries the request's body up and then watches the client; `respond` carries the answer down. They run side
//! by side in one task and meet only in `Flow`. Each holds one buffer: what is not written is not read further.

use std::cell::Cell;
use std::future::{pending, poll_fn};
use std::net::IpAddr;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use tokio::time::Instant;

use super::body::{Body, Convert};
use super::connection::Client;
use super::deadline::Deadline;
use super::http1::{Buffer, Forwarding, Persistence, request_head, response_head};
use super::socket::Socket;
use crate::config::{ForwardedFields, Timeouts};
use crate::head::{Framing, HeadLimits, Kind, Progress, RequestHead, ResponseHead};
use crate::policy::Forward;

/// How long a client that has just come goes unwatched.
const WATCH_AFTER: Duration = Duration::from_millis(100);

/// What an attempt needs to know beyond the two connections.
#[derive(Debug)]
pub(super) struct Exchange<'a> {
    pub(super) head: &'a RequestHead,
    pub(super) forward: Option<&'a Forward>,
    pub(super) source: IpAddr,
    pub(super) fields: ForwardedFields,
    pub(super) limits: HeadLimits,
    pub(super) timeouts: &'a Timeouts,
    pub(super) deadline: &'a Deadline,
    /// Statuses that send the request elsewhere; empty if it may not be repeated.
    pub(super) retry_statuses: &'a [u16],
    /// Whether the client means to keep its connection.
    pub(super) keep_alive: bool,
    /// The worker is about to leave: answers that begin from now on end their connection.
    pub(super) draining: &'a Cell<bool>,
    pub(super) started: Instant,
}

/// How an attempt ended.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) end: End,
    pub(super) status: u16,
    pub(super) first_byte: Option<Instant>,
    pub(super) bytes_in: u64,
    pub(super) bytes_out: u64,
    pub(super) retry_after: bool,
    /// Utilisation that the endpoint reports, in thousandths.
    pub(super) load: Option<u32>,
    pub(super) ended: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// The whole answer has gone to the client.
    Answered { keep_client: bool, keep_upstream: bool },
    /// Nothing of a final answer has gone to the client. `untouched`: nor has the upstream said anything.
    Failed { cause: Cause, untouched: bool },
    /// The answer has begun and cannot be finished: only closing tells the client.
    Broken { cause: Cause },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// The upstream closed or reset the connection.
    Reset,
    /// The upstream's answer is not HTTP/1.1.
    BadAnswer,
    /// The upstream's status is one to be tried again elsewhere.
    Status,
    Timeout,
    ClientGone,
    BadBody,
}

/// What both directions know of each other.
#[derive(Debug, Default)]
struct Flow {
    /// The request has gone up whole.
    sent: Cell<bool>,
    /// A byte of the answer has come.
    heard: Cell<bool>,
    /// A byte of the final answer has gone to the client.
    answering: Cell<bool>,
    /// 101: what follows is no longer HTTP.
    tunnel: Cell<bool>,
    bytes_in: Cell<u64>,
    bytes_out: Cell<u64>,
    status: Cell<u16>,
    first_byte: Cell<Option<Instant>>,
    retry_after: Cell<bool>,
    load: Cell<Option<u32>>,
}

/// The way down: from the upstream to the client.
struct Down<'a> {
    upstream: &'a Socket,
    /// What the upstream has said and nobody has taken yet.
    answer: &'a mut Buffer,
    client: &'a Socket,
    out: &'a mut Vec<u8>,
    response: &'a mut ResponseHead,
}

impl Exchange<'_> {
    /// Runs the attempt to its end. `answer` is an empty buffer for what the upstream says.
    pub(super) async fn run(&self, client: &mut Client, upstream: &Socket, answer: &mut Buffer) -> Report {
        let flow = Flow::default();
        let Client { socket: client, buffer, out, response, unread, broken: _ } = client;
        let client = &*client;
        let work = pin!(async {
            let mut body = Body::new(self.head.framing());
            self.open(&flow, &mut body, buffer, out);
            if body.bad.is_some() {
                return self.failed(&flow, Cause::BadBody);
            }
            if upstream.write_all(out).await.is_err() && self.head.framing() == Framing::None {
                return self.failed(&flow, Cause::Reset);
            }
            let down = Down { upstream, answer, client, out, response };
            tokio::select! {
                biased;
                end = self.respond(&flow, down) => end,
                cause = self.feed(&flow, body, client, buffer, upstream) => self.failed(&flow, cause),
            }
        });
        let end = match self.deadline.run(work).await {
            Ok(end) => end,
            Err(_) => self.failed(&flow, Cause::Timeout),
        };
        *unread &= !flow.sent.get();
        Report {
            end,
            status: flow.status.get(),
            first_byte: flow.first_byte.get(),
            bytes_in: flow.bytes_in.get(),
            bytes_out: flow.bytes_out.get(),
            retry_after: flow.retry_after.get(),
            load: flow.load.get(),
            ended: Instant::now(),
        }
    }

    fn failed(&self, flow: &Flow, cause: Cause) -> End {
        if flow.answering.get() {
            End::Broken { cause }
        } else {
            End::Failed { cause, untouched: !flow.heard.get() }
        }
    }

    /// The head, and as much of the body as has arrived with it: usually one write.
    fn open(&self, flow: &Flow, body: &mut Body, buffer: &mut Buffer, out: &mut Vec<u8>) {
        out.clear();
        let (fields, source, forward) = (self.fields, self.source, self.forward);
        request_head(out, self.head, &Forwarding { fields, source, forward, copy: false });
        let taken = body.advance(buffer.filled(), |_| {});
        out.extend_from_slice(&buffer.filled()[..taken]);
        flow.bytes_in.set(taken as u64);
        buffer.consume(taken);
    }

    /// Carries the body up, then watches for the client to leave. Ends only with a failure.
    async fn feed(
        &self,
        flow: &Flow,
        mut body: Body,
        client: &Socket,
        buffer: &mut Buffer,
        upstream: &Socket,
    ) -> Cause {
        while !body.is_done() {
            if buffer.is_empty() && !matches!(buffer.read_from(client).await, Ok(1..)) {
                return Cause::ClientGone;
            }
            let taken = body.advance(buffer.filled(), |_| {});
            if body.bad.is_some() {
                return Cause::BadBody;
            }
            if upstream.write_all(&buffer.filled()[..taken]).await.is_err() {
                // It may have answered early and closed: what it said decides.
                return pending().await;
            }
            buffer.consume(taken);
            flow.bytes_in.set(flow.bytes_in.get() + taken as u64);
            self.progressed(flow);
        }
        flow.sent.set(true);
        self.before_watching(flow, client).await;
        loop {
            if flow.tunnel.get() {
                return self.tunnel_up(flow, client, buffer, upstream).await;
            }
            if buffer.is_empty() {
                match buffer.read_from(client).await {
                    Ok(1..) => {}
                    Ok(0) | Err(_) if !flow.tunnel.get() => return Cause::ClientGone,
                    Ok(_) | Err(_) => return self.tunnel_up(flow, client, buffer, upstream).await,
                }
            } else {
                // The next request is here already: it waits, unless the answer opens a tunnel.
                poll_fn(|_| if flow.tunnel.get() { Poll::Ready(()) } else { Poll::Pending }).await;
            }
        }
    }

    /// A client that has just come is not watched at once: most exchanges are over before it could leave.
    async fn before_watching(&self, flow: &Flow, client: &Socket) {
        let watch_at = self.started + WATCH_AFTER;
        if !client.is_watched() {
            self.deadline.wake_at(watch_at);
            let over = || flow.tunnel.get() || Instant::now() >= watch_at;
            poll_fn(|_| if over() { Poll::Ready(()) } else { Poll::Pending }).await;
        }
    }

    /// Bytes up, unread, until the client has no more.
    async fn tunnel_up(&self, flow: &Flow, client: &Socket, buffer: &mut Buffer, upstream: &Socket) -> Cause {
        loop {
            if upstream.write_all(buffer.filled()).await.is_err() {
                return Cause::Reset;
            }
            flow.bytes_in.set(flow.bytes_in.get() + buffer.filled().len() as u64);
            buffer.clear();
            self.deadline.set_after(self.timeouts.idle);
            match buffer.read_from(client).await {
                Ok(1..) => {}
                Ok(_) => {
                    // Half closed: the other direction may go on.
                    let _ = upstream.end();
                    return pending().await;
                }
                Err(_) => return Cause::ClientGone,
            }
        }
    }

    /// Reads the answer and carries it down.
    async fn respond(&self, flow: &Flow, mut down: Down<'_>) -> End {
        let length = loop {
            let length = match self.answer_head(flow, &mut down).await {
                Ok(length) => length,
                Err(cause) => return self.failed(flow, cause),
            };
            let Down { answer, client, out, response, .. } = &mut down;
            match response.status {
                101 if self.head.upgrade() => {
                    return self.tunnel_down(flow, length, down).await;
                }
                101 => return self.failed(flow, Cause::BadAnswer),
                100..=199 => {
                    // Interim answers go on to clients that know them (RFC 9110, 15.2).
                    if !self.head.is_http_10() {
                        out.clear();
                        response_head(out, response, answer.filled(), Framing::None, Persistence::Open, &[]);
                        if client.write_all(out).await.is_err() {
                            return self.failed(flow, Cause::ClientGone);
                        }
                    }
                    answer.consume(length);
                }
                _ => break length,
            }
        };
        let Down { answer, response, .. } = &down;
        flow.status.set(response.status);
        flow.retry_after.set(response.value(Kind::RetryAfter, answer.filled()).is_some());
        flow.load.set(response.value(Kind::LoadReport, answer.filled()).and_then(super::orca::utilisation));
        if self.retry_statuses.contains(&response.status) {
            return self.failed(flow, Cause::Status);
        }
        self.relay(flow, length, down).await
    }

    async fn answer_head(&self, flow: &Flow, down: &mut Down<'_>) -> Result<usize, Cause> {
        let Down { upstream, answer, response, .. } = down;
        let to_head = self.head.method() == "HEAD";
        loop {
            if !answer.is_empty() {
                match response.parse(answer.filled(), self.limits, to_head) {
                    Ok(Progress::Complete(length)) => return Ok(length),
                    Ok(Progress::Partial) => {}
                    Err(_) => return Err(Cause::BadAnswer),
                }
            }
            match answer.read_from(upstream).await {
                Ok(1..) => {}
                Ok(_) if flow.heard.get() && !answer.is_empty() => return Err(Cause::BadAnswer),
                Ok(_) | Err(_) => return Err(Cause::Reset),
            }
            if !flow.heard.replace(true) {
                flow.first_byte.set(Some(Instant::now()));
            }
        }
    }

    /// The final answer: its head, re-framed where the client needs it, and its body.
    async fn relay(&self, flow: &Flow, length: usize, down: Down<'_>) -> End {
        let Down { upstream, answer, client, out, response } = down;
        let framing = match response.framing() {
            Framing::Close if !self.head.is_http_10() => Framing::Chunked,
            Framing::Chunked if self.head.is_http_10() => Framing::Close,
            same => same,
        };
        // A request that has not been read whole leaves its rest on the connection.
        let keep_client =
            self.keep_alive && !self.draining.get() && flow.sent.get() && framing != Framing::Close;
        let persistence = match (keep_client, self.head.is_http_10()) {
            (true, false) => Persistence::Open,
            (true, true) => Persistence::KeepAlive,
            (false, _) => Persistence::Close,
        };
        out.clear();
        let set = self.forward.map_or(&[][..], |f| &f.set_response_headers);
        response_head(out, response, answer.filled(), framing, persistence, set);
        let mut body = Body::new(response.framing());
        let convert = Convert::between(response.framing(), framing);
        // A body that goes down as it came does so from where it lies, behind the new head if that fits there.
        let mut head = 0;
        if convert == Convert::Nothing && answer.replace_front(length, out) {
            head = out.len();
            out.clear();
        } else {
            answer.consume(length);
        }
        loop {
            let in_place = convert == Convert::Nothing && out.is_empty();
            let taken = match in_place {
                true => body.advance(&answer.filled()[head..], |_| {}),
                false => convert.apply(&mut body, answer.filled(), out),
            };
            if body.bad.is_some() {
                return self.failed(flow, Cause::BadAnswer);
            }
            flow.answering.set(true);
            let bytes = if in_place { &answer.filled()[..head + taken] } else { &out[..] };
            let written = match body.is_done() && !keep_client {
                true => client.finish(bytes).await,
                false => client.write_all(bytes).await,
            };
            if written.is_err() {
                return End::Broken { cause: Cause::ClientGone };
            }
            flow.bytes_out.set(flow.bytes_out.get() + taken as u64);
            answer.consume(head + taken);
            head = 0;
            out.clear();
            if body.is_done() {
                break;
            }
            self.progressed(flow);
            match answer.read_from(upstream).await {
                Ok(1..) => {}
                Ok(_) if response.framing() == Framing::Close => {
                    if framing == Framing::Chunked && client.write_all(b"0\r\n\r\n").await.is_err() {
                        return End::Broken { cause: Cause::ClientGone };
                    }
                    break;
                }
                Ok(_) | Err(_) => return End::Broken { cause: Cause::Reset },
            }
        }
        let keep_upstream = response.keep_alive() && flow.sent.get() && answer.is_empty();
        End::Answered { keep_client, keep_upstream }
    }

    /// 101: the head goes down, then bytes in both directions until one side has had enough.
    async fn tunnel_down(&self, flow: &Flow, length: usize, down: Down<'_>) -> End {
        let Down { upstream, answer, client, out, response } = down;
        out.clear();
        response_head(out, response, answer.filled(), Framing::None, Persistence::Upgrade, &[]);
        flow.status.set(101);
        flow.answering.set(true);
        flow.tunnel.set(true);
        answer.consume(length);
        out.extend_from_slice(answer.filled());
        answer.clear();
        if client.write_all(out).await.is_err() {
            return End::Broken { cause: Cause::ClientGone };
        }
        // `feed` may be waiting with bytes in hand: let it look at the flag.
        tokio::task::yield_now().await;
        loop {
            self.deadline.set_after(self.timeouts.idle);
            match answer.read_from(upstream).await {
                Ok(1..) => {}
                Ok(_) => {
                    let _ = client.end();
                    return End::Answered { keep_client: false, keep_upstream: false };
                }
                Err(_) => return End::Broken { cause: Cause::Reset },
            }
            if client.write_all(answer.filled()).await.is_err() {
                return End::Broken { cause: Cause::ClientGone };
            }
            flow.bytes_out.set(flow.bytes_out.get() + answer.filled().len() as u64);
            answer.clear();
        }
    }

    /// Bytes have moved. While the answer is on its way, only silence counts against it.
    fn progressed(&self, flow: &Flow) {
        if flow.answering.get() {
            let idle: Duration = self.timeouts.idle;
            self.deadline.set_after(idle);
        }
    }
}
