//! A TCP relay that can be cut and mended, and that spoils what a server says: the network between the proxy and a
//! registry.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering::SeqCst};

use crate::shared::Shared;

#[derive(Debug)]
pub struct Relay {
    pub address: SocketAddr,
    line: Arc<Line>,
    streams: Shared<Vec<TcpStream>>,
}

/// What is wrong with it.
#[derive(Debug)]
struct Line {
    cut: AtomicBool,
    /// Every brace that the server sends becomes something else.
    garbled: AtomicBool,
    /// Bytes of the server until all connections end, once.
    until_break: AtomicI64,
}

impl Relay {
    pub fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let line = Arc::new(Line {
            cut: AtomicBool::new(false),
            garbled: AtomicBool::new(false),
            until_break: AtomicI64::new(i64::MAX),
        });
        let streams = Shared::<Vec<TcpStream>>::default();
        let (own, open) = (Arc::clone(&line), streams.clone());
        std::thread::spawn(move || {
            for client in listener.incoming().filter_map(Result::ok) {
                if own.cut.load(SeqCst) {
                    continue;
                }
                let Ok(server) = TcpStream::connect(target) else { continue };
                for (from, to, said) in [(&client, &server, None), (&server, &client, Some(&own))] {
                    let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    open.with(|open| open.push(from.try_clone().unwrap()));
                    let (line, open) = (said.cloned(), open.clone());
                    std::thread::spawn(move || copy(from, to, line.as_deref(), &open));
                }
            }
        });
        Self { address, line, streams }
    }

    /// Ends all connections and takes no new ones.
    pub fn cut(&self) {
        self.line.cut.store(true, SeqCst);
        end_all(&self.streams);
    }

    /// All is well again.
    pub fn mend(&self) {
        self.line.garbled.store(false, SeqCst);
        self.line.cut.store(false, SeqCst);
    }

    /// From now on nothing that the server says is JSON.
    pub fn garble(&self) {
        self.line.garbled.store(true, SeqCst);
    }

    /// The server gets so many more bytes through; then all connections end, wherever they are, and new ones are good.
    pub fn break_after(&self, bytes: i64) {
        self.line.until_break.store(bytes, SeqCst);
    }

    /// Whether what `break_after` asked for has happened.
    pub fn has_broken(&self) -> bool {
        self.line.until_break.load(SeqCst) == i64::MAX
    }
}

fn end_all(streams: &Shared<Vec<TcpStream>>) {
    streams.with(|streams| streams.drain(..).for_each(|stream| drop(stream.shutdown(Shutdown::Both))));
}

/// `line` is for what the server says.
fn copy(mut from: TcpStream, mut to: TcpStream, line: Option<&Line>, open: &Shared<Vec<TcpStream>>) {
    let mut buffer = [0; 16 * 1024];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        let mut said = &mut buffer[..count];
        if let Some(line) = line {
            if line.garbled.load(SeqCst) {
                said.iter_mut().filter(|byte| **byte == b'{').for_each(|byte| *byte = b'<');
            }
            let left = line.until_break.load(SeqCst);
            let taken = i64::try_from(said.len()).unwrap();
            if taken >= left {
                said = &mut said[..usize::try_from(left).unwrap()];
                // It does not matter whether this arrives: the connection ends.
                let _ = to.write_all(said);
                line.until_break.store(i64::MAX, SeqCst);
                end_all(open);
                break;
            }
            if left != i64::MAX {
                line.until_break.fetch_sub(taken, SeqCst);
            }
        }
        if to.write_all(said).is_err() {
            break;
        }
    }
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}
