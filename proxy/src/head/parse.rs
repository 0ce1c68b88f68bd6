//! From bytes to a `RequestHead`, strictly (RFC 9112). What two parsers could read differently is refused, because
//! the difference is how requests are smuggled: bare LF, folded lines, two lengths, a length beside a coding.

use std::ops::Range;

use super::field::{self, Kind};
use super::{Field, RequestHead};

/// Bounds of one head.
#[derive(Debug, Clone, Copy)]
pub struct HeadLimits {
    pub bytes_max: usize,
    pub fields_max: usize,
}

/// How a body ends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Framing {
    #[default]
    None,
    /// So many bytes, at least one.
    Length(u64),
    Chunked,
    /// With the connection; responses only.
    Close,
}

#[derive(Debug)]
pub enum Progress {
    /// More bytes are needed.
    Partial,
    /// The head took so many bytes of the buffer.
    Complete(usize),
}

/// Why a head is refused. The client is to blame for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadHead {
    #[error("the request line or a field is malformed")]
    Syntax,
    #[error("a line ends with LF alone, not CR LF")]
    BareLf,
    #[error("the head is larger than the limit")]
    TooLarge,
    #[error("the head has more fields than the limit")]
    TooManyFields,
    #[error("the HTTP version is not 1.0 or 1.1")]
    Version,
    #[error("the request target is malformed")]
    Target,
    #[error("there must be exactly one valid Host field")]
    Host,
    #[error("Content-Length is malformed or stands more than once")]
    ContentLength,
    #[error("Transfer-Encoding is malformed, stands more than once, or stands in HTTP/1.0")]
    TransferEncoding,
    #[error("Content-Length and Transfer-Encoding stand together")]
    TwoLengths,
    #[error("the transfer coding is not supported; send chunked alone")]
    Coding,
    #[error("the expectation is not supported; only 100-continue is")]
    Expectation,
    #[error("CONNECT is not offered here")]
    Connect,
}

/// Fields httparse gets room for; more than `HeadLimits::fields_max` is refused with its own reason.
const FIELDS_ROOM: usize = 256;

impl RequestHead {
    /// Parses the head at the start of `buffer` into `self`, whose allocations are used again.
    pub fn parse(&mut self, buffer: &[u8], limits: HeadLimits) -> Result<Progress, BadHead> {
        let mut room = [std::mem::MaybeUninit::uninit(); FIELDS_ROOM];
        let mut parsed = httparse::Request::new(&mut []);
        let result = httparse::ParserConfig::default().parse_request_with_uninit_headers(
            &mut parsed,
            buffer,
            &mut room,
        );
        let length = match result {
            Ok(httparse::Status::Complete(length)) if length <= limits.bytes_max => length,
            Ok(httparse::Status::Complete(_)) => return Err(BadHead::TooLarge),
            Ok(httparse::Status::Partial) => return partial(buffer, limits),
            Err(httparse::Error::TooManyHeaders) => return Err(BadHead::TooManyFields),
            Err(httparse::Error::Version) => return Err(version_or_syntax(buffer)),
            Err(_) => return Err(BadHead::Syntax),
        };
        if parsed.headers.len() > limits.fields_max {
            return Err(BadHead::TooManyFields);
        }
        no_bare_lf(&buffer[..length])?;
        self.fill(&buffer[..length], &parsed)?;
        Ok(Progress::Complete(length))
    }

    fn fill(&mut self, buffer: &[u8], parsed: &httparse::Request<'_, '_>) -> Result<(), BadHead> {
        let (Some(method), Some(target), Some(minor)) = (parsed.method, parsed.path, parsed.version) else {
            return Err(BadHead::Syntax);
        };
        self.bytes.clear();
        self.bytes.extend_from_slice(buffer);
        self.authority.clear();
        self.fields.clear();
        self.minor = minor;
        self.method = span(buffer, method.as_bytes());
        for header in parsed.headers.iter() {
            self.fields.push(Field {
                name: span(buffer, header.name.as_bytes()),
                value: span(buffer, header.value),
                kind: Kind::of(header.name.as_bytes()),
            });
        }
        self.path = self.take_target(buffer, method, target)?;
        self.take_fields()
    }

