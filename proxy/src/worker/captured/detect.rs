//! Whether a client speaks HTTP/1.1, by its first bytes.
//!
//! A request line decides, up to its version, since other protocols begin with words as well (`GET key` is Redis, `OPTIONS
//! *` may be RTSP). HTTP/2, TLS and CONNECT are somebody else's: they are relayed.

use tokio::time::{Instant, sleep_until, timeout_at};

use super::Arrival;
use crate::worker::Worker;
use crate::worker::connection::{self, Client};
use crate::worker::http1::Buffer;
use crate::worker::socket::Socket;

/// A method longer than this is none.
const METHOD_BYTES_MAX: usize = 32;
/// A request line that has not ended by then is judged by its beginning.
const LINE_BYTES_MAX: usize = 16 * 1024;
/// What a line is believed by that has only begun.
const METHODS: [&[u8]; 8] = [b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"PATCH", b"TRACE"];

/// What a client has to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Speech {
    Http,
    /// Another protocol, or nothing more at all.
    Other,
    /// Nothing yet.
    Silence,
    /// It has broken off.
    Gone,
}

/// Listens until `end` for what the client says first. It stays in the client's buffer.
pub(super) async fn listen(worker: &Worker, client: &mut Client, end: Instant) -> Speech {
    if client.buffer.is_empty() {
        connection::equip(worker, client);
        if !client.socket.is_watched()
            && matches!(client.buffer.read_now(&client.socket), Some(Ok(1..)))
            && let Some(speech) = judged(client.buffer.filled())
        {
            return speech;
        }
    }
    loop {
        if client.buffer.is_empty() {
            connection::unequip(worker, client);
        }
        match timeout_at(end, client.socket.readable()).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Speech::Gone,
            Err(_) if client.buffer.is_empty() => return Speech::Silence,
            Err(_) => return guessed(client.buffer.filled()),
        }
        connection::equip(worker, client);
        match client.buffer.read_from(&client.socket).await {
            Ok(0) => return Speech::Other,
            Ok(_) => {}
            Err(_) => return Speech::Gone,
        }
        if let Some(speech) = judged(client.buffer.filled()) {
            return speech;
        }
    }
}

/// Who speaks first, now that there is a server that may. What it says is left in `answer`. Waits for as long as a
/// relay would; whoever ends the process need not wait as well.
pub(super) async fn first_to_speak(arrival: &mut Arrival<'_>, server: &Socket, answer: &mut Buffer) -> First {
    let Arrival { worker, client, rules, seat, .. } = arrival;
    let end = Instant::now() + rules.idle;
    loop {
        seat.idle();
        let from_client = tokio::select! {
            biased;
            _ = client.socket.readable() => true,
            _ = server.readable() => false,
            () = sleep_until(end) => return First::Nobody,
        };
        seat.busy();
        if !from_client {
            *answer = Buffer::from_vec(worker.take_buffer());
            return match answer.read_from(server).await {
                Ok(1..) => First::Server,
                Ok(_) => First::ServerLeft,
                Err(_) => First::ServerBroke,
            };
        }
        match listen(worker, client, Instant::now() + rules.detect).await {
            Speech::Silence => {}
            speech => return First::Client(speech),
        }
    }
}

/// Who spoke first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum First {
    Client(Speech),
    Server,
    /// It has ended the connection without a word.
    ServerLeft,
    ServerBroke,
    /// For too long.
    Nobody,
}

/// `None` if more has to come.
fn judged(bytes: &[u8]) -> Option<Speech> {
    match request_line(bytes) {
        Line::Http => Some(Speech::Http),
        Line::Other => Some(Speech::Other),
        Line::Unfinished if bytes.len() >= LINE_BYTES_MAX => Some(guessed(bytes)),
        Line::Unfinished => None,
    }
}

