//! `outrigger doctor`: what this kernel, these privileges and the other tables on this host allow.
//!
//! What can be tried is tried: in a network namespace of its own, which ends with the thread that made it. The rest is
//! read. Nothing on the host changes.

use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};

use serde::Serialize;

use super::settings::{Settings, checksums_hold};

mod others;
mod subnets;
mod trial;

/// What one look has found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub about: &'static str,
    pub verdict: Verdict,
    pub says: String,
    /// What to change; empty where nothing has to.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub cure: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    Good,
    /// It works, or may work, but not as one would expect.
    Warning,
    /// It does not work.
    Bad,
}

impl Finding {
    fn good(about: &'static str, says: impl Into<String>) -> Self {
        Self { about, verdict: Verdict::Good, says: says.into(), cure: String::new() }
    }

    fn warning(about: &'static str, says: impl Into<String>, cure: impl Into<String>) -> Self {
        Self { about, verdict: Verdict::Warning, says: says.into(), cure: cure.into() }
    }

    fn bad(about: &'static str, says: impl Into<String>, cure: impl Into<String>) -> Self {
        Self { about, verdict: Verdict::Bad, says: says.into(), cure: cure.into() }
    }
}

/// Bits of the capability sets (capabilities(7)).
const CAP_NET_ADMIN: u32 = 12;
const CAP_SYS_ADMIN: u32 = 21;
/// The first with NAT in tables that serve IPv4 and IPv6 at once.
const KERNEL_MIN: (u32, u32) = (5, 2);
/// Ports that a sidecar takes by default.
const PORTS: [(u16, &str); 4] =
    [(15001, "outbound"), (15006, "inbound"), (15020, "the admin interface"), (15053, "DNS")];

/// Looks at everything; with settings, also whether their subnets are free on this host.
pub fn examine(settings: Option<&Settings>) -> Vec<Finding> {
    let mut found = vec![kernel(), privileges()];
    found.extend(trial::run(settings));
    found.extend(forwarding());
    found.push(others::look());
    found.extend(older_tables());
    found.extend(tracking());
    found.extend(ports());
    if let Some(settings) = settings {
        found.extend(subnets::look(settings));
        found.extend(checksums(settings));
    }
    found
}

fn kernel() -> Finding {
    let about = "kernel";
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let mut numbers = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    match (numbers.next(), numbers.next()) {
        (Some(major), Some(minor)) if (major, minor) < KERNEL_MIN => {
            let (major, minor) = KERNEL_MIN;
            Finding::bad(
                about,
                format!("Linux {release} has no NAT in nftables' family `inet`"),
                format!("take a kernel from {major}.{minor} on"),
            )
        }
        _ => Finding::good(about, format!("Linux {release}")),
    }
}

fn privileges() -> Finding {
    let about = "privileges";
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let bits = effective.and_then(|set| u64::from_str_radix(set.trim(), 16).ok()).unwrap_or_default();
    let wanted = [(CAP_NET_ADMIN, "CAP_NET_ADMIN"), (CAP_SYS_ADMIN, "CAP_SYS_ADMIN")];
    let missing: Vec<&str> =
        wanted.iter().filter(|(bit, _)| bits & (1 << bit) == 0).map(|(_, name)| *name).collect();
    if missing.is_empty() {
        return Finding::good(about, "CAP_NET_ADMIN and CAP_SYS_ADMIN are here");
    }
    Finding::bad(
        about,
        format!("missing: {}", missing.join(" and ")),
        "run `outrigger net` as root, or give it these; a sidecar whose network is set up needs neither",
    )
}

