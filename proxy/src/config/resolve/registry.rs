//! Where services come from, and the workload's own entry there.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::super::diagnostic::{FieldPath, Problems};
use super::super::resolved::{
    Check, CheckKind, Consul, Etcd, MassRemoval, Node, Register, Registry, RegistrySource, Secret, Stale,
};
use super::super::written;
use super::check::{self, range, span};
use super::{admin, file, servers};

const SERVICES_MAX: usize = 10_000;
const LABELS_MAX: usize = 64;
const ID_BYTES_MAX: usize = 128;
const TTL_MIN: Duration = Duration::from_secs(3);
const REPORT_MIN: Duration = Duration::from_secs(1);
const WEIGHT_MAX: u32 = 65_535;

pub(super) fn resolve(
    written: Option<written::Registry>,
    node: &Node,
    base: &Path,
    at: &FieldPath<'_>,
    problems: &mut Problems,
) -> Registry {
    let written = written.unwrap_or_else(|| {
        problems.report_with(at, "field `registry` is missing", "as in `registry: {file: services.yaml}`");
        written::Registry { file: Some("missing".to_owned()), ..written::Registry::default() }
    });
    let source = source(&written, base, at, problems);
    let register = written.register.map(|register| {
        let at = &at.field("register");
        if matches!(source, RegistrySource::File(_)) {
            problems.report(at, "nothing can be registered in a file; this needs `etcd` or `consul`");
        }
        self::register(register, node, at, problems)
    });
    let services_at = &at.field("services");
    check::count(written.services.as_ref().map_or(0, Vec::len), SERVICES_MAX, services_at, problems);
    if written.services.as_ref().is_some_and(Vec::is_empty) {
        problems.report(services_at, "an empty list; leave it out to follow all");
    }
    for (index, name) in written.services.iter().flatten().enumerate() {
        check::dns_label(name, &services_at.item(index), problems);
    }
    let stale = written.stale.unwrap_or_default();
    let guard = written.mass_removal.unwrap_or_default();
    let guard_at = &at.field("mass_removal");
    Registry {
        source,
        services: written.services.map(|names| names.into_iter().collect()),
        stale: Stale {
            after: span(stale.after, Duration::from_secs(300), &at.field("stale").field("after"), problems),
            leave_out: matches!(stale.then, Some(written::Then::LeaveOut)),
        },
        mass_removal: MassRemoval {
            share: range(guard.share, 0.5, 0.0..=1.0, &guard_at.field("share"), problems),
            hold: span(guard.hold, Duration::from_secs(600), &guard_at.field("hold"), problems),
        },
        register,
    }
}

fn source(
    written: &written::Registry,
    base: &Path,
    at: &FieldPath<'_>,
    problems: &mut Problems,
) -> RegistrySource {
    let given = [written.file.is_some(), written.etcd.is_some(), written.consul.is_some()];
    match given.iter().filter(|given| **given).count() {
        // A field of another kind may have been refused: then it has been said.
        0 if ["file", "etcd", "consul"].iter().any(|name| problems.written(&at.field(name))) => {}
        0 => problems.report_with(at, "field `file` is missing", "or one of `etcd` and `consul`"),
        1 => {}
        _ => problems.report(at, "`file`, `etcd` and `consul` exclude each other"),
    }
    if let Some(etcd) = &written.etcd {
        return RegistrySource::Etcd(self::etcd(etcd, base, &at.field("etcd"), problems));
    }
    if let Some(consul) = &written.consul {
        return RegistrySource::Consul(self::consul(consul, base, &at.field("consul"), problems));
    }
    let path = written.file.as_deref().unwrap_or("missing");
    RegistrySource::File(file(Some(path), base, &at.field("file"), problems))
}

