//! The network file as it is written. Every field is optional here; `resolve` says what is missing.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::config::written::{ClientTls, OneOrMany, Ordered, Span};

/// The network of one host, for `outrigger net`.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "Outrigger network")]
pub(super) struct File {
    /// Networks by name, each a bridge on this host.
    pub(super) networks: Option<Ordered<Network>>,
    /// Workloads by the id of their container.
    pub(super) workloads: Option<Ordered<Workload>>,
}

/// A bridge on this host, and what its workloads may do.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::net) struct Network {
    /// Address ranges: one of IPv4, one of IPv6, or both. The first address of each is the bridge's own. Required, but
    /// for an overlay.
    pub(in crate::net) subnets: Option<Vec<String>>,
    /// The bridge's name, of 15 characters at most. Default: `or-` and the network's name.
    pub(in crate::net) bridge: Option<String>,
    /// The largest packet, in bytes. Default: that of the link that leads out of this host, less what an overlay adds.
    pub(in crate::net) mtu: Option<u32>,
    /// What leaves this host has the host's address. Default: true.
    pub(in crate::net) masquerade: Option<bool>,
    /// Nothing goes to or comes from other networks here, but to published ports. Default: true.
    pub(in crate::net) isolated: Option<bool>,
    /// The host and its workloads are told each other's hardware addresses instead of asking for them.
    /// Default: false, or true for an overlay.
    pub(in crate::net) static_neighbours: Option<bool>,
    /// The network goes on on other hosts. Default: it ends here.
    pub(in crate::net) overlay: Option<Overlay>,
}

/// A network of many hosts: each leases a subnet in etcd and reaches the others by VXLAN. The schema is flannel's. It
/// needs `outrigger net run`.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::net) struct Overlay {
    /// The etcd that the hosts share.
    #[schemars(required)]
    pub(in crate::net) etcd: Option<OverlayEtcd>,
    /// Ranges that the hosts' subnets come from: one of IPv4, and one of IPv6 if wanted. Written to etcd if the network
    /// is not there yet; otherwise what etcd has holds. Default: what etcd has.
    pub(in crate::net) ranges: Option<Vec<String>>,
    /// Length of each host's subnet of IPv4, where `ranges` founds the network. Default: 24, or what gives four subnets.
    pub(in crate::net) subnet_length: Option<u8>,
    /// The same of IPv6. Default: 64, or what gives four subnets.
    pub(in crate::net) subnet_length_ipv6: Option<u8>,
    /// Number of the network on the wire, where `ranges` founds it. Default: 1.
    pub(in crate::net) vni: Option<u32>,
    /// UDP port, where `ranges` founds the network. Default: 8472.
    pub(in crate::net) port: Option<u16>,
    /// Send to hosts on the same link without a tunnel. Default: what etcd says.
    pub(in crate::net) direct_routing: Option<bool>,
    /// The link to the other hosts. Default: the one that the default route leads to.
    pub(in crate::net) interface: Option<String>,
    /// For how long this host's subnet stays its own when it is silent. Default: 24h.
    pub(in crate::net) lease: Option<Span>,
    /// Leave checksums of packed packets to hardware. Default: true from Linux 5.7 on, before which translating a packed
    /// packet spoilt them.
    pub(in crate::net) checksum_offload: Option<bool>,
}

/// The etcd that hosts share.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::net) struct OverlayEtcd {
    /// Client URLs of its members, such as http://10.0.0.1:2379: one or a list. With https, all of them.
    #[schemars(required)]
    pub(in crate::net) endpoints: Option<OneOrMany>,
    /// What all keys of the network begin with. Default: /coreos.com/network.
    pub(in crate::net) prefix: Option<String>,
    /// With authentication: the user.
    pub(in crate::net) user: Option<String>,
    /// With authentication: file with the user's password.
    pub(in crate::net) password_file: Option<String>,
    /// With https.
    pub(in crate::net) tls: Option<ClientTls>,
    /// For one exchange. Default: 2s.
    pub(in crate::net) timeout: Option<Span>,
}

