//! The part of the file that joins a network of many hosts.

use std::path::Path;
use std::time::Duration;

use super::resolve::{is_link_name, prefix};
use super::{Overlay, written};
use crate::config::diagnostic::{FieldPath, Problems};
use crate::config::resolve::{check, registry};
use crate::config::written::{ClientTls, Etcd as WrittenEtcd};
use crate::net::overlay::Plan;
use crate::net::overlay::flannel::Range;
use crate::net::overlay::source::{Source, TlsFiles};

const PREFIX: &str = "/coreos.com/network";
const VNI: std::ops::RangeInclusive<u32> = 1..=(1 << 24) - 1;
const PORT: u16 = 8472;
/// As flannel has it: who is silent for a day has left.
const LEASE: Duration = Duration::from_secs(24 * 60 * 60);
const LEASE_MIN: Duration = Duration::from_secs(10);
/// Version of Linux.
const CHECKSUMS_SINCE: (u32, u32) = (5, 7);

pub(super) fn overlay(
    written: written::Overlay,
    base: &Path,
    at: &FieldPath<'_>,
    problems: &mut Problems,
) -> Overlay {
    let lease = check::span(written.lease, LEASE, &at.field("lease"), problems);
    if lease < LEASE_MIN {
        problems.report(&at.field("lease"), format!("at least {LEASE_MIN:?}"));
    }
    if written.interface.as_deref().is_some_and(|name| !is_link_name(name)) {
        problems.report(&at.field("interface"), "this cannot be the name of an interface");
    }
    Overlay {
        founding: founding(&written, at, problems),
        source: source(written.etcd, base, at, problems),
        interface: written.interface,
        direct_routing: written.direct_routing,
        checksum_offload: written.checksum_offload.unwrap_or_else(checksums_hold),
        lease,
    }
}

/// `None` if nothing founds the network.
fn founding(written: &written::Overlay, at: &FieldPath<'_>, problems: &mut Problems) -> Option<Plan> {
    let ranges_at = &at.field("ranges");
    let vni = check::range(written.vni, 1, VNI, &at.field("vni"), problems);
    if written.port == Some(0) {
        problems.report(&at.field("port"), "0 is no port to send to");
    }
    let Some(ranges) = &written.ranges else {
        for field in ["subnet_length", "subnet_length_ipv6", "vni", "port"] {
            if problems.written(&at.field(field)) {
                problems
                    .report(&at.field(field), format!("`{field}` needs `ranges`; otherwise etcd says it"));
            }
        }
        return None;
    };
    let (mut ipv4, mut ipv6) = (None, None);
    for (index, text) in ranges.iter().enumerate() {
        let at = &ranges_at.item(index);
        let Some(whole) = prefix(text, at, problems) else { continue };
        if !whole.is_network() {
            problems.report_with(at, format!("`{text}` is an address"), format!("write {}", whole.network()));
            continue;
        }
        let (place, length) = if whole.is_ipv4() {
            (&mut ipv4, written.subnet_length)
        } else {
            (&mut ipv6, written.subnet_length_ipv6)
        };
        match Range::of(whole, length) {
            Ok(_) if place.is_some() => problems.report(at, "there is one range of each family at most"),
            Ok(range) => *place = Some(range),
            Err(message) => problems.report(at, message),
        }
    }
    if ipv4.is_none() && ranges.iter().all(|text| text.contains(':')) {
        problems.report_with(ranges_at, "a range of IPv4 is needed", "flannel's schema names hosts by it");
    }
    let port = written.port.unwrap_or(PORT);
    let direct_routing = written.direct_routing.unwrap_or(false);
    ipv4.map(|ipv4| Plan { ipv4, ipv6, vni, port, direct_routing })
}

fn source(
    written: Option<written::OverlayEtcd>,
    base: &Path,
    at: &FieldPath<'_>,
    problems: &mut Problems,
) -> Source {
    let at = &at.field("etcd");
    let written = written.unwrap_or_else(|| {
        problems.report_with(
            at,
            "field `etcd` is missing",
            "as in `etcd: {endpoints: http://10.0.0.1:2379}`",
        );
        written::OverlayEtcd::default()
    });
    let path = |file: &Option<String>| file.as_ref().map(|file| base.join(file));
    let tls = written.tls.as_ref().map(|tls: &ClientTls| TlsFiles {
        ca_file: path(&tls.ca_file),
        identity: path(&tls.cert_file).zip(path(&tls.key_file)),
        server_name: tls.server_name.clone(),
    });
    let user = written.user.clone().zip(path(&written.password_file));
    // The one for a registry checks all of it, the files included.
    let etcd = WrittenEtcd {
        endpoints: written.endpoints,
        prefix: Some(written.prefix.unwrap_or_else(|| PREFIX.to_owned())),
        user: written.user,
        password_file: written.password_file,
        tls: written.tls,
        timeout: written.timeout,
    };
    let etcd = registry::etcd(&etcd, base, at, problems);
    let tls = etcd.tls.is_some().then(|| tls.unwrap_or_default());
    Source { servers: etcd.servers, prefix: etcd.prefix, user, tls, timeout: etcd.timeout }
}

/// Before, the kernel forgot that a packed packet has no checksum when it translated the packet a second time.
pub(in crate::net) fn checksums_hold() -> bool {
    hold_in(&rustix::system::uname().release().to_string_lossy())
}

fn hold_in(release: &str) -> bool {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= CHECKSUMS_SINCE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_that_spoil_checksums_are_known() {
        let known = ["4.19.0-26-amd64", "5.6.19", "5.7.0-rc1", "5.10.0", "6.1.0-9-cloud", "10.0", "unknown"];
        assert_eq!(known.map(hold_in), [false, false, true, true, true, true, false]);
    }
}
