//! Closed-loop load: each client sends its next request when the last answer has been read and checked.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread::JoinHandle;

use crate::client::{Answer, Client};
use crate::wait;
use crate::wire::Trouble;

/// Clients at work.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    clients: Vec<JoinHandle<Tally>>,
}

/// What came of all requests.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Tally {
    pub sent: u64,
    /// Good answers by backend.
    pub by_backend: BTreeMap<String, u64>,
    /// Everything else, by what it was.
    pub failures: BTreeMap<String, u64>,
}

impl Load {
    /// GETs for `host` on so many kept connections; good is a 200 whose body is the name of the backend.
    pub fn start(address: SocketAddr, clients: usize, host: &str) -> Self {
        Self::with_fields(address, clients, host, "")
    }

    /// The same with more field lines, each ending with CR LF.
    pub fn with_fields(address: SocketAddr, clients: usize, host: &str, fields: &str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let answered = Arc::new(AtomicU64::new(0));
        let request = format!("GET /load HTTP/1.1\r\nhost: {host}\r\n{fields}\r\n");
        let clients = (0..clients).map(|_| {
            let (stop, answered, request) = (Arc::clone(&stop), Arc::clone(&answered), request.clone());
            std::thread::spawn(move || run(address, &request, &stop, &answered))
        });
        let clients = clients.collect();
        Self { stop, answered, clients }
    }

    /// Requests that have been answered so far, well or badly.
    pub fn answered(&self) -> u64 {
        self.answered.load(SeqCst)
    }

    /// Waits until so many more have been answered.
    pub fn wait_for(&self, more: u64) {
        let goal = self.answered() + more;
        wait::until_true("requests to be answered", || self.answered() >= goal);
    }

    pub fn stop(self) -> Tally {
        self.stop.store(true, SeqCst);
        let mut total = Tally::default();
        for client in self.clients {
            total.add(client.join().expect("a load client does not panic"));
        }
        total
    }
}

impl Tally {
    pub fn good(&self) -> u64 {
        self.by_backend.values().sum()
    }

    pub fn of(&self, backend: &str) -> u64 {
        self.by_backend.get(backend).copied().unwrap_or_default()
    }

    /// There was traffic, and every request was answered well.
    #[track_caller]
    pub fn assert_clean(&self) {
        assert!(self.good() > 0, "no traffic");
        assert!(self.failures.is_empty(), "failed requests among {}: {:?}", self.sent, self.failures);
        assert_eq!(self.good(), self.sent, "every request is accounted for");
    }

    fn add(&mut self, other: Self) {
        self.sent += other.sent;
        for (to, from) in [(&mut self.by_backend, other.by_backend), (&mut self.failures, other.failures)] {
            for (key, count) in from {
                *to.entry(key).or_default() += count;
            }
        }
    }
}

fn run(address: SocketAddr, request: &str, stop: &AtomicBool, answered: &AtomicU64) -> Tally {
    let mut tally = Tally::default();
    let mut kept: Option<Client> = None;
    while !stop.load(SeqCst) {
        tally.sent += 1;
        let result = one(address, request, &mut kept);
        answered.fetch_add(1, SeqCst);
        match result {
            Ok(backend) => *tally.by_backend.entry(backend).or_default() += 1,
            Err(what) => {
                kept = None;
                *tally.failures.entry(what).or_default() += 1;
            }
        }
    }
    tally
}

fn one(address: SocketAddr, request: &str, kept: &mut Option<Client>) -> Result<String, String> {
    let mut client = match kept.take() {
        Some(client) => client,
        None => Client::try_connect(address).map_err(|error| format!("connect: {error}"))?,
    };
    let told = |trouble: Trouble| trouble.to_string();
    client.wire.send(request).map_err(told)?;
    let answer = client.try_answer("GET").map_err(told)?;
    let backend = check(&answer)?;
    if answer.field("connection") != Some("close") {
        *kept = Some(client);
    }
    Ok(backend)
}

fn check(answer: &Answer) -> Result<String, String> {
    let (status, reason) = (answer.status, answer.reason());
    if status != 200 {
        return Err(format!("{status} {reason}"));
    }
    let backend = answer.backend().to_owned();
    if backend.is_empty() || answer.body.bytes != backend.as_bytes() {
        return Err("a wrong body".to_owned());
    }
    Ok(backend)
}