/// A network namespace, put on a network, captured, or both.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Workload {
    /// Where its network namespace is: one of the fields.
    #[schemars(required)]
    pub(super) namespace: Option<Namespace>,
    /// The network it is put on; left out, its links are left alone.
    pub(super) network: Option<String>,
    /// The interface's name inside. Default: eth0.
    pub(super) interface: Option<String>,
    /// Addresses it has to have, one of each subnet at most. Default: the next that are free.
    pub(super) addresses: Option<Vec<String>>,
    /// Ports of this host: `[ADDRESS:]PORT[:WORKLOAD'S PORT][/udp]`, as in `8080:80` or `127.0.0.1:5353:53/udp`.
    pub(super) publish: Option<Vec<String>>,
    /// Lead its traffic into the sidecar that runs in the same namespace. Default: no capture.
    pub(super) capture: Option<Capture>,
}

/// A network namespace.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Namespace {
    /// A process in it.
    pub(super) pid: Option<u32>,
    /// A file that stands for it, as `ip netns` makes them.
    pub(super) path: Option<String>,
    /// The number of a file descriptor that `outrigger` was started with.
    pub(super) fd: Option<u32>,
}

/// What is led into the sidecar. TCP only, but for DNS; other UDP passes untouched and is counted.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::net) struct Capture {
    /// How TCP is led. Default: redirect.
    pub(super) mode: Option<Mode>,
    /// The sidecar's port for what the workload sends; 0 leaves it alone. Default: 15001.
    pub(super) outbound: Option<u16>,
    /// The sidecar's port for what comes to the workload; 0 leaves it alone. Default: 15006.
    pub(super) inbound: Option<u16>,
    /// The sidecar's port for DNS questions, over UDP and TCP; 0 leaves them alone. Default: 15053.
    pub(super) dns: Option<u16>,
    /// How the sidecar's own traffic is known.
    pub(super) sidecar: Option<Sidecar>,
    /// What the workload sends and is not captured.
    pub(super) except_outbound: Option<Except>,
    /// What comes to the workload and is not captured. Users, groups and marks say nothing here.
    pub(super) except_inbound: Option<ExceptInbound>,
}

/// How TCP is led into the sidecar. Names are redirected in either mode.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Mode {
    /// Its destination is translated to the sidecar's port; the sidecar needs no privilege.
    Redirect,
    /// Nothing is translated: the sidecar's sockets stand for any address, which it says as well (`capture.mode`).
    Tproxy,
}

/// How the sidecar's own traffic is known: without one, it would be led into the sidecar again.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Sidecar {
    /// The user it runs as; the workload has to be another. Default: 1337, unless `gid` or `mark` is given.
    pub(super) uid: Option<u32>,
    /// The group it runs as.
    pub(super) gid: Option<u32>,
    /// The mark it sets on its sockets, which needs CAP_NET_ADMIN for life.
    pub(super) mark: Option<u32>,
}

/// What is let through.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Except {
    /// Destination ports or ranges of them, in quotes: `"25"`, `"8000-8099"`.
    pub(super) ports: Option<Vec<String>>,
    /// Destination addresses, as in `10.0.0.0/8` or `fd00::/8`.
    pub(super) ranges: Option<Vec<String>>,
    /// Numbers of users that send.
    pub(super) uids: Option<Vec<u32>>,
    /// Numbers of groups that send.
    pub(super) gids: Option<Vec<u32>>,
    /// Marks of packets.
    pub(super) marks: Option<Vec<u32>>,
    /// Interfaces it leaves by.
    pub(super) interfaces: Option<Vec<String>>,
}

/// What is let in.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ExceptInbound {
    /// The workload's ports or ranges of them, in quotes.
    pub(super) ports: Option<Vec<String>>,
    /// Source addresses.
    pub(super) ranges: Option<Vec<String>>,
    /// Interfaces it comes by.
    pub(super) interfaces: Option<Vec<String>>,
}