    /// Splits the target by its form (RFC 9112, 3.2) and notes the authority of the absolute form.
    fn take_target(&mut self, buffer: &[u8], method: &str, target: &str) -> Result<Range<usize>, BadHead> {
        if method == "CONNECT" {
            return Err(BadHead::Connect);
        }
        if !target.is_ascii() || target.contains('#') {
            return Err(BadHead::Target);
        }
        if target.starts_with('/') || (target == "*" && method == "OPTIONS") {
            return Ok(span(buffer, target.as_bytes()));
        }
        let scheme = target.get(..7).filter(|s| s.eq_ignore_ascii_case("http://")).ok_or(BadHead::Target)?;
        let rest = &target[scheme.len()..];
        let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        if authority.is_empty() || !valid_authority(authority) || path.starts_with('?') {
            return Err(BadHead::Target);
        }
        self.authority.push_str(authority);
        self.authority.make_ascii_lowercase();
        Ok(span(buffer, path.as_bytes()))
    }

    /// One pass over the fields: framing, host, connection options.
    fn take_fields(&mut self) -> Result<(), BadHead> {
        let mut length = None;
        let mut coding = None;
        let mut hosts = 0;
        let mut close = false;
        let mut keep_alive = false;
        let mut upgrade_option = false;
        let mut upgrade_field = false;
        self.nominates = false;
        self.expects_continue = false;
        for f in &self.fields {
            let value = &self.bytes[f.value.clone()];
            match f.kind {
                Kind::ContentLength if length.is_some() => return Err(BadHead::ContentLength),
                Kind::ContentLength => length = Some(content_length(value).ok_or(BadHead::ContentLength)?),
                Kind::TransferEncoding if coding.is_some() || self.minor == 0 => {
                    return Err(BadHead::TransferEncoding);
                }
                Kind::TransferEncoding => coding = Some(transfer_encoding(value)?),
                Kind::Host => {
                    hosts += 1;
                    let host = std::str::from_utf8(value).map_err(|_| BadHead::Host)?;
                    if hosts > 1 || !valid_authority(host) {
                        return Err(BadHead::Host);
                    }
                    if self.authority.is_empty() {
                        self.authority.push_str(host);
                        self.authority.make_ascii_lowercase();
                    }
                }
                Kind::Connection => {
                    for option in field::list(value) {
                        if option.eq_ignore_ascii_case(b"close") {
                            close = true;
                        } else if option.eq_ignore_ascii_case(b"keep-alive") {
                            keep_alive = true;
                        } else if option.eq_ignore_ascii_case(b"upgrade") {
                            upgrade_option = true;
                        } else {
                            self.nominates = true;
                        }
                    }
                }
                Kind::Upgrade => upgrade_field = true,
                Kind::Expect if value.eq_ignore_ascii_case(b"100-continue") => {
                    self.expects_continue = self.minor > 0;
                }
                Kind::Expect => return Err(BadHead::Expectation),
                _ => {}
            }
        }
        if hosts == 0 && self.minor > 0 {
            return Err(BadHead::Host);
        }
        self.framing = match (length, coding) {
            (Some(_), Some(())) => return Err(BadHead::TwoLengths),
            (None, Some(())) => Framing::Chunked,
            (Some(0) | None, None) => Framing::None,
            (Some(n), None) => Framing::Length(n),
        };
        self.keep_alive = if self.minor == 0 { keep_alive && !close } else { !close };
        self.upgrade = upgrade_option && upgrade_field && self.minor > 0;
        Ok(())
    }
}

/// A length is digits only, and one number: `5, 5`, `+5` and an empty value are refused.
pub(super) fn content_length(value: &[u8]) -> Option<u64> {
    if value.is_empty() || value.len() > 18 || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(value).ok()?.parse().ok()
}

/// `chunked` alone is understood. Anything with `chunked` elsewhere is malformed, another coding unsupported.
pub(super) fn transfer_encoding(value: &[u8]) -> Result<(), BadHead> {
    if value.eq_ignore_ascii_case(b"chunked") {
        return Ok(());
    }
    let well_formed = !value.is_empty() && value.iter().all(|b| b.is_ascii_graphic() || *b == b' ');
    let mentions = value.to_ascii_lowercase().windows(7).any(|w| w == b"chunked");
    if well_formed && !mentions { Err(BadHead::Coding) } else { Err(BadHead::TransferEncoding) }
}

