//! A client that sends exactly what it is told to and reads answers strictly.

use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use crate::wire::{Body, Framing, Head, Trouble, Wire};

/// One connection.
#[derive(Debug)]
pub struct Client {
    pub wire: Wire,
}

/// A whole answer.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub head: Head,
    pub body: Body,
    /// 1xx answers that came before it.
    pub interim: Vec<Head>,
}

const READ_TIME_MAX: Duration = Duration::from_secs(30);

impl Client {
    pub fn connect(address: SocketAddr) -> Self {
        Self::try_connect(address).unwrap_or_else(|error| panic!("{address}: {error}"))
    }

    pub fn try_connect(address: SocketAddr) -> std::io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(READ_TIME_MAX))?;
        stream.set_write_timeout(Some(READ_TIME_MAX))?;
        stream.set_nodelay(true)?;
        Ok(Self { wire: Wire::new(stream) })
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.wire.send(bytes).unwrap();
    }

    /// Sends what may be refused before it has been taken whole.
    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) {
        // The answer says what became of it.
        let _ = self.wire.send(bytes);
    }

    /// A GET with `extra` field lines, each ending with CR LF.
    pub fn get(&mut self, host: &str, path: &str, extra: &str) -> Answer {
        self.send(format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n{extra}\r\n"));
        self.answer("GET")
    }

    pub fn answer(&mut self, method: &str) -> Answer {
        self.try_answer(method).unwrap_or_else(|trouble| panic!("no answer: {trouble}"))
    }

    /// The next final answer to a request with this method.
    pub fn try_answer(&mut self, method: &str) -> Result<Answer, Trouble> {
        let (head, interim) = self.heads()?;
        let status = head.status()?;
        let body = self.wire.body(framing(&head, status, method)?)?;
        Ok(Answer { status, head, body, interim })
    }

    /// The head of the next final answer, and the interim ones before it.
    pub fn heads(&mut self) -> Result<(Head, Vec<Head>), Trouble> {
        let mut interim = Vec::new();
        loop {
            let head = self.wire.head()?;
            match head.status()? {
                101 => return Ok((head, interim)),
                100..=199 => interim.push(head),
                _ => return Ok((head, interim)),
            }
        }
    }

    /// Waits for the other side to end the connection; anything else it says is an error.
    pub fn expect_end(&mut self) {
        match self.wire.some() {
            Ok(bytes) if bytes.is_empty() => {}
            Err(Trouble::Cut) => {}
            other => panic!("the connection goes on: {other:?}"),
        }
    }

    /// Says that nothing more will be sent.
    pub fn finish(&mut self) {
        // It may have been closed by the other side.
        let _ = self.wire.stream.shutdown(Shutdown::Write);
    }
}

impl Answer {
    pub fn field(&self, name: &str) -> Option<&str> {
        self.head.field(name)
    }

    /// The backend that answered; empty if none did.
    pub fn backend(&self) -> &str {
        self.field("x-backend").unwrap_or_default()
    }

    /// Why the proxy answered itself; empty if it did not.
    pub fn reason(&self) -> &str {
        self.field("x-outrigger-reason").unwrap_or_default()
    }

    pub fn text(&self) -> String {
        self.body.text()
    }

    pub fn json(&self) -> serde_json::Value {
        let text = self.text();
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }
}

/// RFC 9112, 6.3.
pub fn framing(head: &Head, status: u16, method: &str) -> Result<Framing, Trouble> {
    let said = head.framing(Framing::Close)?;
    let bodiless = method == "HEAD" || status < 200 || status == 204 || status == 304;
    Ok(if bodiless { Framing::None } else { said })
}
