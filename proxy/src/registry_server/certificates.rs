//! Keeps what TLS is served with up to date: files that change are read again, and what cannot be used changes nothing.

use std::path::Path;

use tokio::sync::watch;

use super::ended;
use super::metrics::Metrics;
use crate::tls::Server;
use crate::watch::Watcher;

/// Until the end.
pub(crate) async fn follow(tls: Server, metrics: Metrics, mut ending: watch::Receiver<bool>) {
    let mut watcher = Watcher::new(tls.files().map(Path::to_owned));
    loop {
        // At first as well: they were read before they were watched.
        let server = tls.clone();
        let read = tokio::task::spawn_blocking(move || server.reload()).await;
        let read = read.map_err(|error| error.to_string()).and_then(|read| read.map_err(|e| e.to_string()));
        let result = match read {
            Ok(()) => "applied",
            Err(error) => {
                tracing::error!(error, "certificates refused, those before stay in force");
                "refused"
            }
        };
        metrics.tls_reloads.with_label_values(&[result]).inc();
        tokio::select! {
            files = watcher.changed() => tracing::info!(?files, "certificates or keys have changed"),
            () = ended(&mut ending) => return,
        }
    }
}
