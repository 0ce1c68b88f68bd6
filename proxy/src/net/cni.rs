//! `outrigger cni`: what a container runtime asks of a CNI plugin, answered with the network of this host.
//!
//! `request` and `config` read what was asked, purely; `attach` and `keep` act, through a run like every other, under
//! the store's lock; `reply` says what came of it in the version that was asked for. An attachment is a workload with
//! an id that no network file can write, `NETWORK/CONTAINER/INTERFACE`, on a network `cni/NETWORK`: so files and
//! runtimes share a store and never each other's entries.

use std::path::Path;
use std::time::Duration;

use serde_json::Value;

mod attach;
mod config;
mod keep;
mod reply;
mod request;

pub use config::schema;
pub use reply::{Answer, Refusal};
pub use request::Environment;

use self::request::{Command, Request, Version};
use super::NetError;
use super::namespace::Namespace;
use super::store::{Record, Store};

/// A runtime starts many containers at once, and each waits for those before it.
const WAIT: Duration = Duration::from_secs(60);

/// Does what the runtime asks.
pub async fn answer(environment: &Environment, input: &[u8]) -> Answer {
    let command = match request::command(environment) {
        Ok(Command::Version) => return Answer::good(request::versions(input)),
        Ok(command) => command,
        Err(refusal) => return Answer::bad(Version::LATEST, &refusal),
    };
    let request = match request::read(command, environment, input) {
        Ok(request) => request,
        Err((version, refusal)) => return Answer::bad(version, &refusal),
    };
    match carry_out(&request).await {
        Ok(Some(result)) => Answer::good(result),
        Ok(None) => Answer::silent(),
        Err(refusal) => Answer::bad(request.version, &refusal),
    }
}

async fn carry_out(request: &Request) -> Result<Option<Value>, Refusal> {
    match request.command {
        Command::Add => attach::add(request).await.map(Some),
        Command::Del => keep::delete(request).await.map(|()| None),
        Command::Check => keep::check(request).await.map(|()| None),
        Command::Gc => keep::collect(request).await.map(|()| None),
        Command::Status => keep::status(request).await.map(|()| None),
        Command::Version => Ok(None),
    }
}

async fn locked(state: &Path) -> Result<Store, Refusal> {
    Ok(Store::to_write(state, WAIT).await.map_err(NetError::from)?)
}

fn load(store: &Store) -> Result<Record, Refusal> {
    let own = Namespace::own()
        .map_err(|source| NetError::Kernel { what: "the host's namespace".into(), source })?;
    Ok(store.load(own.number()).map_err(NetError::from)?)
}