/// `host`, `host:port` or `[v6]:port`: no user information, nothing a log or a second parser could stumble over.
pub fn valid_authority(text: &str) -> bool {
    let bytes = text.as_bytes();
    if bytes.is_empty() || bytes.len() > 300 {
        return false;
    }
    let (host, port) = match bytes[0] {
        b'[' => match text.find(']') {
            Some(end) => (&text[1..end], &text[end + 1..]),
            None => return false,
        },
        _ => text.split_at(text.find(':').unwrap_or(text.len())),
    };
    let host_ok = if bytes[0] == b'[' {
        host.parse::<std::net::Ipv6Addr>().is_ok()
    } else {
        !host.is_empty()
            && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~'))
    };
    let port_ok = port.is_empty()
        || port.strip_prefix(':').is_some_and(|p| {
            p.is_empty() || (p.len() <= 5 && p.parse::<u16>().is_ok() && p.as_bytes()[0] != b'+')
        });
    host_ok && port_ok
}

/// A request line with something else than a version at its end has more parts than it should (RFC 9112, 3).
fn version_or_syntax(buffer: &[u8]) -> BadHead {
    let line = buffer.split(|b| *b == b'\r' || *b == b'\n').next().unwrap_or_default();
    let parts: Vec<&[u8]> = line.split(|b| *b == b' ').collect();
    match parts[..] {
        [_, _, [b'H', b'T', b'T', b'P', b'/', major, b'.', minor]]
            if major.is_ascii_digit() && minor.is_ascii_digit() =>
        {
            BadHead::Version
        }
        _ => BadHead::Syntax,
    }
}

/// A head that has not ended yet may already be too large, or show a bare LF.
fn partial(buffer: &[u8], limits: HeadLimits) -> Result<Progress, BadHead> {
    if buffer.len() >= limits.bytes_max {
        return Err(BadHead::TooLarge);
    }
    no_bare_lf(buffer)?;
    Ok(Progress::Partial)
}

/// httparse takes LF alone for a line's end (as RFC 9112, 2.2 allows); we do not.
pub(super) fn no_bare_lf(bytes: &[u8]) -> Result<(), BadHead> {
    for at in memchr::memchr_iter(b'\n', bytes) {
        if at == 0 || bytes[at - 1] != b'\r' {
            return Err(BadHead::BareLf);
        }
    }
    Ok(())
}

