//! Who is asked about which name: the upstreams of the longest configured domain that the name lies in, or those for
//! everything else, which come from the configuration or from the system's own list.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;

use super::resolv_conf::{ResolvConf, Watched};
use super::upstream::Upstream;
use crate::config::{Forward, Resolver, ResolverVia, Resolvers};
use crate::metrics::Metrics;
use crate::names::metrics::UpstreamMetrics;
use crate::tls;

pub(super) type Group = Rc<[Rc<Upstream>]>;

#[derive(Debug)]
pub(super) struct Servers {
    /// By domain: a name on the wire, in lower case.
    domains: HashMap<Box<[u8]>, Group>,
    others: RefCell<Group>,
    /// Where `others` come from, unless they are configured.
    system: Option<Watched>,
    /// Where we listen: nobody is to be asked there.
    ourselves: Vec<SocketAddr>,
    tls: Option<tls::Client>,
    metrics: Metrics,
    /// It has been said that there is nobody.
    warned: Cell<bool>,
}

impl Servers {
    pub(super) fn new(config: &Forward, ourselves: Vec<SocketAddr>, metrics: &Metrics) -> Self {
        let system = match &config.others {
            Resolvers::System(path) => Some(Watched::new(path.clone())),
            Resolvers::Listed(_) => None,
        };
        let mut servers = Self {
            domains: HashMap::new(),
            others: RefCell::new(Rc::new([])),
            system,
            ourselves,
            tls: config.tls.clone(),
            metrics: metrics.clone(),
            warned: Cell::new(false),
        };
        if let Resolvers::Listed(resolvers) = &config.others {
            servers.others = RefCell::new(servers.group(resolvers));
        }
        for (domain, resolvers) in &config.domains {
            let group = servers.group(resolvers);
            servers.domains.insert(on_the_wire(domain), group);
        }
        servers
    }

    /// Those to ask about this name, on the wire and in lower case.
    pub(super) fn of(&self, name: &[u8], now_ms: u64) -> Group {
        let mut rest = name;
        while let (false, Some(&length)) = (self.domains.is_empty(), rest.first()) {
            if let Some(group) = self.domains.get(rest) {
                return Rc::clone(group);
            }
            rest = &rest[(1 + usize::from(length)).min(rest.len())..];
        }
        if let Some(found) = self.system.as_ref().and_then(|system| system.changed(now_ms)) {
            self.take(&found);
        }
        Rc::clone(&self.others.borrow())
    }

    /// Takes a new list from the system. Resolvers that stay keep what is known about them.
    fn take(&self, found: &ResolvConf) {
        let via = if found.tcp { ResolverVia::Tcp } else { ResolverVia::Udp };
        let addresses = found.servers.iter().filter(|address| !self.is_ours(**address));
        let resolvers: Vec<_> =
            addresses.map(|address| Resolver { address: *address, via: via.clone() }).collect();
        if resolvers.is_empty() && !self.warned.replace(true) {
            tracing::warn!(
                "the system's list of resolvers names this program alone; name others in `dns.forward`"
            );
        }
        let group = self.group(&resolvers);
        let before = self.others.replace(group);
        let after = self.others.borrow();
        let gone = before.iter().filter(|old| !after.iter().any(|new| new.resolver == old.resolver));
        self.metrics.forget("upstream", &gone.map(|old| old.resolver.to_string().into()).collect());
        let names: Vec<_> = after.iter().map(|upstream| upstream.resolver.to_string()).collect();
        tracing::info!(resolvers = names.join(" "), "the system's list of resolvers");
    }

    fn is_ours(&self, address: SocketAddr) -> bool {
        self.ourselves.iter().any(|ours| {
            let same_host = ours.ip() == address.ip() || ours.ip().is_unspecified() && is_local(address);
            same_host && ours.port() == address.port()
        })
    }

    fn group(&self, resolvers: &[Resolver]) -> Group {
        resolvers.iter().map(|resolver| self.upstream(resolver)).collect()
    }

    /// The one there is already, in whatever group, or a new one.
    fn upstream(&self, resolver: &Resolver) -> Rc<Upstream> {
        let others = self.others.borrow();
        let mut known = self.domains.values().flat_map(|group| group.iter()).chain(others.iter());
        if let Some(known) = known.find(|known| known.resolver == *resolver) {
            return Rc::clone(known);
        }
        let metrics = UpstreamMetrics::new(&self.metrics, &resolver.to_string());
        let tls = self.tls.clone().filter(|_| matches!(resolver.via, ResolverVia::Tls { .. }));
        Rc::new(Upstream::new(resolver.clone(), tls, metrics))
    }
}

/// Whether the address is one of this machine's: only then a socket can be bound to it.
fn is_local(address: SocketAddr) -> bool {
    std::net::UdpSocket::bind((address.ip(), 0)).is_ok()
}

/// The configuration has checked its labels.
fn on_the_wire(domain: &str) -> Box<[u8]> {
    let mut wire = Vec::with_capacity(domain.len() + 2);
    for label in domain.split('.').filter(|label| !label.is_empty()) {
        wire.push(label.len() as u8);
        wire.extend(label.bytes().map(|byte| byte.to_ascii_lowercase()));
    }
    wire.push(0);
    wire.into()
}
