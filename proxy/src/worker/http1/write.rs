//! Heads as they go out: hop-by-hop fields gone, framing ours, forwarding fields added (RFC 9110, 7.6; RFC 7239).

use std::io::Write as _;
use std::net::IpAddr;

use crate::config::ForwardedFields;
use crate::head::{Framing, Kind, RequestHead, ResponseHead, list};
use crate::policy::Forward;

/// How a request differs on its way out from how it came in.
#[derive(Debug)]
pub(crate) struct Forwarding<'a> {
    pub(crate) fields: ForwardedFields,
    pub(crate) source: IpAddr,
    /// A router's wishes, if one was asked and had any.
    pub(crate) forward: Option<&'a Forward>,
    /// Sent to a mirror: the answer is thrown away, so no interim answer and no upgrade is asked for.
    pub(crate) copy: bool,
}

/// Appends the head that goes to the upstream.
pub(crate) fn request_head(out: &mut Vec<u8>, head: &RequestHead, forwarding: &Forwarding<'_>) {
    let forward = forwarding.forward;
    let path = forward.and_then(|f| f.path.as_deref()).unwrap_or_else(|| head.path());
    let authority = forward.and_then(|f| f.authority.as_deref());
    put(out, &[head.method().as_bytes(), b" ", path.as_bytes(), b" HTTP/1.1\r\nhost: "]);
    put(out, &[authority.unwrap_or_else(|| head.authority()).as_bytes(), b"\r\n"]);

    let fields = forwarding.fields;
    let mut seen = Seen::default();
    for (kind, name, value) in head.classified() {
        if head.nominated(name) && !matches!(kind, Kind::Te | Kind::Upgrade) || replaced(forward, name) {
            continue;
        }
        match kind {
            Kind::Plain | Kind::LoadReport | Kind::RetryAfter => line(out, name, value),
            Kind::Te if list(value).any(|t| t.eq_ignore_ascii_case(b"trailers")) => {
                line(out, b"te", b"trailers")
            }
            Kind::Expect if !forwarding.copy => line(out, name, value),
            Kind::Upgrade if head.upgrade() && !forwarding.copy => {
                line(out, name, value);
                seen.upgrade = true;
            }
            // Lists that we extend: all members go out in one line, with ours at its end.
            Kind::Via => seen.via = true,
            Kind::Forwarded if fields.forwarded() => seen.forwarded = true,
            Kind::XForwardedFor if fields.x_forwarded() => seen.x_for = true,
            Kind::Forwarded | Kind::XForwardedFor => line(out, name, value),
            Kind::XForwardedProto => {
                seen.x_proto = true;
                line(out, name, value);
            }
            Kind::XForwardedHost => {
                seen.x_host = true;
                line(out, name, value);
            }
            Kind::Host
            | Kind::ContentLength
            | Kind::TransferEncoding
            | Kind::Connection
            | Kind::HopByHop
            | Kind::Te
            | Kind::Expect
            | Kind::Upgrade => {}
        }
    }
    if let Some(forward) = forward {
        for (name, value) in &forward.set_headers {
            line(out, name.as_bytes(), value.as_bytes());
        }
    }
    add_forwarding_fields(out, head, forwarding, &seen, authority.is_some());
    framing(out, head.framing());
    out.extend_from_slice(if seen.upgrade { b"connection: upgrade\r\n\r\n" } else { b"\r\n" });
}

/// How the connection to the client goes on after this answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Persistence {
    /// HTTP/1.1's default.
    Open,
    /// Said aloud, for HTTP/1.0.
    KeepAlive,
    Close,
    /// 101: the connection changes its protocol.
    Upgrade,
}

/// Appends the head that goes to the client. `framing` is that of the body as it will be sent; `bodiless` says that
/// the lengths given are about a body that is not there (HEAD, 304).
pub(crate) fn response_head(
    out: &mut Vec<u8>,
    head: &ResponseHead,
    buffer: &[u8],
    framing: Framing,
    persistence: Persistence,
    set: &[(String, String)],
) {
    out.extend_from_slice(b"HTTP/1.1 ");
    decimal(out, head.status.into());
    put(out, &[b" ", head.reason(buffer), b"\r\n"]);
    let bodiless = head.framing() == Framing::None;
    for (kind, name, value) in head.classified(buffer) {
        let keep = match kind {
            Kind::Connection | Kind::HopByHop | Kind::LoadReport => false,
            Kind::TransferEncoding => false,
            Kind::ContentLength => {
                head.status >= 200
                    && head.status != 204
                    && (bodiless || matches!(framing, Framing::Length(_)))
            }
            Kind::Upgrade => persistence == Persistence::Upgrade || head.status == 426,
            _ => !head.nominated(name, buffer),
        };
        if keep && !set.iter().any(|(n, _)| n.as_bytes().eq_ignore_ascii_case(name) && !additive(name)) {
            line(out, name, value);
        }
    }
    for (name, value) in set {
        line(out, name.as_bytes(), value.as_bytes());
    }
    if framing == Framing::Chunked {
        out.extend_from_slice(b"transfer-encoding: chunked\r\n");
    }
    out.extend_from_slice(match persistence {
        Persistence::Open => b"\r\n",
        Persistence::KeepAlive => b"connection: keep-alive\r\n\r\n",
        Persistence::Close => b"connection: close\r\n\r\n",
        Persistence::Upgrade => b"connection: upgrade\r\n\r\n",
    });
}