/// Where `part`, a slice of `whole`, lies in it.
pub(super) fn span(whole: &[u8], part: &[u8]) -> Range<usize> {
    if part.is_empty() {
        return 0..0;
    }
    let start = part.as_ptr() as usize - whole.as_ptr() as usize;
    start..start + part.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: HeadLimits = HeadLimits { bytes_max: 4096, fields_max: 32 };

    fn parse(text: &str) -> Result<RequestHead, BadHead> {
        let mut head = RequestHead::default();
        match head.parse(text.as_bytes(), LIMITS)? {
            Progress::Complete(n) => {
                assert_eq!(n, text.len());
                Ok(head)
            }
            Progress::Partial => panic!("partial: {text:?}"),
        }
    }

    fn refused(text: &str) -> BadHead {
        parse(text).expect_err(text)
    }

    #[test]
    fn a_plain_request() {
        let h = parse("GET /a?b=c HTTP/1.1\r\nHost: Web:80\r\nX-A: 1\r\nx-a:  2 \r\n\r\n").unwrap();
        assert_eq!((h.method(), h.path(), h.authority()), ("GET", "/a?b=c", "web:80"));
        assert_eq!(h.header_all("X-a").collect::<Vec<_>>(), [b"1", b"2"]);
        assert_eq!(h.framing(), Framing::None);
        assert!(h.keep_alive());
    }

    #[test]
    fn the_absolute_form_overrides_host() {
        let h = parse("GET http://Shop.x:81/p HTTP/1.1\r\nHost: other\r\n\r\n").unwrap();
        assert_eq!((h.path(), h.authority()), ("/p", "shop.x:81"));
        assert_eq!(parse("GET http://shop HTTP/1.1\r\nHost: shop\r\n\r\n").unwrap().path(), "/");
    }

    #[test]
    fn smuggling_shapes_are_refused() {
        let post = |fields: &str| format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
        assert_eq!(
            refused(&post("Content-Length: 3\r\nTransfer-Encoding: chunked\r\n")),
            BadHead::TwoLengths
        );
        assert_eq!(refused(&post("Content-Length: 3\r\nContent-Length: 3\r\n")), BadHead::ContentLength);
        for bad in ["+3", "3, 3", "0x3", "-1", "", "3 3", "9999999999999999999"] {
            assert_eq!(
                refused(&post(&format!("Content-Length: {bad}\r\n"))),
                BadHead::ContentLength,
                "{bad}"
            );
        }
        for bad in ["chunked, chunked", "xchunked", "chunked, gzip", "chunked\t;", "\x0bchunked"] {
            assert!(parse(&post(&format!("Transfer-Encoding: {bad}\r\n"))).is_err(), "{bad}");
        }
        assert_eq!(refused(&post("Transfer-Encoding: gzip\r\n")), BadHead::Coding);
        assert_eq!(refused(&post("Transfer-Encoding : chunked\r\n")), BadHead::Syntax);
        assert_eq!(refused(&post("X: a\r\n folded\r\n")), BadHead::Syntax);
        assert_eq!(refused("POST / HTTP/1.1\nHost: a\r\n\r\n"), BadHead::BareLf);
        assert_eq!(refused("POST / HTTP/1.1\r\nHost: a\r\nX: y\n\r\n"), BadHead::BareLf);
        assert_eq!(refused(&post("X: a\rb\r\n")), BadHead::Syntax);
        assert_eq!(refused(&post("X: a\0b\r\n")), BadHead::Syntax);
        assert_eq!(refused(&post("Host: b\r\n")), BadHead::Host);
        assert_eq!(refused("GET / HTTP/1.1\r\n\r\n"), BadHead::Host);
        assert_eq!(refused("GET / HTTP/1.1\r\nHost: a@b\r\n\r\n"), BadHead::Host);
        assert_eq!(
            refused("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"),
            BadHead::TransferEncoding
        );
        assert_eq!(refused("GET /x#y HTTP/1.1\r\nHost: a\r\n\r\n"), BadHead::Target);
        assert_eq!(refused("GET x HTTP/1.1\r\nHost: a\r\n\r\n"), BadHead::Target);
        assert_eq!(refused("GET / HTTP/2.0\r\nHost: a\r\n\r\n"), BadHead::Version);
        assert_eq!(refused("GET /a b HTTP/1.1\r\nHost: a\r\n\r\n"), BadHead::Syntax);
        assert_eq!(refused("CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n"), BadHead::Connect);
    }

    #[test]
    fn limits_hold_before_the_head_ends() {
        let long = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}", "y".repeat(5000));
        let mut head = RequestHead::default();
        assert_eq!(head.parse(long.as_bytes(), LIMITS).expect_err("large"), BadHead::TooLarge);
        let many = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(40));
        assert_eq!(refused(&many), BadHead::TooManyFields);
    }

    #[test]
    fn connection_options() {
        let h =
            parse("GET / HTTP/1.1\r\nHost: a\r\nConnection: X-Secret, close\r\nX-Secret: 1\r\n\r\n").unwrap();
        assert!(h.nominated(b"x-secret") && !h.keep_alive());
        assert!(parse("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").unwrap().keep_alive());
        assert!(!parse("GET / HTTP/1.0\r\n\r\n").unwrap().keep_alive());
        assert!(
            parse("GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
                .unwrap()
                .upgrade()
        );
    }

    /// Whatever the bytes, parsing ends with a verdict: a cheap stand-in for the fuzz target in `tests/fuzz`.
    #[test]
    fn mutated_heads_never_panic() {
        let seed = b"POST /a HTTP/1.1\r\nHost: a.b:80\r\nContent-Length: 10\r\nConnection: x, close\r\n\r\n";
        let mut x = 0x9e37_79b9_7f4a_7c15_u64;
        let mut head = RequestHead::default();
        for _ in 0..200_000 {
            let mut bytes = seed.to_vec();
            for _ in 0..3 {
                x = x.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
                let at = (x >> 33) as usize % bytes.len();
                bytes[at] = (x >> 20) as u8;
            }
            let _ = head.parse(&bytes, LIMITS);
        }
    }
}
