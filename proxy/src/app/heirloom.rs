//! What passes from one process to the next, on both ends: the sockets, and who is in charge.

use std::convert::Infallible;
use std::path::PathBuf;
use std::pin::pin;

use super::AppError;
use super::ports::Ports;
use crate::config::Config;
use crate::handover::{Begun, HandoverError, Inheritance, Named, Offer, Predecessor, Succession};

/// Between start and end: whom we have succeeded, and what a successor gets.
#[derive(Debug)]
pub(super) struct Heirloom {
    pub(super) succession: Succession,
    /// Until we serve.
    prepared: Option<Prepared>,
    _predecessor: Option<Predecessor>,
    _offer: Option<Offer>,
}

#[derive(Debug)]
struct Prepared {
    path: PathBuf,
    copies: Vec<Named>,
    begun: Begun,
    predecessor: Option<Predecessor>,
}

impl Heirloom {
    /// Binds all ports, those of a process before us as far as they are the same.
    pub(super) async fn bind(config: &Config, path: Option<PathBuf>) -> Result<(Ports, Self), AppError> {
        let mut inheritance = Inheritance::default();
        if let Some(path) = path.clone() {
            let received = tokio::task::spawn_blocking(move || Inheritance::from(&path)).await;
            inheritance = received.map_err(|error| AppError::Thread(error.into()))??;
        }
        let (begun, succession) = Succession::new();
        let ports = Ports::bind(config, &mut inheritance).await?;
        let ports = Ports { admin: ports.admin.until(succession.clone()), ..ports };
        let prepared = match path {
            Some(path) => {
                let copies = ports.copies().map_err(AppError::Copies)?;
                Some(Prepared { path, copies, begun, predecessor: inheritance.predecessor() })
            }
            None => None,
        };
        Ok((ports, Self { succession, prepared, _predecessor: None, _offer: None }))
    }

    /// The process before us learns that we serve, and the next one finds us.
    pub(super) async fn take_over(&mut self) -> Result<(), HandoverError> {
        let Some(Prepared { path, copies, begun, predecessor }) = self.prepared.take() else { return Ok(()) };
        if let Some(predecessor) = predecessor {
            let told = tokio::task::spawn_blocking(move || {
                let told = predecessor.tell_serving();
                (predecessor, told)
            });
            if let Ok((predecessor, told)) = told.await {
                if let Err(error) = told {
                    tracing::warn!(%error, "the process before this one does not know that it is succeeded");
                }
                self._predecessor = Some(predecessor);
            }
        }
        self._offer = Some(Offer::make(&path, copies, begun)?);
        Ok(())
    }

    /// Two processes at one socket would answer by turns, so the older one waits while it has a successor.
    pub(super) fn without_successor<F: Future<Output = Infallible>>(
        &self,
        serve: F,
    ) -> impl Future<Output = Infallible> + use<F> {
        let mut succession = self.succession.clone();
        async move {
            let mut serve = pin!(serve);
            loop {
                tokio::select! {
                    biased;
                    () = succession.until(true) => succession.until(false).await,
                    never = &mut serve => match never {},
                }
            }
        }
    }
}