#[derive(Debug, Default)]
struct Seen {
    via: bool,
    forwarded: bool,
    x_for: bool,
    x_proto: bool,
    x_host: bool,
    upgrade: bool,
}

fn add_forwarding_fields(
    out: &mut Vec<u8>,
    head: &RequestHead,
    forwarding: &Forwarding<'_>,
    seen: &Seen,
    rewritten: bool,
) {
    list_so_far(out, b"via: ", seen.via.then_some(Kind::Via), head);
    out.extend_from_slice(b"1.1 outrigger\r\n");
    if forwarding.fields.x_forwarded() {
        list_so_far(out, b"x-forwarded-for: ", seen.x_for.then_some(Kind::XForwardedFor), head);
        member(out, forwarding.source, false);
        out.extend_from_slice(b"\r\n");
        if !seen.x_proto {
            out.extend_from_slice(b"x-forwarded-proto: http\r\n");
        }
        if rewritten && !seen.x_host {
            line(out, b"x-forwarded-host", head.authority().as_bytes());
        }
    }
    if forwarding.fields.forwarded() {
        list_so_far(out, b"forwarded: ", seen.forwarded.then_some(Kind::Forwarded), head);
        member(out, forwarding.source, true);
        put(out, &[b";host=\"", head.authority().as_bytes(), b"\";proto=http\r\n"]);
    }
}

/// Starts a list field with the members that came in, if there are any.
fn list_so_far(out: &mut Vec<u8>, name: &[u8], came_in: Option<Kind>, head: &RequestHead) {
    out.extend_from_slice(name);
    let values = head.classified().filter(|(kind, ..)| Some(*kind) == came_in);
    for (_, _, value) in values {
        put(out, &[value, b", "]);
    }
}

/// One member of `X-Forwarded-For`, or of `Forwarded`, where IPv6 is bracketed and quoted (RFC 7239, 6).
fn member(out: &mut Vec<u8>, source: IpAddr, rfc_7239: bool) {
    match (rfc_7239, source) {
        (_, IpAddr::V4(ip)) => {
            out.extend_from_slice(if rfc_7239 { b"for=" } else { b"" });
            for (index, octet) in ip.octets().into_iter().enumerate() {
                out.extend_from_slice(if index > 0 { b"." } else { b"" });
                decimal(out, octet.into());
            }
        }
        // Writing to a Vec cannot fail.
        (false, IpAddr::V6(ip)) => drop(write!(out, "{ip}")),
        (true, IpAddr::V6(ip)) => drop(write!(out, "for=\"[{ip}]\"")),
    }
}

fn framing(out: &mut Vec<u8>, framing: Framing) {
    match framing {
        Framing::None | Framing::Close => {}
        Framing::Length(n) => {
            out.extend_from_slice(b"content-length: ");
            decimal(out, n);
            out.extend_from_slice(b"\r\n");
        }
        Framing::Chunked => out.extend_from_slice(b"transfer-encoding: chunked\r\n"),
    }
}

/// Whether the router removes the field or sets it anew.
fn replaced(forward: Option<&Forward>, name: &[u8]) -> bool {
    forward.is_some_and(|f| {
        f.remove_headers.iter().any(|r| r.as_bytes().eq_ignore_ascii_case(name))
            || f.set_headers.iter().any(|(n, _)| n.as_bytes().eq_ignore_ascii_case(name))
    })
}

/// Fields of which a second one adds to the first instead of replacing it.
fn additive(name: &[u8]) -> bool {
    name.eq_ignore_ascii_case(b"set-cookie")
}

fn line(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    put(out, &[name, b": ", value, b"\r\n"]);
}

/// What `write!` would append, in a tenth of the time.
fn decimal(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0; 20];
    let mut start = digits.len();
    loop {
        start -= 1;
        digits[start] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[start..]);
}

fn put(out: &mut Vec<u8>, parts: &[&[u8]]) {
    for part in parts {
        out.extend_from_slice(part);
    }
}
