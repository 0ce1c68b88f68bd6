//! A TCP relay that can be cut and mended: the network between the proxy and a registry.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use crate::shared::Shared;

#[derive(Debug)]
pub struct Relay {
    pub address: SocketAddr,
    cut: Arc<AtomicBool>,
    streams: Shared<Vec<TcpStream>>,
}

impl Relay {
    pub fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (cut, streams) = (Arc::new(AtomicBool::new(false)), Shared::<Vec<TcpStream>>::default());
        let (is_cut, open) = (Arc::clone(&cut), streams.clone());
        std::thread::spawn(move || {
            for client in listener.incoming().filter_map(Result::ok) {
                if is_cut.load(SeqCst) {
                    continue;
                }
                let Ok(server) = TcpStream::connect(target) else { continue };
                for (from, to) in [(&client, &server), (&server, &client)] {
                    let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    open.with(|open| open.push(from.try_clone().unwrap()));
                    std::thread::spawn(move || copy(from, to));
                }
            }
        });
        Self { address, cut, streams }
    }

    /// Ends all connections and takes no new ones.
    pub fn cut(&self) {
        self.cut.store(true, SeqCst);
        self.streams
            .with(|streams| streams.drain(..).for_each(|stream| drop(stream.shutdown(Shutdown::Both))));
    }

    pub fn mend(&self) {
        self.cut.store(false, SeqCst);
    }
}

fn copy(mut from: TcpStream, mut to: TcpStream) {
    let mut buffer = [0; 16 * 1024];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}