/// What the host says about packets that are not its own.
fn forwarding() -> Vec<Finding> {
    let mut found = Vec::new();
    let read = |name: &str| fs::read_to_string(format!("/proc/sys/net/{name}")).ok();
    let is = |name: &str, value: &str| read(name).is_some_and(|text| text.trim() == value);
    found.push(match read("ipv4/ip_forward") {
        Some(text) if text.trim() == "1" => Finding::good("forwarding", "IPv4 is forwarded already"),
        Some(_) => {
            Finding::good("forwarding", "`net.ipv4.ip_forward` is 0; `apply` sets it, `undo` puts it back")
        }
        None => Finding::bad("forwarding", "`net.ipv4.ip_forward` cannot be read", "mount /proc/sys"),
    });
    if is("ipv6/conf/all/disable_ipv6", "1") || read("ipv6/conf/all/disable_ipv6").is_none() {
        found.push(Finding::warning(
            "IPv6",
            "it is off on this host",
            "set `net.ipv6.conf.all.disable_ipv6` to 0, or leave IPv6 subnets out",
        ));
    }
    for (name, tool) in [("bridge-nf-call-iptables", "iptables"), ("bridge-nf-call-ip6tables", "ip6tables")] {
        if is(&format!("bridge/{name}"), "1") {
            found.push(Finding::warning(
                "bridges",
                format!(
                    "`net.bridge.{name}` is 1: the forward rules of {tool} see what goes over one bridge, too"
                ),
                "set it to 0 where nobody needs it, or accept the bridges' traffic there",
            ));
        }
    }
    found
}

/// Checksums of what an overlay packs, where the file has one.
fn checksums(settings: &Settings) -> Option<Finding> {
    let about = "checksums";
    let mut overlays = settings.networks.values().filter_map(|network| network.overlay.as_ref()).peekable();
    overlays.peek()?;
    let to_hardware = overlays.any(|overlay| overlay.checksum_offload);
    Some(match (to_hardware, checksums_hold()) {
        (true, true) => Finding::good(about, "those of packed packets can be left to hardware"),
        (true, false) => Finding::warning(
            about,
            "this kernel spoils those of packed packets that it translates, and the file leaves them to hardware",
            "leave `checksum_offload` out, or take a kernel from 5.7 on",
        ),
        (false, _) => Finding::good(about, "those of packed packets are calculated before, not by hardware"),
    })
}

/// Tables of the older iptables are not seen by nftables, and decide all the same.
fn older_tables() -> Option<Finding> {
    let mut names = Vec::new();
    for (file, tool) in [("ip_tables_names", "iptables-legacy"), ("ip6_tables_names", "ip6tables-legacy")] {
        let text = fs::read_to_string(format!("/proc/net/{file}")).unwrap_or_default();
        names.extend(text.split_whitespace().map(|table| format!("{tool} {table}")));
    }
    (!names.is_empty()).then(|| {
        Finding::warning(
            "older tables",
            format!("these are in force, too, and cannot be read from here: {}", names.join(", ")),
            "look at them with that tool; what they drop stays dropped",
        )
    })
}

fn tracking() -> Option<Finding> {
    let number = |name: &str| -> Option<u64> {
        fs::read_to_string(format!("/proc/sys/net/netfilter/{name}")).ok()?.trim().parse().ok()
    };
    let (count, max) = (number("nf_conntrack_count")?, number("nf_conntrack_max")?);
    Some(if count >= max / 5 * 4 {
        Finding::warning(
            "tracked flows",
            format!("{count} of {max}: new flows are dropped when the table is full"),
            "raise `net.netfilter.nf_conntrack_max`",
        )
    } else {
        Finding::good("tracked flows", format!("{count} of {max}"))
    })
}

/// Whether a sidecar that starts in this namespace finds its ports free.
fn ports() -> Option<Finding> {
    let taken = |port: u16| {
        let addresses: [SocketAddr; 2] =
            [(Ipv4Addr::LOCALHOST, port).into(), (Ipv6Addr::LOCALHOST, port).into()];
        addresses.iter().any(|address| {
            TcpListener::bind(address).is_err_and(|error| error.kind() == std::io::ErrorKind::AddrInUse)
        })
    };
    let taken: Vec<String> = PORTS
        .into_iter()
        .filter(|(port, _)| taken(*port))
        .map(|(port, what)| format!("{port} ({what})"))
        .collect();
    (!taken.is_empty()).then(|| {
        Finding::warning(
            "ports",
            format!("somebody listens here already: {}", taken.join(", ")),
            "that may be a sidecar at work; give another one other ports",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_something_about_everything() {
        let found = examine(None);
        for about in ["kernel", "privileges", "forwarding"] {
            assert!(found.iter().any(|finding| finding.about == about), "{about}: {found:?}");
        }
        for finding in &found {
            assert!(!finding.says.is_empty());
            assert_eq!(finding.verdict == Verdict::Good, finding.cure.is_empty(), "{finding:?}");
        }
    }
}
