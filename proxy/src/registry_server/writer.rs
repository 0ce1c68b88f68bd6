//! The one thread that changes the registry, and the handle by which all others ask it to.
//!
//! Changes wait in a bounded queue. The writer takes as many as there are, applies them in order, writes them with one
//! commit, publishes the state, rings for those who wait, and only then answers: what was acknowledged is on the disk.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use tokio::sync::{Notify, futures::Notified, mpsc, oneshot, watch};

use super::change::{Change, Done, Refusal, apply};
use super::edit::Touched;
use super::metrics::Metrics;
use super::settings::Limits;
use super::state::{State, Topic};
use super::store::Store;

/// Changes that may wait; those who ask for more wait to be let in.
const QUEUE_MAX: usize = 1024;
/// Changes of one commit.
const BATCH_MAX: usize = 1024;
/// More topics than bells share them; a bell rung for another topic costs a look.
const BELLS: usize = 1024;

/// What everybody but the writer holds. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Registry {
    /// `None` ends the writer.
    changes: mpsc::Sender<Option<Ask>>,
    state: watch::Receiver<Arc<State>>,
    bells: Arc<Bells>,
}

#[derive(Debug)]
struct Ask {
    change: Change,
    answer: oneshot::Sender<Result<Done, Refusal>>,
}

/// Wakes those who wait for a topic.
#[derive(Debug)]
struct Bells {
    bells: Vec<Notify>,
    hasher: RandomState,
}

impl Bells {
    fn of(&self, topic: &Topic) -> &Notify {
        let hash = self.hasher.hash_one(topic);
        // The remainder is below the number of bells, which is not zero.
        #[allow(clippy::cast_possible_truncation, reason = "of a remainder below 1024")]
        &self.bells[(hash % BELLS as u64) as usize]
    }

    fn ring<'a>(&self, topics: impl Iterator<Item = &'a Topic>) {
        topics.for_each(|topic| self.of(topic).notify_waiters());
    }

    fn ring_all(&self) {
        self.bells.iter().for_each(Notify::notify_waiters);
    }
}

impl Registry {
    pub(crate) fn state(&self) -> Arc<State> {
        Arc::clone(&self.state.borrow())
    }

    /// To be made, and enabled, before the state is looked at: it then misses no change.
    pub(crate) fn next_change(&self, topic: &Topic) -> Notified<'_> {
        self.bells.of(topic).notified()
    }

    /// Answers when the change is on the disk.
    pub(crate) async fn change(&self, change: Change) -> Result<Done, Refusal> {
        let (answer, answered) = oneshot::channel();
        self.changes.send(Some(Ask { change, answer })).await.map_err(|_| Refusal::Ended)?;
        answered.await.map_err(|_| Refusal::Ended)?
    }
}

/// The thread, and the first handle.
#[derive(Debug)]
pub(crate) struct Writer {
    pub(crate) registry: Registry,
    thread: thread::JoinHandle<()>,
}

impl Writer {
    pub(crate) fn start(
        store: Store,
        state: State,
        limits: Limits,
        metrics: Metrics,
    ) -> std::io::Result<Self> {
        let (changes, waiting) = mpsc::channel(QUEUE_MAX);
        let (publish, published) = watch::channel(Arc::new(state.clone()));
        let bells = Bells { bells: (0..BELLS).map(|_| Notify::new()).collect(), hasher: RandomState::new() };
        let bells = Arc::new(bells);
        let registry = Registry { changes, state: published, bells: Arc::clone(&bells) };
        let work = Work { store, state, publish, bells, limits, metrics };
        let thread =
            thread::Builder::new().name("registry-writer".into()).spawn(move || work.run(waiting))?;
        Ok(Self { registry, thread })
    }

    /// Waits until everything that was asked for is on the disk, and the store is closed. What is asked for later is
    /// refused.
    pub(crate) async fn finish(self) {
        // It is there, unless it has panicked; then that has been reported already.
        let _ = self.registry.changes.send(None).await;
        let _ = tokio::task::spawn_blocking(|| self.thread.join()).await;
    }
}

struct Work {
    store: Store,
    /// The last one published, but for the batch at hand.
    state: State,
    publish: watch::Sender<Arc<State>>,
    bells: Arc<Bells>,
    limits: Limits,
    metrics: Metrics,
}

impl Work {
    fn run(mut self, mut waiting: mpsc::Receiver<Option<Ask>>) {
        let mut batch = Vec::new();
        let mut ended = false;
        while !ended && waiting.blocking_recv_many(&mut batch, BATCH_MAX) > 0 {
            ended = batch.iter().any(Option::is_none);
            self.work(batch.drain(..).flatten());
        }
    }

    fn work(&mut self, batch: impl Iterator<Item = Ask>) {
        if !self.store.is_open() {
            self.reopen();
        }
        let mut touched = Touched::default();
        let mut next = self.state.clone();
        let answers: Vec<_> = batch
            .map(|Ask { change, answer }| {
                let result = apply(&mut next, &mut touched, change, &self.limits);
                if let Err(Refusal::Full { table, .. }) = &result {
                    self.metrics.refused.with_label_values(&[table]).inc();
                }
                (answer, result)
            })
            .collect();
        let committed = self.commit(next, &touched);
        for (answer, result) in answers {
            let result = match &committed {
                Ok(()) => result,
                Err(why) => result.and_then(|_| Err(Refusal::Store(why.clone()))),
            };
            // Whoever has gone away does not want to know.
            let _ = answer.send(result);
        }
    }

    fn commit(&mut self, next: State, touched: &Touched) -> Result<(), String> {
        if next.index == self.state.index {
            return Ok(());
        }
        let begun = Instant::now();
        if let Err(error) = self.store.commit(&next, &touched.rows) {
            tracing::error!(%error, "a change could not be written");
            self.metrics.commit_failures.inc();
            return Err(error.to_string());
        }
        self.metrics.commit_duration.with_label_values::<&str>(&[]).observe(begun.elapsed().as_secs_f64());
        self.metrics.changes.inc_by(next.index - self.state.index);
        self.state = next;
        self.publish(&touched.topics);
        Ok(())
    }

    fn publish(&self, topics: &HashSet<Topic>) {
        self.publish.send_replace(Arc::new(self.state.clone()));
        self.bells.ring(topics.iter());
    }

    /// After a failure nobody knows whether the last commit reached the disk, so the disk is asked.
    fn reopen(&mut self) {
        match self.store.reopen() {
            Ok(state) => {
                tracing::info!(index = state.index, "the store is open again");
                self.state = state;
                self.publish.send_replace(Arc::new(self.state.clone()));
                self.bells.ring_all();
            }
            Err(error) => tracing::error!(%error, "the store cannot be opened again"),
        }
    }
}
