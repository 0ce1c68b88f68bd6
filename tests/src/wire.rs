//! HTTP/1.1 messages read strictly from a socket: what is not exactly right is an error, so that a test sees it.

use std::fmt;
use std::io::{Read, Write};
use std::net::TcpStream;

/// How a message failed to come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// The connection ended before the first byte.
    Closed,
    /// The connection ended within the message.
    Cut,
    Timeout,
    /// Not a valid message.
    Malformed(String),
    Io(String),
}

/// The lines before a body.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Head {
    /// Request line or status line.
    pub first: String,
    pub fields: Vec<(String, String)>,
    /// As it came, with the empty line.
    pub raw: String,
}

/// A body with what came after it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Body {
    pub bytes: Vec<u8>,
    pub trailers: Vec<(String, String)>,
    /// Sizes of the chunks, if it was chunked.
    pub chunks: Vec<usize>,
}

/// Trailers, and the sizes of the chunks.
pub type Tail = (Vec<(String, String)>, Vec<usize>);

/// How a body's end is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    None,
    Length(u64),
    Chunked,
    Close,
}

/// One end of a connection, with what has been read and not yet taken.
#[derive(Debug)]
pub struct Wire {
    pub stream: TcpStream,
    buffer: Vec<u8>,
    taken: usize,
}

impl Wire {
    pub fn new(stream: TcpStream) -> Self {
        Self { stream, buffer: Vec::new(), taken: 0 }
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> Result<(), Trouble> {
        self.stream.write_all(bytes.as_ref()).map_err(Trouble::of)
    }

    /// Reads lines up to the empty one.
    pub fn head(&mut self) -> Result<Head, Trouble> {
        let mut head = Head::default();
        loop {
            let line = match self.line() {
                Err(Trouble::Closed) if !head.raw.is_empty() => return Err(Trouble::Cut),
                other => other?,
            };
            head.raw.push_str(&line);
            head.raw.push_str("\r\n");
            if line.is_empty() {
                return Ok(head);
            }
            if head.first.is_empty() {
                head.first = line;
            } else {
                head.fields.push(field(&line)?);
            }
        }
    }

    pub fn body(&mut self, framing: Framing) -> Result<Body, Trouble> {
        let mut bytes = Vec::new();
        let (trailers, chunks) = self.stream_body(framing, |part| bytes.extend_from_slice(part))?;
        Ok(Body { bytes, trailers, chunks })
    }

    /// Hands the content to `sink` piece by piece; answers trailers and sizes of chunks.
    pub fn stream_body(&mut self, framing: Framing, mut sink: impl FnMut(&[u8])) -> Result<Tail, Trouble> {
        match framing {
            Framing::None => {}
            Framing::Length(length) => self.exactly(length, &mut sink)?,
            Framing::Chunked => return self.chunks(&mut sink),
            Framing::Close => {
                while self.fill()? > 0 {
                    sink(&self.buffer[self.taken..]);
                    self.taken = self.buffer.len();
                }
            }
        }
        Ok((Vec::new(), Vec::new()))
    }

    fn chunks(&mut self, sink: &mut impl FnMut(&[u8])) -> Result<Tail, Trouble> {
        let mut sizes = Vec::new();
        loop {
            let line = self.inner_line()?;
            let digits = line.split(';').next().unwrap_or_default();
            let size = u64::from_str_radix(digits, 16).map_err(|_| malformed("chunk size", &line))?;
            if size == 0 {
                break;
            }
            sizes.push(usize::try_from(size).unwrap_or(usize::MAX));
            self.exactly(size, sink)?;
            let end = self.inner_line()?;
            if !end.is_empty() {
                return Err(malformed("end of chunk", &end));
            }
        }
        let mut trailers = Vec::new();
        loop {
            let line = self.inner_line()?;
            if line.is_empty() {
                return Ok((trailers, sizes));
            }
            trailers.push(field(&line)?);
        }
    }

    /// A line within a message, where an end of the connection is a cut.
    fn inner_line(&mut self) -> Result<String, Trouble> {
        self.line().map_err(|trouble| if trouble == Trouble::Closed { Trouble::Cut } else { trouble })
    }

    /// A line without its CR LF; nothing else ends one.
    fn line(&mut self) -> Result<String, Trouble> {
        loop {
            let rest = &self.buffer[self.taken..];
            if let Some(end) = rest.iter().position(|b| *b == b'\n') {
                let text = String::from_utf8_lossy(&rest[..end]).into_owned();
                self.taken += end + 1;
                return match text.strip_suffix('\r') {
                    Some(line) if !line.contains('\r') => Ok(line.to_owned()),
                    _ => Err(malformed("line", &text)),
                };
            }
            let begun = !rest.is_empty();
            if self.fill()? == 0 {
                return Err(if begun { Trouble::Cut } else { Trouble::Closed });
            }
        }
    }

    fn exactly(&mut self, length: u64, sink: &mut impl FnMut(&[u8])) -> Result<(), Trouble> {
        let mut left = length;
        while left > 0 {
            if self.taken == self.buffer.len() && self.fill()? == 0 {
                return Err(Trouble::Cut);
            }
            let rest = &self.buffer[self.taken..];
            let take = rest.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            sink(&rest[..take]);
            self.taken += take;
            left -= take as u64;
        }
        Ok(())
    }

    /// Raw bytes, whatever they mean: what is here, or the next that come. Empty at the end.
    pub fn some(&mut self) -> Result<Vec<u8>, Trouble> {
        if self.taken == self.buffer.len() {
            self.fill()?;
        }
        let bytes = self.buffer.split_off(self.taken);
        self.taken = 0;
        self.buffer.clear();
        Ok(bytes)
    }

    /// Everything up to the end of the connection.
    pub fn rest(&mut self) -> Result<Vec<u8>, Trouble> {
        let mut all = Vec::new();
        loop {
            let more = self.some()?;
            if more.is_empty() {
                return Ok(all);
            }
            all.extend_from_slice(&more);
        }
    }

    fn fill(&mut self) -> Result<usize, Trouble> {
        if self.taken == self.buffer.len() {
            self.buffer.clear();
            self.taken = 0;
        }
        let mut piece = [0; 16 * 1024];
        let count = self.stream.read(&mut piece).map_err(Trouble::of)?;
        self.buffer.extend_from_slice(&piece[..count]);
        Ok(count)
    }
}

impl Head {
    /// First value of a field.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.all(name).next()
    }

