//! Addresses that are listened on, and that no two parts of the program want the same.

use std::net::{Ipv4Addr, SocketAddr};

use super::super::diagnostic::{FieldPath, Problems};
use super::super::resolved::{AdminListen, Capture, Config, Listen};
use super::super::written::OneOrMany;
use super::check;

const OUTBOUND_PORT: u16 = 15001;
/// Each is a socket per worker.
const ADDRESSES_MAX: usize = 64;

/// Where clients dial us knowingly. The usual address belongs to captured traffic where that is taken.
pub(super) fn outbound(
    written: Option<OneOrMany>,
    captured: bool,
    at: &FieldPath<'_>,
    problems: &mut Problems,
) -> Vec<SocketAddr> {
    let Some(texts) = written else {
        let usual = (Ipv4Addr::LOCALHOST, OUTBOUND_PORT).into();
        return if captured { Vec::new() } else { vec![usual] };
    };
    if texts.0.is_empty() {
        problems.report(at, "an empty list; at least one address is needed");
    }
    addresses(&texts, at, problems)
}

/// Each once.
pub(super) fn addresses(
    OneOrMany(texts): &OneOrMany,
    at: &FieldPath<'_>,
    problems: &mut Problems,
) -> Vec<SocketAddr> {
    check::count(texts.len(), ADDRESSES_MAX, at, problems);
    let mut addresses = Vec::with_capacity(texts.len());
    for (index, text) in texts.iter().enumerate() {
        let at = &at.item(index);
        let Some(address) = check::address(text, at, problems) else { continue };
        // Port 0 is any free port, so it may be given more than once.
        if address.port() != 0 && addresses.contains(&address) {
            problems.report(at, format!("{address} is given twice"));
        }
        addresses.push(address);
    }
    addresses
}

/// Two parts at one address would take each other's connections, or fail at the start.
pub(super) fn refuse_shared(config: &Config, problems: &mut Problems) {
    let root = &FieldPath::Root;
    let admin: Vec<SocketAddr> = match &config.admin.listen {
        AdminListen::Tcp(address) => vec![*address],
        AdminListen::Unix(_) => Vec::new(),
    };
    let captured = |listen: fn(&Capture) -> &Listen| {
        config.capture.as_ref().map_or(&[][..], |capture| &listen(capture).addresses)
    };
    let dns = config.dns.as_ref().map_or(&[][..], |dns| &dns.listen);
    let (capture_at, dns_at) = (&root.field("capture"), &root.field("dns"));
    let parts: [(&str, &FieldPath<'_>, &[SocketAddr]); 5] = [
        ("outbound", &root.field("outbound"), &config.outbound),
        ("capture.outbound", &capture_at.field("outbound"), captured(|capture| &capture.outbound)),
        ("capture.inbound", &capture_at.field("inbound"), captured(|capture| &capture.inbound)),
        ("admin", &root.field("admin"), &admin),
        ("dns.listen", &dns_at.field("listen"), dns),
    ];
    for (number, (_, at, addresses)) in parts.iter().enumerate() {
        for address in *addresses {
            let rival =
                parts[..number].iter().find(|(_, _, others)| others.iter().any(|o| meet(*o, *address)));
            if let Some((name, ..)) = rival {
                problems.report(at, format!("{address} is also given for `{name}`"));
            }
        }
    }
}

/// Whether two sockets cannot have both. A wild card stands for all addresses of its own family.
fn meet(a: SocketAddr, b: SocketAddr) -> bool {
    let same_family = a.is_ipv4() == b.is_ipv4();
    let same_ip = a.ip() == b.ip() || same_family && (a.ip().is_unspecified() || b.ip().is_unspecified());
    a.port() == b.port() && a.port() != 0 && same_ip
}
