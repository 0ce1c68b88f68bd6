//! The program's log on standard error, and one JSON line per request on standard output.
//!
//! Both go through bounded queues to threads of their own: a reader that stalls costs lines, which are counted,
//! never time on a worker. The access log is not a `tracing` event: it is formatted once, straight from the record.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus::IntCounter;
use serde::{Serialize, Serializer};
use tokio::sync::oneshot;
use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;

use crate::config::{Log, LogFormat};

/// Lines of the program's log that may wait for standard error.
const LOG_LINES_MAX: usize = 8192;
/// Access lines are handed over when a worker has this many bytes of them, or on its tick.
const BATCH_BYTES: usize = 16 * 1024;
/// Batches that may wait for standard output, from all workers: 16 MiB at most.
const BATCHES_MAX: usize = 1024;

/// Starts the program's log. Lines still waiting are written when the guard is dropped: keep it until the end.
pub fn init(log: &Log) -> Result<WorkerGuard, LogError> {
    let filter =
        EnvFilter::try_new(&log.filter).map_err(|e| LogError::Filter(log.filter.clone(), e.to_string()))?;
    let (writer, guard) =
        NonBlockingBuilder::default().lossy(true).buffered_lines_limit(LOG_LINES_MAX).finish(io::stderr());
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer);
    let started = match log.format {
        LogFormat::Text => builder.with_ansi(io::IsTerminal::is_terminal(&io::stderr())).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).with_current_span(false).try_init(),
    };
    started.map_err(|e| LogError::Started(e.to_string()))?;
    Ok(guard)
}

/// Why the log could not be started.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error("log filter `{0}`: {1}")]
    Filter(String, String),
    #[error("the log has been started already: {0}")]
    Started(String),
}

/// One request as the access log shows it. Times count from the request's head.
#[derive(Debug, Clone, Serialize)]
pub struct AccessRecord<'a> {
    #[serde(serialize_with = "rfc3339")]
    pub time: SystemTime,
    /// `outbound`, or `inbound` to the workload.
    pub direction: &'a str,
    pub client: &'a str,
    pub method: &'a str,
    pub authority: &'a str,
    /// Path and query as received.
    pub path: &'a str,
    pub route: &'a str,
    pub service: &'a str,
    pub pool: &'a str,
    /// Where the last attempt went; empty if there was none.
    pub endpoint: &'a str,
    /// 0 if nothing was answered.
    pub status: u16,
    /// As in `outrigger_requests_total`.
    pub outcome: &'a str,
    /// What went wrong, in words; left out if nothing did.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub reason: &'a str,
    pub attempts: u32,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub duration_us: u64,
    /// 0 if no byte came.
    pub first_byte_us: u64,
    pub policy: &'a str,
    /// First 12 digits of the component's digest.
    pub digest: &'a str,
    /// `policy` or `fallback`; empty if nothing was picked.
    pub pick: &'a str,
}

/// One captured connection that was relayed or refused, as the access log shows it.
#[derive(Debug, Clone, Serialize)]
pub struct ConnectionRecord<'a> {
    /// When it came.
    #[serde(serialize_with = "rfc3339")]
    pub time: SystemTime,
    pub direction: &'a str,
    pub client: &'a str,
    /// What the client dialled.
    pub destination: SocketAddr,
    /// Empty if it went past us, or nowhere.
    pub service: &'a str,
    pub pool: &'a str,
    pub endpoint: &'a str,
    /// As in `outrigger_tcp_connections_total`.
    pub outcome: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub reason: &'a str,
    pub attempts: u32,
    /// From the client.
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub duration_us: u64,
    pub policy: &'a str,
    pub digest: &'a str,
    pub pick: &'a str,
}

/// Where access lines go; one for the process. The thread behind it ends when all writers are gone.
#[derive(Debug, Clone)]
pub struct AccessLog {
    batches: SyncSender<Batch>,
    dropped: IntCounter,
}

/// A worker's own end of the access log.
#[derive(Debug)]
pub struct AccessWriter {
    log: AccessLog,
    batch: Batch,
}

#[derive(Debug, Default)]
struct Batch {
    text: Vec<u8>,
    lines: u64,
}

impl AccessLog {
    /// Starts the writing thread; `dropped` counts lines lost. What comes back with it ends when all is written that
    /// writers had, and they are gone.
    pub fn start(
        sink: impl Write + Send + 'static,
        dropped: IntCounter,
    ) -> io::Result<(Self, oneshot::Receiver<()>)> {
        let (batches, waiting) = sync_channel(BATCHES_MAX);
        let (written, all_written) = oneshot::channel();
        let lost = dropped.clone();
        let write = move || {
            drain(&waiting, sink, &lost);
            // Whoever would hear it may be gone.
            let _ = written.send(());
        };
        thread::Builder::new().name("access-log".into()).spawn(write)?;
        Ok((Self { batches, dropped }, all_written))
    }

    pub fn writer(&self) -> AccessWriter {
        AccessWriter { log: self.clone(), batch: Batch::default() }
    }
}