    pub fn all<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a str> {
        let fields = self.fields.iter().filter(move |(n, _)| n.eq_ignore_ascii_case(name));
        fields.map(|(_, value)| value.as_str())
    }

    /// As the fields say; `other` if they say nothing. Two answers to the question are an error.
    pub fn framing(&self, other: Framing) -> Result<Framing, Trouble> {
        let lengths: Vec<&str> = self.all("content-length").collect();
        let codings: Vec<&str> = self.all("transfer-encoding").collect();
        match (&lengths[..], &codings[..]) {
            ([], []) => Ok(other),
            ([length], []) => {
                length.parse().map(Framing::Length).map_err(|_| malformed("content-length", length))
            }
            ([], [coding]) if coding.eq_ignore_ascii_case("chunked") => Ok(Framing::Chunked),
            _ => Err(malformed("framing", &self.raw)),
        }
    }

    pub fn status(&self) -> Result<u16, Trouble> {
        let number = self.first.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3));
        number.and_then(|n| n.parse().ok()).ok_or_else(|| malformed("status line", &self.first))
    }

    /// A request's method.
    pub fn method(&self) -> &str {
        self.first.split(' ').next().unwrap_or_default()
    }

    /// A request's target.
    pub fn target(&self) -> &str {
        self.first.split(' ').nth(1).unwrap_or_default()
    }
}

impl Body {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }
}

impl Trouble {
    fn of(error: std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut => Self::Timeout,
            std::io::ErrorKind::ConnectionReset | std::io::ErrorKind::BrokenPipe => Self::Cut,
            _ => Self::Io(error.to_string()),
        }
    }

    /// For counting by kind.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Cut => "cut",
            Self::Timeout => "timeout",
            Self::Malformed(_) => "malformed",
            Self::Io(_) => "io",
        }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed(text) | Self::Io(text) => write!(f, "{}: {text}", self.kind()),
            _ => f.write_str(self.kind()),
        }
    }
}

fn field(line: &str) -> Result<(String, String), Trouble> {
    let (name, value) = line.split_once(':').ok_or_else(|| malformed("field", line))?;
    if name.is_empty() || name.contains(|c: char| c.is_whitespace()) {
        return Err(malformed("field name", line));
    }
    Ok((name.to_ascii_lowercase(), value.trim().to_owned()))
}

fn malformed(what: &str, text: &str) -> Trouble {
    Trouble::Malformed(format!("{what}: {text:?}"))
}
