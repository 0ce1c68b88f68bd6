//! The head of an HTTP/1.1 response, as spans into the buffer it was read into.
//!
//! As strict as the request's: an upstream whose answer two parsers could read differently gets a 502, not a relay.

use std::ops::Range;

use super::Field;
use super::field::{self, Kind};
use super::parse::{BadHead, Framing, HeadLimits, Progress, content_length, no_bare_lf, transfer_encoding};

/// Fields httparse gets room for.
const FIELDS_ROOM: usize = 256;

/// Spans are relative to the start of the buffer given to `parse`, which must be kept unmoved until the last use.
#[derive(Debug, Default)]
pub struct ResponseHead {
    pub status: u16,
    reason: Range<usize>,
    fields: Vec<Field>,
    minor: u8,
    framing: Framing,
    keep_alive: bool,
    nominates: bool,
}

impl ResponseHead {
    /// Parses the head at the start of `buffer`; `to_head` says that the request's method was HEAD.
    pub fn parse(&mut self, buffer: &[u8], limits: HeadLimits, to_head: bool) -> Result<Progress, BadHead> {
        let mut room = [std::mem::MaybeUninit::uninit(); FIELDS_ROOM];
        let mut parsed = httparse::Response::new(&mut []);
        let length = match httparse::ParserConfig::default().parse_response_with_uninit_headers(
            &mut parsed,
            buffer,
            &mut room,
        ) {
            Ok(httparse::Status::Complete(length)) if length <= limits.bytes_max => length,
            Ok(httparse::Status::Complete(_)) => return Err(BadHead::TooLarge),
            Ok(httparse::Status::Partial) if buffer.len() >= limits.bytes_max => {
                return Err(BadHead::TooLarge);
            }
            Ok(httparse::Status::Partial) => return Ok(Progress::Partial),
            Err(httparse::Error::TooManyHeaders) => return Err(BadHead::TooManyFields),
            Err(httparse::Error::Version) => return Err(BadHead::Version),
            Err(_) => return Err(BadHead::Syntax),
        };
        no_bare_lf(&buffer[..length])?;
        let (Some(status), Some(minor)) = (parsed.code, parsed.version) else { return Err(BadHead::Syntax) };
        if !(100..=999).contains(&status) || parsed.headers.len() > limits.fields_max {
            return Err(if status < 100 { BadHead::Syntax } else { BadHead::TooManyFields });
        }
        self.status = status;
        self.minor = minor;
        self.reason = super::parse::span(buffer, parsed.reason.unwrap_or_default().as_bytes());
        self.fields.clear();
        for header in parsed.headers.iter() {
            self.fields.push(Field {
                name: super::parse::span(buffer, header.name.as_bytes()),
                value: super::parse::span(buffer, header.value),
                kind: Kind::of(header.name.as_bytes()),
            });
        }
        self.take_fields(buffer, to_head)?;
        Ok(Progress::Complete(length))
    }

    /// Framing and persistence (RFC 9112, 6.3 and 9.3).
    fn take_fields(&mut self, buffer: &[u8], to_head: bool) -> Result<(), BadHead> {
        let (mut length, mut coding, mut close, mut keep_alive) = (None, None, false, false);
        self.nominates = false;
        for f in &self.fields {
            let value = &buffer[f.value.clone()];
            match f.kind {
                Kind::ContentLength if length.is_some() => return Err(BadHead::ContentLength),
                Kind::ContentLength => length = Some(content_length(value).ok_or(BadHead::ContentLength)?),
                Kind::TransferEncoding if coding.is_some() => return Err(BadHead::TransferEncoding),
                Kind::TransferEncoding => coding = Some(transfer_encoding(value)?),
                Kind::Connection => {
                    for option in field::list(value) {
                        close |= option.eq_ignore_ascii_case(b"close");
                        keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
                        self.nominates |= !option.eq_ignore_ascii_case(b"close")
                            && !option.eq_ignore_ascii_case(b"keep-alive")
                            && !option.eq_ignore_ascii_case(b"upgrade");
                    }
                }
                _ => {}
            }
        }
        if length.is_some() && coding.is_some() {
            return Err(BadHead::TwoLengths);
        }
        let bodiless = to_head || self.status < 200 || self.status == 204 || self.status == 304;
        self.framing = match (length, coding) {
            _ if bodiless => Framing::None,
            (_, Some(())) => Framing::Chunked,
            (Some(0), _) => Framing::None,
            (Some(n), _) => Framing::Length(n),
            (None, None) => Framing::Close,
        };
        self.keep_alive =
            self.framing != Framing::Close && if self.minor == 0 { keep_alive && !close } else { !close };
        Ok(())
    }

    pub fn framing(&self) -> Framing {
        self.framing
    }

    /// Whether the upstream will take another request on this connection.
    pub fn keep_alive(&self) -> bool {
        self.keep_alive
    }

    pub fn reason<'a>(&self, buffer: &'a [u8]) -> &'a [u8] {
        &buffer[self.reason.clone()]
    }

    pub fn classified<'a>(&'a self, buffer: &'a [u8]) -> impl Iterator<Item = (Kind, &'a [u8], &'a [u8])> {
        self.fields.iter().map(|f| (f.kind, &buffer[f.name.clone()], &buffer[f.value.clone()]))
    }

    /// First value of a field of this kind.
    pub fn value<'a>(&self, kind: Kind, buffer: &'a [u8]) -> Option<&'a [u8]> {
        self.fields.iter().find(|f| f.kind == kind).map(|f| &buffer[f.value.clone()])
    }

    /// Whether `Connection` names this field as one for us alone.
    pub fn nominated(&self, name: &[u8], buffer: &[u8]) -> bool {
        self.nominates
            && self
                .fields
                .iter()
                .filter(|f| f.kind == Kind::Connection)
                .flat_map(|f| field::list(&buffer[f.value.clone()]))
                .any(|token| token.eq_ignore_ascii_case(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: HeadLimits = HeadLimits { bytes_max: 4096, fields_max: 32 };

    fn parse(text: &str, to_head: bool) -> Result<ResponseHead, BadHead> {
        let mut head = ResponseHead::default();
        head.parse(text.as_bytes(), LIMITS, to_head).map(|_| head)
    }

    #[test]
    fn framing_follows_rfc_9112() {
        let framing = |text: &str, to_head| parse(text, to_head).unwrap().framing();
        assert_eq!(framing("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", false), Framing::Length(5));
        assert_eq!(framing("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", true), Framing::None);
        assert_eq!(framing("HTTP/1.1 304 X\r\nContent-Length: 5\r\n\r\n", false), Framing::None);
        assert_eq!(framing("HTTP/1.1 200\r\nTransfer-Encoding: Chunked\r\n\r\n", false), Framing::Chunked);
        assert_eq!(framing("HTTP/1.1 200 OK\r\n\r\n", false), Framing::Close);
        assert!(!parse("HTTP/1.1 200 OK\r\n\r\n", false).unwrap().keep_alive());
        assert!(parse("HTTP/1.1 204 OK\r\n\r\n", false).unwrap().keep_alive());
    }

    #[test]
    fn ambiguous_answers_are_refused() {
        for bad in [
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n",
            "HTTP/1.1 200 OK\nContent-Length: 5\r\n\r\n",
            "HTTP/1.1 200 OK\r\nX: a\r\n b\r\n\r\n",
            "SSH-2.0-OpenSSH\r\n\r\n",
        ] {
            assert!(parse(bad, false).is_err(), "{bad}");
        }
    }
}
