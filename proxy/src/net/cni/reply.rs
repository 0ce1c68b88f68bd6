//! What a runtime is told: results in the version it asked for, errors with the specification's codes.

use serde_json::{Map, Value, json};

use super::request::{Request, Version};
use crate::net::NetError;
use crate::net::item::{Item, Mac, Place};
use crate::net::plan::Made;
use crate::net::settings::{Network, Plug};
use crate::net::store::{Record, StoreError};

/// Of the specification; from 100 on, our own.
const VERSION: u32 = 1;
const FIELD: u32 = 2;
const CONTAINER: u32 = 3;
const ENVIRONMENT: u32 = 4;
const FILES: u32 = 5;
const DECODING: u32 = 6;
const CONFIG: u32 = 7;
const TRY_AGAIN: u32 = 11;
const NOT_AVAILABLE: u32 = 50;
const KERNEL: u32 = 100;
const TAKEN: u32 = 101;
const DIFFERS: u32 = 102;

/// What goes to standard output, and how the program ends.
#[derive(Debug)]
pub struct Answer {
    pub text: String,
    pub is_good: bool,
}

impl Answer {
    pub(super) fn good(result: Value) -> Self {
        Self { text: format!("{result}\n"), is_good: true }
    }

    pub(super) fn silent() -> Self {
        Self { text: String::new(), is_good: true }
    }

    pub(super) fn bad(version: Version, refusal: &Refusal) -> Self {
        let Refusal { code, message, details } = refusal;
        let mut error = json!({"cniVersion": version.text(), "code": code, "msg": message});
        if let (Some(error), Some(details)) = (error.as_object_mut(), details) {
            error.insert("details".into(), details.as_str().into());
        }
        Self { text: format!("{error}\n"), is_good: false }
    }
}

/// Why something was not done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub code: u32,
    pub message: String,
    /// What to do about it, or where it hurts.
    pub details: Option<String>,
}

impl Refusal {
    fn new(code: u32, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), details: None }
    }

    #[must_use]
    pub(super) fn with(self, details: impl Into<String>) -> Self {
        Self { details: Some(details.into()), ..self }
    }

    pub(super) fn version(message: impl Into<String>) -> Self {
        Self::new(VERSION, message)
    }

    /// The message has to say key and value.
    pub(super) fn field(message: impl Into<String>) -> Self {
        Self::new(FIELD, message)
    }

    pub(super) fn container(message: impl Into<String>) -> Self {
        Self::new(CONTAINER, message)
    }

    pub(super) fn environment(message: impl Into<String>) -> Self {
        Self::new(ENVIRONMENT, message)
    }

    pub(super) fn decoding(message: impl Into<String>) -> Self {
        Self::new(DECODING, message)
    }

    pub(super) fn config(message: impl Into<String>) -> Self {
        Self::new(CONFIG, message)
    }

    pub(super) fn taken(message: impl Into<String>) -> Self {
        Self::new(TAKEN, message)
    }

    pub(super) fn differs(message: impl Into<String>) -> Self {
        Self::new(DIFFERS, message)
    }

    pub(super) fn kernel(message: impl Into<String>) -> Self {
        Self::new(KERNEL, message)
    }

    /// The same, as STATUS says it: ADD would fail.
    pub(super) fn not_available(self) -> Self {
        Self { code: NOT_AVAILABLE, ..self }
    }

    /// It may work in a moment.
    pub(super) fn may_pass(&self) -> bool {
        self.code == TRY_AGAIN
    }

    /// Something may have been left by a container that is gone.
    pub(super) fn may_be_stale(&self) -> bool {
        self.code == TAKEN
    }
}

