//! `capture`, checked and completed.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use super::super::diagnostic::{FieldPath, Problems};
use super::super::resolved::{Capture, Listen, Mode, Ports, Unknown};
use super::super::written;
use super::check::{self, span};
use super::listen;

const OUTBOUND_PORT: u16 = 15001;
const INBOUND_PORT: u16 = 15006;
const DETECT: Duration = Duration::from_millis(200);
/// Longer, and a client of a server that speaks first would take it for dead.
const DETECT_MAX: Duration = Duration::from_secs(10);
const IDLE: Duration = Duration::from_secs(3600);
const PORT_RANGES_MAX: usize = 64;

pub(super) fn resolve(written: written::Capture, at: &FieldPath<'_>, problems: &mut Problems) -> Capture {
    let outbound = [(Ipv4Addr::LOCALHOST, OUTBOUND_PORT).into(), (Ipv6Addr::LOCALHOST, OUTBOUND_PORT).into()];
    let inbound =
        [(Ipv4Addr::UNSPECIFIED, INBOUND_PORT).into(), (Ipv6Addr::UNSPECIFIED, INBOUND_PORT).into()];
    let capture = Capture {
        mode: match written.mode {
            Some(written::Mode::Tproxy) => Mode::Tproxy,
            Some(written::Mode::Redirect) | None => Mode::Redirect,
        },
        outbound: addresses(written.outbound, outbound, &at.field("outbound"), problems),
        inbound: addresses(written.inbound, inbound, &at.field("inbound"), problems),
        unknown: match written.unknown {
            Some(written::Unknown::Refuse) => Unknown::Refuse,
            Some(written::Unknown::Pass) | None => Unknown::Pass,
        },
        detect: span(written.detect, DETECT, &at.field("detect"), problems),
        idle: span(written.idle, IDLE, &at.field("idle"), problems),
        opaque_outbound: ports(written.opaque_outbound, &at.field("opaque_outbound"), problems),
        opaque_inbound: ports(written.opaque_inbound, &at.field("opaque_inbound"), problems),
    };
    if capture.detect > DETECT_MAX {
        problems.report(&at.field("detect"), "longer than 10s");
    }
    if capture.outbound.addresses.is_empty() && capture.inbound.addresses.is_empty() {
        problems.report_with(at, "nothing is taken: both lists are empty", "leave `capture` out");
    }
    capture
}

fn addresses(
    written: Option<written::OneOrMany>,
    default: [SocketAddr; 2],
    at: &FieldPath<'_>,
    problems: &mut Problems,
) -> Listen {
    match written {
        None => Listen { addresses: default.to_vec(), is_default: true },
        Some(texts) => Listen { addresses: listen::addresses(&texts, at, problems), is_default: false },
    }
}

fn ports(written: Option<Vec<String>>, at: &FieldPath<'_>, problems: &mut Problems) -> Ports {
    let written = written.unwrap_or_default();
    check::count(written.len(), PORT_RANGES_MAX, at, problems);
    let parse = |(index, text): (usize, String)| check::ports(&text, &at.item(index), problems);
    Ports(written.into_iter().enumerate().filter_map(parse).collect())
}
