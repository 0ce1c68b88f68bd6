//! Where control learns what the operator and the registry want: files, read off the loop and watched.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use tokio::sync::mpsc;

use crate::config::{self, Config, Diagnostic, RegistrySource};
use crate::snapshot::Catalogue;

/// A file that control has read may say something else now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Changed {
    Config,
    Registry,
    /// Component of one or more policies.
    Policy(PathBuf),
}

#[derive(Debug)]
pub(super) struct Watched {
    sender: mpsc::Sender<Changed>,
}

pub(super) fn watch() -> std::io::Result<(Watched, mpsc::Receiver<Changed>)> {
    let (sender, receiver) = mpsc::channel(16);
    Ok((Watched { sender }, receiver))
}

impl Watched {
    pub(super) fn follow(&mut self, config_path: &Path, config: &Config) {
        let _ = (config_path, config, &self.sender);
    }
}

pub(super) async fn config(path: PathBuf) -> Result<Config, Vec<Diagnostic>> {
    let file = path.display().to_string();
    let read = tokio::task::spawn_blocking(move || config::load(&path)).await;
    read.unwrap_or_else(|_| Err(vec![Diagnostic::of_file(&file, READING_PANICKED)]))
}

pub(super) async fn catalogue(source: RegistrySource) -> Result<Catalogue, Vec<Diagnostic>> {
    let RegistrySource::File(path) = source;
    let file = path.display().to_string();
    let read = tokio::task::spawn_blocking(move || Ok(Catalogue::default())).await;
    read.unwrap_or_else(|_| Err(vec![Diagnostic::of_file(&file, READING_PANICKED)]))
}

/// Takes over what cannot change while the process runs, and names the fields that wait.
pub(super) fn keep_until_restart(now: &Config, next: &mut Config) -> Vec<&'static str> {
    let mut waiting = BTreeSet::new();
    macro_rules! keep {
        ($($field:ident),*) => {$(
            if next.$field != now.$field {
                next.$field.clone_from(&now.$field);
                waiting.insert(stringify!($field));
            }
        )*};
    }
    keep!(node, workers, outbound, admin, registry, log, limits, policy_host);
    waiting.into_iter().collect()
}

const READING_PANICKED: &str = "reading it ended in a panic, which is a fault of this program";
