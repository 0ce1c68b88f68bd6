//! A changed configuration: in force as a whole, or refused as a whole and watched until it is mended.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Ended, Events};
use crate::control::reconcile::Change;
use crate::control::sources::{self, Broken, Reloaded};
use crate::tls::ClientConfig;

impl Events {
    pub(super) async fn config_loaded(&mut self, loaded: Result<Box<Reloaded>, Broken>) {
        let broken = match loaded {
            Ok(reloaded) => match self.reconfigure(*reloaded).await {
                Ok(()) => return,
                Err(broken) => broken,
            },
            Err(broken) => broken,
        };
        // The same may be reported twice.
        let again = self.state.faults.config == broken.problems;
        if !again {
            tracing::error!(
                "configuration refused, the one before stays in force:\n{}",
                broken.problems.join("\n")
            );
            self.state.note_refusals(&broken.refused);
        }
        self.state.faults.config = broken.problems;
        self.follow_files(broken.files);
        self.count_reload(false, if again { "unchanged" } else { "refused" });
    }

    async fn reconfigure(&mut self, Reloaded { mut config, mut versions }: Reloaded) -> Result<(), Broken> {
        let waiting = sources::keep_until_restart(&self.state.config, &mut config);
        for field in waiting.iter().filter(|field| !self.state.faults.restart.contains(field)) {
            tracing::warn!(field, "a changed setting waits for a restart");
        }
        versions.retain(|name, version| !self.is_in_force(name, version));
        let unchanged = config == *self.state.config && versions.is_empty();
        let files = sources::files(&self.config_path, &config);
        let change = Change { config: Some(Arc::new(config)), versions };
        let version = self.state.apply_sparing(change, true).await.map_err(|error| Broken {
            problems: vec![error.to_string()],
            files,
            refused: error.refused(),
        })?;
        // Without a catalogue it is in force with the first one.
        if !unchanged && version > 0 {
            tracing::info!(version, "configuration in force");
        }
        self.state.faults.config.clear();
        self.state.faults.restart = waiting;
        self.follow_files(BTreeSet::new());
        self.follow_releases();
        self.count_reload(true, if unchanged { "unchanged" } else { "applied" });
        Ok(())
    }

    /// Certificates or keys may have changed: those who use such a file read all of theirs again, elsewhere.
    pub(super) fn certificates_changed(&mut self, which: impl Fn(&Path) -> bool) {
        let config = Arc::clone(&self.state.config);
        for (field, client) in config.tls_clients().filter(|(_, client)| client.files().any(&which)) {
            let client = client.clone();
            self.slowly(async move { Ended::Tls { field, read: sources::tls(client).await } });
        }
    }

    /// For connections to come, or not at all.
    pub(super) fn certificates_read(&mut self, field: &'static str, read: Result<Arc<ClientConfig>, String>) {
        let config = Arc::clone(&self.state.config);
        let result = match read {
            Ok(read) => {
                let client = config.tls_clients().find(|(name, _)| *name == field);
                client.into_iter().for_each(|(_, client)| client.put_in_force(Arc::clone(&read)));
                tracing::info!(field, "certificates read");
                self.state.faults.tls.remove(field);
                "applied"
            }
            Err(error) => {
                tracing::error!(field, error, "certificates refused, those before stay in force");
                self.state.faults.tls.insert(field, error);
                "refused"
            }
        };
        self.state.metrics.tls_reloads.with_label_values(&[result]).inc();
    }

    fn count_reload(&self, valid: bool, result: &str) {
        self.state.metrics.config_valid.set(i64::from(valid));
        self.state.metrics.config_reloads.with_label_values(&[result]).inc();
    }

    /// Watches what is in force, and what a refused configuration names: when that changes, it may be accepted.
    /// Files that are new here may have changed since they were read.
    fn follow_files(&mut self, refused: BTreeSet<PathBuf>) {
        let mut files = sources::files(&self.config_path, &self.state.config);
        let mine = files.clone();
        files.extend(refused);
        self.watcher.set_files(files.clone());
        let before = std::mem::replace(&mut self.files, files);
        mine.difference(&before).for_each(|file| self.changed(file));
    }
}