impl AccessWriter {
    /// Adds a line; hands over what has gathered if it is enough.
    pub fn record(&mut self, record: &impl Serialize) {
        let start = self.batch.text.len();
        if serde_json::to_writer(&mut self.batch.text, record).is_err() {
            // Writing to memory fails only for a time before 1970, which is written as 0: this is not reached.
            self.batch.text.truncate(start);
            return;
        }
        self.batch.text.push(b'\n');
        self.batch.lines += 1;
        if self.batch.text.len() >= BATCH_BYTES {
            self.flush();
        }
    }

    /// For the worker's tick and its end. Never blocks: what finds the queue full is lost, and counted.
    pub fn flush(&mut self) {
        if self.batch.lines == 0 {
            return;
        }
        let batch = std::mem::take(&mut self.batch);
        let lines = batch.lines;
        if self.log.batches.try_send(batch).is_err() {
            self.log.dropped.inc_by(lines);
        }
    }
}

impl Drop for AccessWriter {
    fn drop(&mut self) {
        self.flush();
    }
}

/// Writes batches until the last writer is gone. A sink that fails loses lines; the next batch is tried again.
fn drain(batches: &Receiver<Batch>, mut sink: impl Write, dropped: &IntCounter) {
    while let Ok(batch) = batches.recv() {
        if sink.write_all(&batch.text).and_then(|()| sink.flush()).is_err() {
            dropped.inc_by(batch.lines);
        }
    }
}

fn rfc3339<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let (second, micros) = (to_the_second(since.as_secs()), since.subsec_micros());
    serializer.collect_str(&format_args!("{second}.{micros:06}Z"))
}

/// Seconds since 1970 as people read them, in RFC 3339.
pub(crate) fn utc(seconds: u64) -> String {
    // Beyond the year 9999 there is no such form.
    format!("{}Z", to_the_second(seconds.min(253_402_300_799)))
}

fn to_the_second(seconds: u64) -> String {
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}")
}

/// Year, month and day of a day counted from 1970, by the Gregorian calendar: years that begin in March, in
/// cycles of 400.
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (cycle, day_of_cycle) = (days / 146_097, days % 146_097);
    let year = (day_of_cycle - day_of_cycle / 1460 + day_of_cycle / 36_524 - day_of_cycle / 146_096) / 365;
    let day_of_year = day_of_cycle - (365 * year + year / 4 - year / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (cycle * 400 + year + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{SyncSender, sync_channel};

    use super::*;

    /// Hands each write to the test, which decides when to take it.
    struct Handed(SyncSender<Vec<u8>>);

    impl Write for Handed {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.send(bytes.to_vec()).map_err(io::Error::other)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn record(path: &str) -> AccessRecord<'_> {
        AccessRecord {
            time: UNIX_EPOCH + Duration::from_micros(1_709_210_096_000_789),
            direction: "outbound",
            client: "10.0.0.1:5000",
            method: "GET",
            authority: "web",
            path,
            route: "-",
            service: "web",
            pool: "web",
            endpoint: "10.0.0.7:80",
            status: 200,
            outcome: "success",
            reason: "",
            attempts: 1,
            bytes_in: 0,
            bytes_out: 5,
            duration_us: 900,
            first_byte_us: 800,
            policy: "p2c",
            digest: "0123456789ab",
            pick: "policy",
        }
    }

    fn counter() -> IntCounter {
        IntCounter::new("dropped", "Dropped.").unwrap()
    }

    #[test]
    fn hostile_bytes_stay_within_one_line() {
        let (sender, written) = sync_channel(8);
        let mut writer = AccessLog::start(Handed(sender), counter()).unwrap().0.writer();
        writer.record(&record("/a\"b\\c\nd\u{1b}[31m\u{2028}é"));
        drop(writer);
        let text = String::from_utf8(written.recv().unwrap()).unwrap();
        assert_eq!(text.matches('\n').count(), 1);
        assert!(!text.contains('\u{1b}'));
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["path"], "/a\"b\\c\nd\u{1b}[31m\u{2028}é");
        assert_eq!(value["time"], "2024-02-29T12:34:56.000789Z");
        assert_eq!(value.get("reason"), None);
    }

    #[test]
    fn a_full_queue_loses_lines_and_counts_them() {
        let (sender, written) = sync_channel(0);
        let dropped = counter();
        let (log, _) = AccessLog::start(Handed(sender), dropped.clone()).unwrap();
        let mut writer = log.writer();
        let sent = u64::try_from(BATCHES_MAX).unwrap() + 10;
        for _ in 0..sent {
            writer.record(&record("/"));
            writer.flush();
        }
        // The thread may have taken one batch, which waits for this test.
        assert!((9..=10).contains(&dropped.get()), "{}", dropped.get());
        drop((writer, log));
        let lines: usize = written.iter().map(|b| b.iter().filter(|&&c| c == b'\n').count()).sum();
        assert_eq!(u64::try_from(lines).unwrap() + dropped.get(), sent);
    }

    #[test]
    fn days_become_dates() {
        assert_eq!(utc(1_700_000_000), "2023-11-14T22:13:20Z");
        assert_eq!(utc(u64::MAX), "9999-12-31T23:59:59Z");
        assert_eq!(civil(0), (1970, 1, 1));
        assert_eq!(civil(11_016), (2000, 2, 29));
        assert_eq!(civil(11_017), (2000, 3, 1));
        assert_eq!(civil(20_453), (2025, 12, 31));
        assert_eq!(civil(20_454), (2026, 1, 1));
    }
}
