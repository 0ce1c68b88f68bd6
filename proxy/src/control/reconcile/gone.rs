//! Services that have left: what was counted about them is forgotten after a while, all at once.
//!
//! Not at once, so that the last scrape sees the last counts, and so that names which come and go every second do not
//! cost a walk over all series each time. A service that is back before that keeps its counts.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::control::publish::World;
use crate::metrics::Metrics;

/// Time from the first service that leaves to the forgetting of all that have left by then.
const FORGET_AFTER: Duration = Duration::from_secs(60);
/// Names that wait; with more, it is time.
const WAITING_MAX: usize = 10_000;

#[derive(Debug, Default)]
pub(in crate::control) struct Gone {
    names: HashSet<Arc<str>>,
    due: Option<Instant>,
}

impl Gone {
    /// Notes who is not there any more, and who is back. The cost follows the change if the world says what it is.
    pub(super) fn follow(&mut self, old: Option<&World>, new: &World) {
        let services = &new.snapshot.services;
        let Some(old) = old.filter(|old| !Arc::ptr_eq(&old.snapshot.services, services)) else { return };
        match &new.snapshot.patch {
            Some(patch) => {
                self.names.extend(patch.gone.iter().cloned());
                let others = patch.pools.iter().filter_map(|at| new.snapshot.pools.get(*at));
                for pool in others {
                    self.names.remove(&pool.service);
                }
            }
            None => {
                self.names.extend(old.snapshot.services.iter().map(|(name, _)| Arc::clone(name)));
                self.names.retain(|name| !services.contains(name));
            }
        }
        if self.names.is_empty() {
            self.due = None;
        } else if self.due.is_none() {
            self.due = Some(Instant::now() + FORGET_AFTER);
        }
        if self.names.len() > WAITING_MAX {
            self.due = Some(Instant::now());
        }
    }

    /// Returns when there is something to forget and it is time.
    pub(in crate::control) fn due(&self) -> impl Future<Output = ()> + use<> {
        let due = self.due;
        async move {
            match due {
                Some(due) => tokio::time::sleep_until(due).await,
                None => std::future::pending().await,
            }
        }
    }

    pub(in crate::control) fn forget(&mut self, metrics: &Metrics) {
        metrics.forget_services(&self.names);
        *self = Self::default();
    }
}