pub(crate) fn etcd(
    written: &written::Etcd,
    base: &Path,
    at: &FieldPath<'_>,
    problems: &mut Problems,
) -> Etcd {
    let prefix = written.prefix.clone().unwrap_or_else(|| "/outrigger".to_owned());
    if !prefix.starts_with('/') || prefix.ends_with('/') {
        problems.report(&at.field("prefix"), "begins with a slash and does not end with one");
    }
    let password = written
        .password_file
        .as_ref()
        .and_then(|file| admin::read_token(&base.join(file), &at.field("password_file"), problems));
    let user = match (&written.user, &written.password_file) {
        (None, None) => None,
        (Some(_), None) => {
            problems.report(&at.field("user"), "`user` needs `password_file`");
            None
        }
        (None, Some(_)) => {
            problems.report(&at.field("password_file"), "`password_file` needs `user`");
            None
        }
        (Some(user), Some(_)) => password.map(|password| (user.clone(), password)),
    };
    let (servers, tls) =
        servers::servers(written.endpoints.as_ref(), written.tls.as_ref(), base, at, problems);
    Etcd {
        servers,
        tls,
        prefix,
        user,
        timeout: span(written.timeout, Duration::from_secs(2), &at.field("timeout"), problems),
    }
}

fn consul(written: &written::Consul, base: &Path, at: &FieldPath<'_>, problems: &mut Problems) -> Consul {
    let token: Option<Secret> = written
        .token_file
        .as_ref()
        .and_then(|file| admin::read_token(&base.join(file), &at.field("token_file"), problems));
    if let Some(datacenter) = &written.datacenter {
        check::dns_label(datacenter, &at.field("datacenter"), problems);
    }
    let (servers, tls) =
        servers::servers(written.endpoints.as_ref(), written.tls.as_ref(), base, at, problems);
    Consul {
        servers,
        tls,
        token,
        datacenter: written.datacenter.clone(),
        timeout: span(written.timeout, Duration::from_secs(2), &at.field("timeout"), problems),
    }
}

fn register(
    written: written::Register,
    node: &Node,
    at: &FieldPath<'_>,
    problems: &mut Problems,
) -> Register {
    let nowhere = (Ipv4Addr::LOCALHOST, 1).into();
    let address = match &written.address {
        Some(text) => own_or_written(text, &at.field("address"), problems).unwrap_or(nowhere),
        None => {
            problems.report(&at.field("address"), "field `address` is missing");
            nowhere
        }
    };
    let service = written.service.unwrap_or_else(|| node.service.clone());
    if service.is_empty() {
        problems.report_with(at, "no service is named", "give `service`, or `node.service`");
    } else {
        check::dns_label(&service, &at.field("service"), problems);
    }
    let id = written.id.unwrap_or_else(|| id_of(address));
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    if !(1..=ID_BYTES_MAX).contains(&id.len()) || !id.bytes().all(plain) {
        let message = format!("an id is 1 to {ID_BYTES_MAX} letters, digits, hyphens, dots and underscores");
        problems.report(&at.field("id"), message);
    }
    let mut labels = written.labels.unwrap_or_default();
    check::count(labels.len(), LABELS_MAX, &at.field("labels"), problems);
    if let Some(version) = written.version
        && labels.insert("version".to_owned(), version).is_some()
    {
        problems.report(&at.field("version"), "`labels` has a `version` already");
    }
    let ttl = at_least(written.ttl, Duration::from_secs(10), TTL_MIN, &at.field("ttl"), problems);
    let report_at = &at.field("report_load");
    Register {
        service,
        id,
        address,
        weight: range(written.weight, 1, 1..=WEIGHT_MAX, &at.field("weight"), problems),
        zone: written.zone.unwrap_or_else(|| node.zone.clone()),
        labels,
        ttl,
        report_load: written
            .report_load
            .map(|span| at_least(Some(span), REPORT_MIN, REPORT_MIN, report_at, problems)),
        check: written.check.map(|check| self::check(check, address, &at.field("check"), problems)),
    }
}

/// A port alone is one of this namespace's own address, which whoever put the workload on its network has chosen.
fn own_or_written(text: &str, at: &FieldPath<'_>, problems: &mut Problems) -> Option<SocketAddr> {
    let port = text.strip_prefix(':').filter(|port| !port.contains(':'));
    let Some(port) = port else { return check::reachable(text, at, problems) };
    let Some(port) = port.parse::<u16>().ok().filter(|port| *port != 0) else {
        let form = "a port alone is 1 to 65535, as in `:8080`, at this namespace's own address";
        problems.report_with(at, format!("`{text}` is not a port"), form);
        return None;
    };
    let own = own_address();
    if own.is_none() {
        problems.report_with(
            at,
            "no default route leads out of here, so this namespace has no address to be reached at",
            format!("write the address before `:{port}`, or see to the workload's network first"),
        );
    }
    own.map(|own| (own, port).into())
}

