//! The chunked coding (RFC 9112, 7.1), checked byte by byte while it passes through.
//!
//! Nothing is re-framed on the usual way: valid chunks go on as they came, and what is not exactly valid stops the
//! message, so that no two parsers can disagree about where it ends.

/// Follows one chunked body from its first size line to the end of its trailers.
#[derive(Debug)]
pub(crate) struct Chunked {
    state: State,
    /// Trailer section so far, all lines.
    trailer_bytes: usize,
    line: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Size {
        value: u64,
        digits: u8,
    },
    /// Behind the size, until CR. Extensions mean nothing to us; their length is bounded.
    Extension {
        value: u64,
        length: u16,
    },
    SizeLf {
        value: u64,
    },
    Data {
        left: u64,
    },
    DataCr,
    DataLf,
    /// A trailer line, or the empty line that ends the body.
    Trailer,
    TrailerLf,
    Done,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadChunk {
    #[error("a chunk size is malformed or too large")]
    Size,
    #[error("a chunk extension is malformed or too long")]
    Extension,
    #[error("a chunk does not end with CR LF")]
    Ending,
    #[error("a trailer field is malformed, forbidden or too long")]
    Trailer,
}

const SIZE_DIGITS_MAX: u8 = 15;
const EXTENSION_BYTES_MAX: u16 = 1024;
const TRAILER_BYTES_MAX: usize = 16 * 1024;

impl Chunked {
    pub(crate) fn new() -> Self {
        Self { state: State::Size { value: 0, digits: 0 }, trailer_bytes: 0, line: Vec::new() }
    }

    pub(crate) fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Takes what belongs to the body from the front of `input`; answers how many bytes that was. `data` gets the
    /// content of the chunks, without framing and trailers.
    pub(crate) fn advance(&mut self, input: &[u8], mut data: impl FnMut(&[u8])) -> Result<usize, BadChunk> {
        let mut at = 0;
        while at < input.len() && self.state != State::Done {
            if let State::Data { left } = self.state {
                let take = left.min((input.len() - at) as u64);
                // `take` fits: it is bounded by a slice's length.
                let end = at + take as usize;
                data(&input[at..end]);
                at = end;
                self.state = if take == left { State::DataCr } else { State::Data { left: left - take } };
            } else {
                self.state = self.step(input[at])?;
                at += 1;
            }
        }
        Ok(at)
    }

    fn step(&mut self, byte: u8) -> Result<State, BadChunk> {
        Ok(match (self.state, byte) {
            (State::Size { value, digits }, b) if b.is_ascii_hexdigit() => {
                if digits == SIZE_DIGITS_MAX {
                    return Err(BadChunk::Size);
                }
                let digit = (b as char).to_digit(16).unwrap_or_default();
                State::Size { value: value << 4 | u64::from(digit), digits: digits + 1 }
            }
            (State::Size { digits: 0, .. }, _) => return Err(BadChunk::Size),
            (State::Size { value, .. } | State::Extension { value, .. }, b'\r') => State::SizeLf { value },
            (State::Size { value, .. }, b';') => State::Extension { value, length: 0 },
            (State::Size { .. }, _) => return Err(BadChunk::Size),
            (State::Extension { value, length }, b) => {
                if length == EXTENSION_BYTES_MAX || (b.is_ascii_control() && b != b'\t') {
                    return Err(BadChunk::Extension);
                }
                State::Extension { value, length: length + 1 }
            }
            (State::SizeLf { value: 0 }, b'\n') => State::Trailer,
            (State::SizeLf { value }, b'\n') => State::Data { left: value },
            (State::SizeLf { .. }, _) => return Err(BadChunk::Size),
            (State::DataCr, b'\r') => State::DataLf,
            (State::DataLf, b'\n') => State::Size { value: 0, digits: 0 },
            (State::DataCr | State::DataLf, _) => return Err(BadChunk::Ending),
            (State::Trailer, b'\r') => State::TrailerLf,
            (State::Trailer, b) => self.trailer_byte(b)?,
            (State::TrailerLf, b'\n') => self.trailer_line()?,
            (State::TrailerLf, _) => return Err(BadChunk::Trailer),
            (State::Data { .. } | State::Done, _) => self.state,
        })
    }

