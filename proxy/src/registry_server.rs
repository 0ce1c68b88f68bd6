//! The embedded registry: services, checks and keys, kept on disk, behind the part of Consul's interface that service
//! discovery uses. One process for a laptop, a test or a single host.
//!
//! This file is its start and stop order. `http` and `dns` ask, `writer` alone changes, `state` is what all look at,
//! `keeper` does what happens by itself. It shares no code with the sidecar but configuration and metrics.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

pub mod metrics;
pub mod settings;

mod certificates;
mod change;
mod dns;
mod edit;
mod http;
mod keeper;
mod model;
mod probe;
mod state;
mod store;
mod uuid;
mod writer;

use change::{Change, Refusal, Registration};
use dns::{Dns, Sockets, Zone};
use keeper::Keeper;
use metrics::Metrics;
use model::{Check, Name, NodeRow, Status};
use settings::Settings;
use state::State;
use store::Store;
use writer::{Registry, Writer};

/// Signs of life that may wait for the keeper.
const BEATS_MAX: usize = 1024;
/// The check that says that a node's agent is alive. Here: that this registry runs.
const OWN_CHECK: &str = "serfHealth";

/// A registry that runs.
#[derive(Debug)]
pub struct Running {
    pub http: SocketAddr,
    pub dns: Option<SocketAddr>,
    writer: Writer,
    end: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
}

/// Why it could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("cannot listen on {0}: {1}")]
    Listen(SocketAddr, std::io::Error),
    #[error("the store: {0}")]
    Store(String),
    #[error(
        "the store belongs to node `{stored}`, and `node.name` says `{wanted}`; services registered there would be \
         left behind: give the old name, or another folder"
    )]
    Renamed { stored: String, wanted: String },
    #[error("cannot start: {0}")]
    Other(String),
}

/// Starts everything; ports are bound before the store is opened.
pub async fn start(mut settings: Settings) -> Result<Running, StartError> {
    let listen_error = |error| StartError::Listen(settings.listen, error);
    let listener = TcpListener::bind(settings.listen).await.map_err(listen_error)?;
    let http = listener.local_addr().map_err(listen_error)?;
    let dns = bind_dns(&settings).await?;
    let other = |error: &dyn std::fmt::Display| StartError::Other(error.to_string());
    let metrics = Metrics::new().map_err(|error| other(&error))?;
    let (store, state) = Store::open(&settings.data).map_err(|error| StartError::Store(error.to_string()))?;
    claim(&mut settings, &state)?;
    let writer = Writer::start(store, state, settings.limits.clone(), metrics.clone());
    let writer = writer.map_err(|error| other(&error))?;
    let registry = writer.registry.clone();
    register_self(&registry, &settings).await.map_err(|error| StartError::Store(error.to_string()))?;

    let (end, ending) = watch::channel(false);
    let mut tasks = Vec::new();
    let mut dns_address = None;
    if let Some((sockets, address, zone)) = dns {
        dns_address = Some(address);
        let dns = Dns { registry: registry.clone(), zone, metrics: metrics.clone() };
        tasks.push(tokio::spawn(dns.serve(sockets, ending.clone())));
    }
    if let Some(tls) = settings.tls.clone() {
        tasks.push(tokio::spawn(certificates::follow(tls, metrics.clone(), ending.clone())));
    }
    let (beats, beaten) = mpsc::channel(BEATS_MAX);
    let node = Name::from(settings.node.as_str());
    let keeper = Keeper::new(registry.clone(), node, &settings.limits, metrics.clone());
    let server = http::Server::new(registry, settings, metrics, beats, (http, ending.clone()));
    tasks.push(tokio::spawn(keeper.run(beaten, ending)));
    tasks.push(tokio::spawn(Arc::new(server).serve(listener)));
    Ok(Running { http, dns: dns_address, writer, end, tasks })
}

async fn bind_dns(settings: &Settings) -> Result<Option<(Sockets, SocketAddr, Zone)>, StartError> {
    let Some(dns) = settings.dns else { return Ok(None) };
    let listen_error = |error| StartError::Listen(dns.listen, error);
    let sockets = Sockets::bind(dns.listen).await.map_err(listen_error)?;
    let address = sockets.address().map_err(listen_error)?;
    let ttl_s = u32::try_from(dns.ttl.as_secs()).unwrap_or(u32::MAX);
    Ok(Some((sockets, address, Zone { datacenter: settings.datacenter.clone(), ttl_s })))
}

impl Running {
    /// Ends in order: those who wait are answered, connections close, and what was asked for is on the disk.
    pub async fn stop(self) {
        self.end.send_replace(true);
        for task in self.tasks {
            // A panic has been reported already.
            let _ = task.await;
        }
        self.writer.finish().await;
    }
}

/// Returns once the registry is to end.
async fn ended(ending: &mut watch::Receiver<bool>) {
    // If the other end is gone, so is the registry.
    let _ = ending.wait_for(|ending| *ending).await;
}

/// The store belongs to one node, whose name stays even if the machine's changes (as it does in containers).
fn claim(settings: &mut Settings, state: &State) -> Result<(), StartError> {
    let stored = state.nodes.iter().find(|(_, node)| node.check(OWN_CHECK).is_some()).map(|(name, _)| name);
    let Some(stored) = stored.filter(|stored| ***stored != *settings.node) else { return Ok(()) };
    if settings.node_is_default {
        settings.node = stored.to_string();
        return Ok(());
    }
    Err(StartError::Renamed { stored: stored.to_string(), wanted: settings.node.clone() })
}

async fn register_self(registry: &Registry, settings: &Settings) -> Result<(), Refusal> {
    let known = registry.state().nodes.get(settings.node.as_str()).map(|node| Arc::clone(&node.row));
    let row = own_row(settings, known.as_deref());
    let check = Check {
        node: Name::clone(&row.name),
        id: OWN_CHECK.into(),
        name: "Serf Health Status".into(),
        status: Status::Passing,
        output: "Agent alive and reachable".into(),
        ..Check::default()
    };
    let node = Name::clone(&row.name);
    let registration = Registration { node, row: Some(row), checks: vec![check], ..Registration::default() };
    registry.change(Change::Register(Box::new(registration))).await.map(|_| ())
}

fn own_row(settings: &Settings, known: Option<&NodeRow>) -> NodeRow {
    let address = settings.address.to_string();
    let family = if settings.address.is_ipv4() { "ipv4" } else { "ipv6" };
    let names = ["lan".to_owned(), format!("lan_{family}"), "wan".to_owned(), format!("wan_{family}")];
    NodeRow {
        id: known.map_or_else(uuid::random, |known| known.id.clone()),
        name: settings.node.as_str().into(),
        tagged_addresses: names.into_iter().map(|name| (name, address.clone())).collect(),
        address,
        datacenter: settings.datacenter.clone(),
        ..NodeRow::default()
    }
}
