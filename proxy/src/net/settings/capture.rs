//! The part of the file that says what is led into the sidecar.

use super::resolve::{is_link_name, prefix};
use super::{Capture, Except, Mode, written};
use crate::config::diagnostic::{FieldPath, Problems};
use crate::config::resolve::check;
use crate::net::firewall::transparent::MARK;

const OUTBOUND_PORT: u16 = 15_001;
const INBOUND_PORT: u16 = 15_006;
const DNS_PORT: u16 = 15_053;
/// As other meshes have it, so that images made for them fit.
const SIDECAR_USER: u32 = 1337;
/// Of each kind: every exception is a rule that new connections pass.
const EXCEPTIONS_MAX: usize = 64;

pub(in crate::net) fn capture(
    written: written::Capture,
    at: &FieldPath<'_>,
    problems: &mut Problems,
) -> Capture {
    let port = |port: Option<u16>, default: u16| Some(port.unwrap_or(default)).filter(|port| *port != 0);
    let sidecar = written.sidecar.unwrap_or_default();
    let known_otherwise = sidecar.gid.is_some() || sidecar.mark.is_some();
    let uid = sidecar.uid.or((!known_otherwise).then_some(SIDECAR_USER));
    let out = written.except_outbound.unwrap_or_default();
    let inbound = written.except_inbound.unwrap_or_default();
    if sidecar.mark == Some(0) {
        problems.report(&at.field("sidecar").field("mark"), "0 is the mark of what has none");
    }
    let mut except_outbound = {
        let at = &at.field("except_outbound");
        Except {
            ports: ports(out.ports, at, problems),
            ranges: ranges(out.ranges, at, problems),
            users: bounded(out.uids, &at.field("uids"), problems),
            groups: bounded(out.gids, &at.field("gids"), problems),
            marks: bounded(out.marks, &at.field("marks"), problems),
            interfaces: interfaces(out.interfaces, at, problems),
        }
    };
    except_outbound.users.extend(uid);
    except_outbound.groups.extend(sidecar.gid);
    except_outbound.marks.extend(sidecar.mark);
    let at_inbound = &at.field("except_inbound");
    let mode = match written.mode {
        Some(written::Mode::Tproxy) => Mode::Tproxy,
        Some(written::Mode::Redirect) | None => Mode::Redirect,
    };
    if mode == Mode::Tproxy && except_outbound.marks.contains(&MARK) {
        problems.report(&at.field("mode"), format!("the mark {MARK:#x} is that of captured packets"));
    }
    let captured = Capture {
        mode,
        outbound: port(written.outbound, OUTBOUND_PORT),
        inbound: port(written.inbound, INBOUND_PORT),
        dns: port(written.dns, DNS_PORT),
        except_outbound,
        except_inbound: Except {
            ports: ports(inbound.ports, at_inbound, problems),
            ranges: ranges(inbound.ranges, at_inbound, problems),
            interfaces: interfaces(inbound.interfaces, at_inbound, problems),
            ..Except::default()
        },
    };
    if captured.outbound.is_none() && captured.inbound.is_none() && captured.dns.is_none() {
        problems.report(at, "nothing is captured: `outbound`, `inbound` and `dns` are all 0");
    }
    captured
}

fn ports(written: Option<Vec<String>>, at: &FieldPath<'_>, problems: &mut Problems) -> Vec<(u16, u16)> {
    let at = &at.field("ports");
    let written = bounded(written, at, problems);
    let parse = |(index, text): (usize, String)| check::ports(&text, &at.item(index), problems);
    written.into_iter().enumerate().filter_map(parse).collect()
}

fn ranges(
    written: Option<Vec<String>>,
    at: &FieldPath<'_>,
    problems: &mut Problems,
) -> Vec<crate::net::prefix::Prefix> {
    let at = &at.field("ranges");
    let written = bounded(written, at, problems);
    let parse = |(index, text): (usize, String)| Some(prefix(&text, &at.item(index), problems)?.network());
    written.into_iter().enumerate().filter_map(parse).collect()
}

fn interfaces(written: Option<Vec<String>>, at: &FieldPath<'_>, problems: &mut Problems) -> Vec<String> {
    let at = &at.field("interfaces");
    let written = bounded(written, at, problems);
    for (index, name) in written.iter().enumerate() {
        if !is_link_name(name) {
            problems.report(&at.item(index), format!("`{name}` cannot be the name of an interface"));
        }
    }
    written
}

fn bounded<T>(written: Option<Vec<T>>, at: &FieldPath<'_>, problems: &mut Problems) -> Vec<T> {
    let written = written.unwrap_or_default();
    check::count(written.len(), EXCEPTIONS_MAX, at, problems);
    written
}
