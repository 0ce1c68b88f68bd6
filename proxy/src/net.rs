//! The network of one host, for workloads in network namespaces: bridges, addresses, published ports, capture.
//!
//! `plan` compares what should be with what is, purely; `apply` carries it out or takes it back; `status` and `undo`
//! work from what the store remembers; `watch` is the process that stays and does it again whenever something differs.
//! No program is called: links by rtnetlink, firewall by nftables' netlink. Nothing here is on a request's path.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

pub mod cni;
pub mod doctor;
pub mod firewall;
pub mod ipam;
pub mod item;
pub mod kernel;
pub mod links;
pub mod namespace;
pub mod observe;
pub mod overlay;
pub mod plan;
pub mod prefix;
mod run;
pub mod settings;
pub mod store;
pub mod target;
pub mod watch;

pub use run::{
    Ask, Done, Ground, Kept, Status, Update, WorkloadStatus, apply, apply_to, gone, keep, plan as plan_for,
    status,
};

/// Where the store is unless somebody says otherwise: in memory, as nothing in it outlives a boot.
pub const STATE: &str = "/run/outrigger/net";

/// Why a run has not done what it was asked.
#[derive(Debug, Error)]
pub enum NetError {
    #[error(transparent)]
    Store(#[from] store::StoreError),
    #[error(transparent)]
    Conflict(#[from] plan::Conflict),
    #[error(transparent)]
    Address(#[from] ipam::Refusal),
    #[error("the namespace of workload `{workload}`, {}: {source}; is it still running?", path.display())]
    Namespace { workload: String, path: PathBuf, source: io::Error },
    #[error("workloads `{0}` and `{1}` have the same namespace")]
    SameNamespace(String, String),
    #[error(
        "the namespace of workload `{0}` is this host's own: it can be captured, but not together with networks"
    )]
    OwnNamespace(String),
    #[error("there is no workload `{0}` in the file")]
    UnknownWorkload(String),
    #[error("network `{0}` is otherwise in force; apply the whole file first, without `--workload`")]
    OtherNetwork(String),
    #[error("network `{0}` has the bridge or a part of the subnets of network `{1}`")]
    SameNetwork(String, String),
    #[error("port {port} ({protocol}) is published of both `{one}` and `{other}`")]
    SamePort { port: u16, protocol: firewall::Protocol, one: String, other: String },
    #[error(
        "network `{0}` has no subnet on this host yet: `outrigger net run` leases it; see what that says"
    )]
    NoSubnet(String),
    #[error("{what}: {source}{}", hint(source))]
    Kernel { what: String, source: io::Error },
    #[error("{change}: {source}{}; what was done before has been taken back", hint(source))]
    TakenBack { change: String, source: io::Error },
    #[error(
        "{change}: {source}{}; and taking back failed: {rest}; `outrigger net apply` or `undo` goes on from here",
        hint(source)
    )]
    Stuck { change: String, source: io::Error, rest: String },
}

fn hint(error: &io::Error) -> &'static str {
    if error.kind() == io::ErrorKind::PermissionDenied {
        "; this needs root, or CAP_NET_ADMIN and CAP_SYS_ADMIN"
    } else {
        ""
    }
}