impl From<NetError> for Refusal {
    fn from(error: NetError) -> Self {
        let code = match &error {
            NetError::Store(StoreError::Busy { .. }) | NetError::NoSubnet(_) => TRY_AGAIN,
            NetError::Store(StoreError::File { .. }) => FILES,
            NetError::Conflict(_) | NetError::Address(_) | NetError::SamePort { .. } => TAKEN,
            NetError::Namespace { .. } => CONTAINER,
            NetError::SameNamespace(..) | NetError::OwnNamespace(_) => ENVIRONMENT,
            NetError::SameNetwork(..) | NetError::OtherNetwork(_) => CONFIG,
            NetError::Store(_) | NetError::UnknownWorkload(_) => KERNEL,
            NetError::Kernel { .. } | NetError::TakenBack { .. } | NetError::Stuck { .. } => KERNEL,
        };
        Self::new(code, error.to_string())
    }
}

/// What a container has got, as the record has it.
pub(super) fn joined(request: &Request, record: &Record, dns: Value) -> Value {
    let id = request.id();
    let settings = record.effective();
    let workload = settings.workloads.get(&id);
    let plug = workload.and_then(|workload| workload.plug.as_ref());
    let network = plug.and_then(|plug| settings.networks.get(&plug.network));
    let (Some(plug), Some(network)) = (plug, network) else { return Value::Null };
    let addresses = record.prefixes().remove(&id).unwrap_or_default();
    let gateway = |is_ipv4: bool| network.gateways().find(|gateway| gateway.is_ipv4() == is_ipv4);
    let ips = addresses.iter().map(|address| {
        let mut ip = json!({"interface": INSIDE, "address": address.to_string()});
        if let Some(fields) = ip.as_object_mut() {
            if let Some(gateway) = gateway(address.is_ipv4()) {
                fields.insert("gateway".into(), gateway.address().to_string().into());
            }
            if request.version < Version::V1_0_0 {
                fields.insert("version".into(), if address.is_ipv4() { "4" } else { "6" }.into());
            }
        }
        ip
    });
    json!({
        "cniVersion": request.version.text(),
        "interfaces": interfaces(request, record, network, &id),
        "ips": ips.collect::<Vec<_>>(),
        "routes": routes(plug, network),
        "dns": dns,
    })
}

/// The container's own, in the list of `interfaces`.
const INSIDE: usize = 2;

fn interfaces(request: &Request, record: &Record, network: &Network, id: &str) -> Vec<Value> {
    let on_host = record.made.iter().filter(|made| made.place == Place::Host);
    let items = || on_host.clone().map(|Made { item, .. }| item);
    let interface = |name: &str, mac: Option<Mac>, mtu: u32| {
        let mut fields = Map::new();
        fields.insert("name".into(), name.into());
        if let Some(mac) = mac {
            fields.insert("mac".into(), mac.to_string().into());
        }
        if request.version >= Version::V1_1_0 {
            fields.insert("mtu".into(), mtu.into());
        }
        fields
    };
    let bridge = items().find_map(|item| match item {
        Item::Bridge { name, mac, mtu } if *name == network.bridge => Some(interface(name, Some(*mac), *mtu)),
        _ => None,
    });
    let ends = items().find_map(|item| match item {
        Item::Cable { name, peer, at, mac, mtu, .. } if at.workload == id => {
            let mut inside = interface(peer, Some(*mac), *mtu);
            let sandbox = request.namespace.as_ref().map(|path| path.display().to_string());
            inside.insert("sandbox".into(), sandbox.unwrap_or_default().into());
            Some([interface(name, None, *mtu), inside])
        }
        _ => None,
    });
    bridge.into_iter().chain(ends.into_iter().flatten()).map(Value::Object).collect()
}

fn routes(plug: &Plug, network: &Network) -> Vec<Value> {
    let gateways = network.gateways().filter(|gateway| plug.is_routed(gateway.address()));
    gateways
        .map(|gateway| json!({"dst": gateway.everything().to_string(), "gw": gateway.address().to_string()}))
        .collect()
}

/// Behind another plugin: what that one said, but for what the configuration says about names.
pub(super) fn passed_on(request: &Request, previous: &Value, dns: &Value) -> Value {
    let mut result = previous.clone();
    if let Some(result) = result.as_object_mut() {
        result.insert("cniVersion".into(), request.version.text().into());
        if dns.as_object().is_some_and(|dns| !dns.is_empty()) {
            result.insert("dns".into(), dns.clone());
        }
    }
    result
}