/// The source of packets to the outside, of IPv4 where there is such. Nothing is sent.
fn own_address() -> Option<IpAddr> {
    // Addresses of the ranges for documentation (RFC 5737, RFC 3849): the default route leads there.
    let outside: [SocketAddr; 2] =
        [(Ipv4Addr::new(192, 0, 2, 1), 9).into(), (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1), 9).into()];
    outside.into_iter().find_map(|outside| {
        let any: IpAddr =
            if outside.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let socket = UdpSocket::bind((any, 0)).ok()?;
        socket.connect(outside).ok()?;
        socket.local_addr().ok().map(|own| own.ip()).filter(|own| !own.is_unspecified())
    })
}

/// Stable over restarts: an entry left behind is taken over.
fn id_of(address: SocketAddr) -> String {
    address.to_string().replace(':', "-").replace(['[', ']'], "")
}

fn at_least(
    written: Option<written::Span>,
    default: Duration,
    least: Duration,
    at: &FieldPath<'_>,
    problems: &mut Problems,
) -> Duration {
    let value = span(written, default, at, problems);
    if value < least && !value.is_zero() {
        problems.report(at, format!("shorter than {least:?}"));
    }
    value
}

fn check(
    written: written::Check,
    workload: SocketAddr,
    at: &FieldPath<'_>,
    problems: &mut Problems,
) -> Check {
    use written::CheckKind as Kind;
    let foreign = [
        ("path", written.path.is_some() && !matches!(written.kind, Some(Kind::Http))),
        ("service", written.service.is_some() && !matches!(written.kind, Some(Kind::Grpc))),
        ("command", written.command.is_some() && !matches!(written.kind, Some(Kind::Exec))),
    ];
    for (field, _) in foreign.iter().filter(|(_, foreign)| *foreign) {
        problems.report(&at.field(field), format!("`{field}` does not go with this kind of check"));
    }
    let kind = match written.kind {
        Some(Kind::Tcp) => CheckKind::Tcp,
        Some(Kind::Http) => {
            let path = written.path.unwrap_or_else(|| "/".to_owned());
            if !path.starts_with('/') || path.parse::<http::uri::PathAndQuery>().is_err() {
                problems.report(&at.field("path"), format!("`{path}` is not a path"));
            }
            CheckKind::Http { path }
        }
        Some(Kind::Grpc) => CheckKind::Grpc { service: written.service.unwrap_or_default() },
        Some(Kind::Exec) => {
            let command = written.command.unwrap_or_default();
            if command.is_empty() {
                problems.report(at, "`exec` needs a `command`");
            }
            CheckKind::Exec { command }
        }
        None => {
            problems.report(&at.field("kind"), "field `kind` is missing");
            CheckKind::Tcp
        }
    };
    let address_at = &at.field("address");
    let address = written.address.and_then(|text| check::reachable(&text, address_at, problems));
    Check {
        kind,
        address: address.unwrap_or(workload),
        interval: span(written.interval, Duration::from_secs(2), &at.field("interval"), problems),
        timeout: span(written.timeout, Duration::from_secs(1), &at.field("timeout"), problems),
        failures: range(written.failures, 3, 1..=100, &at.field("failures"), problems),
        successes: range(written.successes, 1, 1..=100, &at.field("successes"), problems),
    }
}

/// Where the last good catalogue is kept; `None` if this account has no place for it.
pub(super) fn state_dir(
    written: Option<&str>,
    base: &Path,
    at: &FieldPath<'_>,
    problems: &mut Problems,
) -> Option<PathBuf> {
    match written {
        Some("none") => None,
        Some("") => {
            problems.report_with(at, "an empty path", "`none` keeps nothing");
            None
        }
        Some(dir) => Some(base.join(dir)),
        None if rustix::process::geteuid().is_root() => Some(PathBuf::from("/var/lib/outrigger")),
        None => super::from_env("XDG_STATE_HOME")
            .or_else(|| super::from_env("HOME").map(|home| home.join(".local/state")))
            .map(|states| states.join("outrigger")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_makes_an_id() {
        assert_eq!(id_of("[fd00::7]:80".parse().unwrap()), "fd00--7-80");
    }
}
