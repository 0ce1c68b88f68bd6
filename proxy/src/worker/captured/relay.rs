//! Bytes both ways, unread, until both sides have said all they had to.
//!
//! Each direction holds one buffer, and none while nothing comes: what is not written is not read further. The end of
//! one direction is passed on and leaves the other alone; a reset is passed on as one.

use std::io;
use std::pin::pin;
use std::time::Duration;

use tokio::time::Instant;

use crate::worker::Worker;
use crate::worker::deadline::{Deadline, at_once};
use crate::worker::http1::Buffer;
use crate::worker::record::connection::{Close, Relayed};
use crate::worker::socket::Socket;

/// Of a direction in which much comes at once; before that, buffers are those of requests.
const BULK_BYTES: usize = 64 * 1024;

/// One side, and what it has said that nobody has taken yet.
pub(super) struct Side<'a> {
    pub(super) socket: &'a Socket,
    pub(super) said: Buffer,
}

/// Answers how it ended. A side that has to see a reset will, once its socket is dropped.
pub(super) async fn run(
    worker: &Worker,
    client: Side<'_>,
    upstream: Side<'_>,
    idle: Duration,
    record: &Relayed<'_>,
) -> Close {
    let deadline = Deadline::new(Instant::now() + idle);
    let pump = |said| Pump { worker, deadline: &deadline, idle, said, bulk: false };
    let work = pin!(async {
        let up = pump(client.said).run(client.socket, upstream.socket, |bytes| record.received(bytes));
        let down = pump(upstream.said).run(upstream.socket, client.socket, |bytes| record.sent(bytes));
        tokio::try_join!(async { up.await.map_err(|_| Close::Cancelled) }, async {
            down.await.map_err(|_| Close::Reset)
        })
    });
    let close = match deadline.run(work).await {
        Ok(Ok((Pumped::All, Pumped::All))) => Close::Success,
        Ok(Ok((Pumped::NotTaken, _))) => Close::Reset,
        Ok(Ok((_, Pumped::NotTaken))) => Close::Cancelled,
        Ok(Err(close)) => close,
        Err(_) => Close::Timeout,
    };
    match close {
        Close::Cancelled => upstream.socket.break_off(),
        Close::Reset => client.socket.break_off(),
        _ => {}
    }
    close
}

/// One direction.
struct Pump<'a> {
    worker: &'a Worker,
    deadline: &'a Deadline,
    idle: Duration,
    said: Buffer,
    /// The last read had no room for more.
    bulk: bool,
}

/// How a direction ended whose source has not broken off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pumped {
    All,
    /// The other side takes no more. What it has said before may still be on its way, so it does not end the relay.
    NotTaken,
}

impl Pump<'_> {
    async fn run(mut self, from: &Socket, to: &Socket, moved: impl Fn(usize)) -> io::Result<Pumped> {
        loop {
            if !self.said.is_empty() {
                if to.write_all(self.said.filled()).await.is_err() {
                    return Ok(Pumped::NotTaken);
                }
                moved(self.said.filled().len());
                self.said.clear();
                self.deadline.set_after(self.idle);
            }
            if self.read(from).await? == 0 {
                self.give_back();
                // If it has gone altogether, the other direction tells.
                let _ = to.end();
                return Ok(Pumped::All);
            }
        }
    }

    async fn read(&mut self, from: &Socket) -> io::Result<usize> {
        let ready = at_once(pin!(from.readable())).await;
        match ready {
            Some(ready) => ready?,
            None => {
                self.give_back();
                from.readable().await?;
            }
        }
        let mut room = std::mem::take(&mut self.said).into_vec();
        if self.bulk && room.capacity() < BULK_BYTES {
            self.worker.keep_buffer(room);
            room = Vec::with_capacity(BULK_BYTES);
        } else if room.capacity() == 0 {
            room = self.worker.take_buffer();
        }
        self.said = Buffer::from_vec(room);
        let read = self.said.read_from(from).await?;
        self.bulk = self.said.is_full();
        Ok(read)
    }

    /// Large ones are not for requests.
    fn give_back(&mut self) {
        let room = std::mem::take(&mut self.said).into_vec();
        if room.capacity() < BULK_BYTES {
            self.worker.keep_buffer(room);
        }
    }
}
