//! Field names that the forwarding rules care about, told apart once while a head is parsed.

/// What forwarding does with a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Passed on as it is.
    Plain,
    Host,
    ContentLength,
    TransferEncoding,
    Connection,
    Upgrade,
    Te,
    Expect,
    /// `Keep-Alive`, `Proxy-Connection`, `Proxy-Authenticate`, `Proxy-Authorization`: for us alone, never passed on.
    HopByHop,
    Via,
    Forwarded,
    XForwardedFor,
    XForwardedProto,
    XForwardedHost,
    /// ORCA `endpoint-load-metrics`, in responses.
    LoadReport,
    RetryAfter,
}

impl Kind {
    pub fn of(name: &[u8]) -> Self {
        // Length first: most fields are told apart by it alone.
        let (candidate, kind): (&[u8], Self) = match name.len() {
            2 => (b"te", Self::Te),
            3 => (b"via", Self::Via),
            4 => (b"host", Self::Host),
            6 => (b"expect", Self::Expect),
            7 => (b"upgrade", Self::Upgrade),
            9 => (b"forwarded", Self::Forwarded),
            10 if name[0] | 0x20 == b'c' => (b"connection", Self::Connection),
            10 => (b"keep-alive", Self::HopByHop),
            11 => (b"retry-after", Self::RetryAfter),
            14 => (b"content-length", Self::ContentLength),
            15 => (b"x-forwarded-for", Self::XForwardedFor),
            16 if name[0] | 0x20 == b'p' => (b"proxy-connection", Self::HopByHop),
            16 => (b"x-forwarded-host", Self::XForwardedHost),
            17 if name[0] | 0x20 == b't' => (b"transfer-encoding", Self::TransferEncoding),
            17 => (b"x-forwarded-proto", Self::XForwardedProto),
            18 => (b"proxy-authenticate", Self::HopByHop),
            19 => (b"proxy-authorization", Self::HopByHop),
            21 => (b"endpoint-load-metrics", Self::LoadReport),
            _ => return Self::Plain,
        };
        if name.eq_ignore_ascii_case(candidate) { kind } else { Self::Plain }
    }
}

/// Members of a comma-separated field value, without white space (RFC 9110, 5.6.1).
pub fn list(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|b| *b == b',').map(<[u8]>::trim_ascii).filter(|token| !token.is_empty())
}
