//! Checks that several parts of a file share. Each reports what is wrong and returns something usable.

use std::fmt::Display;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::super::diagnostic::{FieldPath, Problems};
use super::super::written::{Size, Span};

/// No timeout or window is longer: beyond it, a typing error is likelier than the wish.
const SPAN_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// Octets of a DNS label and of a name (RFC 1035, 2.3.4).
const LABEL_BYTES_MAX: usize = 63;
const NAME_BYTES_MAX: usize = 253;

/// A number within bounds, if one is given.
pub(crate) fn range<T: PartialOrd + Display + Copy>(
    value: Option<T>,
    default: T,
    allowed: RangeInclusive<T>,
    at: &FieldPath<'_>,
    problems: &mut Problems,
) -> T {
    let Some(value) = value else { return default };
    if !allowed.contains(&value) {
        let (low, high) = (allowed.start(), allowed.end());
        problems.report(at, format!("{value} is out of range: {low} to {high}"));
    }
    value
}

/// A size within bounds, in bytes.
pub(crate) fn size(
    value: Option<Size>,
    default: usize,
    allowed: RangeInclusive<usize>,
    at: &FieldPath<'_>,
    problems: &mut Problems,
) -> usize {
    range(value.map(|size| size.0), default, allowed, at, problems)
}

/// A duration above zero, and not beyond a day.
pub(crate) fn span(
    value: Option<Span>,
    default: Duration,
    at: &FieldPath<'_>,
    problems: &mut Problems,
) -> Duration {
    let Some(Span(value)) = value else { return default };
    if value.is_zero() {
        problems.report(at, "must be longer than zero");
    } else if value > SPAN_MAX {
        problems.report(at, "longer than a day (24h)");
    }
    value
}

/// At most so many entries.
pub(crate) fn count(entries: usize, max: usize, at: &FieldPath<'_>, problems: &mut Problems) {
    if entries > max {
        problems.report(at, format!("{entries} entries; at most {max} are possible"));
    }
}

/// First and last of `80` or `8000-8099`.
pub(crate) fn ports(text: &str, at: &FieldPath<'_>, problems: &mut Problems) -> Option<(u16, u16)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let range = first.parse().ok().zip(last.parse().ok()).filter(|(first, last)| first <= last);
    if range.is_none() {
        problems.report(at, format!("`{text}` is not a port or a range, as in `8000-8099`"));
    }
    range
}

/// IP address and port.
pub(crate) fn address(text: &str, at: &FieldPath<'_>, problems: &mut Problems) -> Option<SocketAddr> {
    let address = text.parse().ok();
    if address.is_none() {
        let (message, hint) = why_no_address(text);
        problems.report_with(at, message, hint);
    }
    address
}

/// An address where somebody can be reached.
pub(crate) fn reachable(text: &str, at: &FieldPath<'_>, problems: &mut Problems) -> Option<SocketAddr> {
    let address = address(text, at, problems)?;
    if !is_reachable(address) {
        problems.report(at, format!("nothing can be reached at {address}"));
    }
    Some(address)
}

pub(crate) fn is_reachable(address: SocketAddr) -> bool {
    address.port() != 0 && !address.ip().is_unspecified() && !address.ip().is_multicast()
}

fn why_no_address(text: &str) -> (String, &'static str) {
    let form = "an address is IP:port, as in `10.0.0.7:8080` or `[fd00::7]:8080`";
    if text.parse::<std::net::IpAddr>().is_ok() {
        return (format!("`{text}` has no port"), form);
    }
    match text.rsplit_once(':') {
        Some((host, port)) if !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) => {
            if port.parse::<u16>().is_err() {
                (format!("port {port} is out of range: 0 to 65535"), form)
            } else if is_dns_name(&host.to_ascii_lowercase()) && host.bytes().any(|b| b.is_ascii_alphabetic())
            {
                let message = format!("`{host}` is a host name, and names are not looked up");
                (message, "write the IP address")
            } else {
                (format!("`{text}` is not an address"), form)
            }
        }
        _ => (format!("`{text}` is not an address"), form),
    }
}

/// A name of a service or policy, given as a value.
pub(crate) fn dns_label(name: &str, at: &FieldPath<'_>, problems: &mut Problems) {
    if !is_dns_label(name) {
        problems.report(at, not_a_label(name));
    }
}

/// A name of a service or policy, given as a key.
pub(crate) fn dns_label_key(name: &str, at: &FieldPath<'_>, problems: &mut Problems) {
    if !is_dns_label(name) {
        problems.report_key(at, not_a_label(name));
    }
}

fn not_a_label(name: &str) -> String {
    format!(
        "`{name}` cannot be a name: 1 to {LABEL_BYTES_MAX} lower-case letters, digits and hyphens, \
         no hyphen at either end"
    )
}

pub(crate) fn is_dns_label(name: &str) -> bool {
    (1..=LABEL_BYTES_MAX).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !name.starts_with('-')
        && !name.ends_with('-')
}

/// Lower-case labels with dots between them.
pub(super) fn is_dns_name(name: &str) -> bool {
    name.len() <= NAME_BYTES_MAX && name.split('.').all(is_dns_label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_names() {
        for name in ["a", "web", "web-1", "1", &"a".repeat(63)] {
            assert!(is_dns_label(name), "{name}");
        }
        for name in ["", "-a", "a-", "A", "a_b", "a.b", "ä", &"a".repeat(64)] {
            assert!(!is_dns_label(name), "{name}");
        }
        assert!(is_dns_name("shop.internal"));
        for name in ["", ".", "a.", ".a", "a..b", &["abcdefg"; 32].join(".")] {
            assert!(!is_dns_name(name), "{name}");
        }
    }

    #[test]
    fn says_what_an_address_lacks() {
        assert!(why_no_address("10.0.0.7").0.contains("has no port"));
        assert!(why_no_address("10.0.0.7:70000").0.contains("port 70000 is out of range"));
        assert!(why_no_address("db.internal:5432").0.contains("`db.internal` is a host name"));
        assert!(why_no_address("localhost:80").0.contains("`localhost` is a host name"));
        assert!(why_no_address(":80").0.contains("not an address"));
        assert!(why_no_address("").0.contains("not an address"));
        assert!(why_no_address("10.0.0:80").0.contains("not an address"));
    }
}