/// Of a line that does not go on.
fn guessed(bytes: &[u8]) -> Speech {
    let begins = |method: &[u8]| {
        let rest = bytes.strip_prefix(method).and_then(|rest| rest.strip_prefix(b" "));
        rest.is_some_and(|target| matches!(target.first(), Some(b'/' | b'h' | b'H')))
    };
    if METHODS.into_iter().any(begins) { Speech::Http } else { Speech::Other }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Line {
    Http,
    Other,
    Unfinished,
}

/// `METHOD target HTTP/1.x`, perhaps after an empty line (RFC 9112, 2.2 and 3).
fn request_line(bytes: &[u8]) -> Line {
    let line = bytes.strip_prefix(b"\r\n").unwrap_or(bytes);
    if line == b"\r" {
        return Line::Unfinished;
    }
    let method = line.iter().take_while(|byte| is_token(**byte)).count();
    let Some(after_method) = line.get(method) else {
        return if method <= METHOD_BYTES_MAX { Line::Unfinished } else { Line::Other };
    };
    if *after_method != b' ' || !(1..=METHOD_BYTES_MAX).contains(&method) || &line[..method] == b"CONNECT" {
        return Line::Other;
    }
    let line = &line[method + 1..];
    let target = line.iter().take_while(|byte| **byte > b' ' && **byte != 0x7f).count();
    let Some(after_target) = line.get(target) else { return Line::Unfinished };
    if *after_target != b' ' || target == 0 {
        return Line::Other;
    }
    let (version, wanted) = (&line[target + 1..], b"HTTP/1.");
    match version.get(..wanted.len()) {
        Some(version) if version == wanted => Line::Http,
        None if wanted.starts_with(version) => Line::Unfinished,
        _ => Line::Other,
    }
}

/// RFC 9110, 5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_line_is_told_from_other_protocols() {
        for http in [
            "GET / HTTP/1.1\r\n",
            "GET / HTTP/1.0",
            "\r\nPOST /a?b HTTP/1.1\r\nhost: x",
            "M-SEARCH * HTTP/1.1\r\n",
            "GET http://web/ HTTP/1.1\r\n",
            "get / HTTP/1.1\n",
        ] {
            assert_eq!(request_line(http.as_bytes()), Line::Http, "{http:?}");
            for cut in 0..http.len() - "1\r\nhost: x".len().min(http.len()) {
                assert_ne!(request_line(&http.as_bytes()[..cut]), Line::Other, "{:?}", &http[..cut]);
            }
        }
        for other in [
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            "CONNECT web:443 HTTP/1.1\r\n",
            "GET key\r\n",
            "get key\r\n",
            "PING\r\n",
            "*1\r\n$4\r\nPING\r\n",
            "NICK outrigger\r\nUSER a b c d\r\n",
            "OPTIONS rtsp://x/ RTSP/1.0\r\n",
            "INVITE sip:a@b SIP/2.0\r\n",
            "\u{16}\u{3}\u{1}\u{2}\0\u{1}\0\u{1}\u{fc}\u{3}\u{3}",
            "\0\0\0\u{8}\u{4}\u{d2}\u{16}/",
            "SSH-2.0-OpenSSH_9.2\r\n",
            "GET  / HTTP/1.1\r\n",
            " GET / HTTP/1.1\r\n",
            "GET / HTTX",
            "\n",
        ] {
            assert_eq!(request_line(other.as_bytes()), Line::Other, "{other:?}");
        }
        assert_eq!(request_line(&[b'A'; 33]), Line::Other, "no method is as long");
    }

    #[test]
    fn what_does_not_go_on_is_judged_by_its_beginning() {
        for (begun, speech) in [
            ("GET /lon", Speech::Http),
            ("POST http://web/", Speech::Http),
            ("GET", Speech::Other),
            ("GET key", Speech::Other),
            ("SET /a", Speech::Other),
        ] {
            assert_eq!(guessed(begun.as_bytes()), speech, "{begun}");
        }
        let long = [b"GET /".as_slice(), &[b'a'; LINE_BYTES_MAX]].concat();
        assert_eq!(judged(&long), Some(Speech::Http));
        assert_eq!(judged(&long[..100]), None);
    }
}
