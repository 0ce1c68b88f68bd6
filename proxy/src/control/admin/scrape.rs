//! `/metrics`: what is kept elsewhere is fetched first, then all is written down.

use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::endpoints;
use crate::control::{Confirmed, Status};
use crate::link::Command;
use crate::metrics::Metrics;

/// A worker that is busy for longer is scraped as of its last tick.
const FLUSH_WAIT: Duration = Duration::from_millis(200);

pub(super) async fn text(
    status: &Status,
    metrics: &Metrics,
    workers: &[mpsc::Sender<Command>],
) -> Result<String, prometheus::Error> {
    flush(workers).await;
    if let Some(world) = &status.world {
        endpoints::count(world, metrics);
    }
    let age_ms = status.confirmed.map_or(0, Confirmed::age_ms);
    metrics.registry_last_confirmed.set(Duration::from_millis(age_ms).as_secs_f64());
    metrics.encode(status.policy_metrics.iter().map(|policy| &**policy))
}

/// All at once; those with a full queue are left out.
async fn flush(workers: &[mpsc::Sender<Command>]) {
    let asked = workers.iter().filter_map(|worker| {
        let (reply, answer) = oneshot::channel();
        worker.try_send(Command::Flush { reply }).ok().map(|()| answer)
    });
    let answers: Vec<oneshot::Receiver<()>> = asked.collect();
    let all = async {
        for answer in answers {
            // A worker that ends has flushed.
            let _ = answer.await;
        }
    };
    let _ = timeout(FLUSH_WAIT, all).await;
}