    fn trailer_byte(&mut self, byte: u8) -> Result<State, BadChunk> {
        self.trailer_bytes += 1;
        if self.trailer_bytes > TRAILER_BYTES_MAX || (byte.is_ascii_control() && byte != b'\t') {
            return Err(BadChunk::Trailer);
        }
        self.line.push(byte);
        Ok(State::Trailer)
    }

    /// At the end of a line: an empty one ends the body, another must be a field that may stand in a trailer.
    fn trailer_line(&mut self) -> Result<State, BadChunk> {
        if self.line.is_empty() {
            return Ok(State::Done);
        }
        let colon = memchr::memchr(b':', &self.line).ok_or(BadChunk::Trailer)?;
        let name = &self.line[..colon];
        let token = |b: &u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(b);
        if name.is_empty() || !name.iter().all(token) || forbidden_in_trailer(name) {
            return Err(BadChunk::Trailer);
        }
        self.line.clear();
        Ok(State::Trailer)
    }
}

/// Framing, routing and authentication may not come late (RFC 9110, 6.5.1).
fn forbidden_in_trailer(name: &[u8]) -> bool {
    const FORBIDDEN: [&[u8]; 10] = [
        b"transfer-encoding",
        b"content-length",
        b"host",
        b"connection",
        b"te",
        b"trailer",
        b"upgrade",
        b"authorization",
        b"cookie",
        b"set-cookie",
    ];
    FORBIDDEN.iter().any(|f| name.eq_ignore_ascii_case(f))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(input: &[u8], step: usize) -> Result<(Vec<u8>, usize, bool), BadChunk> {
        let (mut body, mut chunked, mut taken) = (Vec::new(), Chunked::new(), 0);
        for piece in input.chunks(step) {
            let n = chunked.advance(piece, |d| body.extend_from_slice(d))?;
            taken += n;
            if chunked.is_done() {
                break;
            }
        }
        Ok((body, taken, chunked.is_done()))
    }

    #[test]
    fn bodies_decode_in_pieces_of_any_size() {
        let input = b"5\r\nhello\r\n1;x=\"y\"\r\n!\r\n0\r\nX-T: a\r\n\r\nGET /";
        for step in 1..input.len() {
            assert_eq!(decode(input, step).unwrap(), (b"hello!".to_vec(), input.len() - 5, true), "{step}");
        }
    }

    #[test]
    fn what_could_be_read_two_ways_is_refused() {
        for bad in [
            "\r\n",
            "g\r\n",
            " 5\r\nhello\r\n",
            "5 \r\nhello\r\n",
            "0x5\r\n",
            "-1\r\n",
            "5\nhello\r\n",
            "5\r\nhelloX\r\n",
            "5\r\nhello\n",
            "5\r\rhello",
            "1000000000000000\r\n",
            "5;a\nb\r\n",
            "0\r\nContent-Length: 3\r\n\r\n",
            "0\r\nbad name: 1\r\n\r\n",
            "0\r\n: 1\r\n\r\n",
            "0\r\nnocolon\r\n\r\n",
            "0\r\n\n",
            "0\r\nX: y\n\r\n",
        ] {
            assert!(decode(bad.as_bytes(), 3).is_err(), "{bad:?}");
        }
        assert!(decode(format!("0\r\nX: {}\r\n\r\n", "y".repeat(20_000)).as_bytes(), 999).is_err());
        assert!(decode(format!("1;{}\r\n", "y".repeat(2_000)).as_bytes(), 999).is_err());
    }

    #[test]
    fn an_unfinished_body_is_not_done() {
        assert!(!decode(b"5\r\nhel", 2).unwrap().2);
        assert!(!decode(b"0\r\n", 2).unwrap().2);
    }
}
