//! Large bodies pass unchanged, and a slow reader slows the writer down instead of filling our memory.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use outrigger_tests::backend::{Backend, Next};
use outrigger_tests::client::{Client, framing};
use outrigger_tests::proxy::{Proxy, Scene};
use outrigger_tests::wait;

const LARGE: usize = 64 << 20;
/// What the kernel's socket buffers on two connections can hold at most.
const IN_SOCKETS_MAX: u64 = 40 << 20;
/// A few buffers, and the pages that the allocator keeps.
const GROWTH_MAX_KIB: u64 = 8 << 10;
const PIECE: usize = 64 << 10;

/// A checksum that sees order: FNV-1a.
#[derive(Clone, Copy)]
struct Sum(u64);

impl Sum {
    fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

/// The piece of the body that begins here. No two are alike.
fn piece(at: usize) -> Vec<u8> {
    let mut x = at as u64 | 1;
    let mut bytes = Vec::with_capacity(PIECE);
    while bytes.len() < PIECE {
        x = x.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        bytes.extend_from_slice(&x.to_le_bytes());
    }
    bytes
}

fn pieces() -> impl Iterator<Item = Vec<u8>> {
    (0..LARGE).step_by(PIECE).map(piece)
}

fn whole() -> Sum {
    let mut sum = Sum::new();
    pieces().for_each(|piece| sum.add(&piece));
    sum
}

/// Takes any upload and answers its checksum; sends the large body, chunked or not, or until the end.
fn backend() -> Backend {
    Backend::scripted(|exchange| {
        let target = exchange.head.target().to_owned();
        if target == "/up" {
            let mut sum = Sum::new();
            if exchange.stream_body(|part| sum.add(part)).is_err() {
                return Next::Close;
            }
            return exchange.reply(&sum.0.to_string());
        }
        let framing = match target.as_str() {
            "/length" => format!("content-length: {LARGE}\r\n"),
            "/chunked" => "transfer-encoding: chunked\r\n".to_owned(),
            _ => String::new(),
        };
        exchange.send(format!("HTTP/1.1 200 OK\r\n{framing}\r\n"));
        for piece in pieces() {
            let sent = match target.as_str() {
                "/chunked" => exchange.send(chunk(&piece)),
                _ => exchange.send(&piece),
            };
            if sent == Next::Close {
                return Next::Close;
            }
        }
        match target.as_str() {
            "/length" => Next::Keep,
            "/chunked" => exchange.send("0\r\n\r\n"),
            _ => Next::Close,
        }
    })
}

fn chunk(piece: &[u8]) -> Vec<u8> {
    let mut chunk = format!("{:x}\r\n", piece.len()).into_bytes();
    chunk.extend_from_slice(piece);
    chunk.extend_from_slice(b"\r\n");
    chunk
}

fn assert_small(proxy: &Proxy, before_kib: u64) {
    let now_kib = proxy.resident_kib();
    assert!(now_kib < before_kib + GROWTH_MAX_KIB, "memory grew from {before_kib} to {now_kib} KiB");
}

#[test]
fn large_bodies_go_down_unchanged() {
    let backend = backend();
    let proxy = Scene::web(&[&backend]).start();
    let expected = whole();
    let before_kib = proxy.resident_kib();
    for path in ["/length", "/chunked", "/close"] {
        for version in ["1.1", "1.0"] {
            let mut client = proxy.client();
            client.send(format!("GET {path} HTTP/{version}\r\nhost: web\r\n\r\n"));
            let (head, _) = client.heads().unwrap();
            let (mut sum, mut length) = (Sum::new(), 0);
            let framing = framing(&head, 200, "GET").unwrap();
            let done = client.wire.stream_body(framing, |part| {
                sum.add(part);
                length += part.len();
            });
            assert!(done.is_ok(), "{path} {version}: {done:?}");
            assert_eq!((length, sum.0), (LARGE, expected.0), "{path} to HTTP/{version}");
            assert_small(&proxy, before_kib);
        }
    }
}

#[test]
fn large_bodies_go_up_unchanged() {
    let backend = backend();
    let proxy = Scene::web(&[&backend]).start();
    let expected = whole().0.to_string();
    let before_kib = proxy.resident_kib();
    for chunked in [false, true] {
        let mut client = proxy.client();
        let framing = if chunked {
            "transfer-encoding: chunked".to_owned()
        } else {
            format!("content-length: {LARGE}")
        };
        client.send(format!("POST /up HTTP/1.1\r\nhost: web\r\n{framing}\r\n\r\n"));
        for piece in pieces() {
            client.send(if chunked { chunk(&piece) } else { piece });
        }
        if chunked {
            client.send("0\r\n\r\n");
        }
        let answer = client.answer("POST");
        assert_eq!((answer.status, answer.text()), (200, expected.clone()), "chunked: {chunked}");
        assert_small(&proxy, before_kib);
    }
}

#[test]
fn a_client_that_does_not_read_stops_the_backend() {
    let sent = Arc::new(AtomicU64::new(0));
    let counting = Arc::clone(&sent);
    let backend = Backend::scripted(move |exchange| {
        exchange.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", 8 * LARGE));
        for at in (0..8 * LARGE).step_by(PIECE) {
            if exchange.send(piece(at)) == Next::Close {
                return Next::Close;
            }
            counting.fetch_add(PIECE as u64, SeqCst);
        }
        Next::Keep
    });
    let proxy = Scene::web(&[&backend]).start();
    let before_kib = proxy.resident_kib();
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nhost: web\r\n\r\n");
    client.heads().unwrap();
    let stuck = wait::until_settled("the backend to be held up", || sent.load(SeqCst));
    assert!(stuck < IN_SOCKETS_MAX, "{stuck} bytes were taken off the backend");
    assert_small(&proxy, before_kib);
    // It goes on when the client does.
    let mut read = 0;
    while read < 2 * stuck {
        read += client.wire.some().unwrap().len() as u64;
    }
    assert!(sent.load(SeqCst) > stuck);
    assert_small(&proxy, before_kib);
}

#[test]
fn a_backend_that_does_not_read_stops_the_client() {
    let backend = Backend::scripted(|exchange| {
        // One byte, and then nothing until the test is over.
        exchange.send("HTTP/1.1 100 Continue\r\n\r\n");
        std::thread::park();
        Next::Close
    });
    let proxy = Scene::web(&[&backend]).start();
    let before_kib = proxy.resident_kib();
    let mut client: Client = proxy.client();
    client.wire.stream.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
    client.send(format!("POST / HTTP/1.1\r\nhost: web\r\ncontent-length: {}\r\n\r\n", 8 * LARGE));
    let mut taken = 0;
    while let Ok(count) = client.wire.stream.write(&piece(1)) {
        taken += count as u64;
        assert!(taken < IN_SOCKETS_MAX, "{taken} bytes were taken off the client");
    }
    assert!(taken > 0);
    assert_small(&proxy, before_kib);
}
