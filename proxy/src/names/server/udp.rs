//! Questions over UDP: all that have come are read and answered in one go, and then the poller is asked again.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;

use tokio::net::UdpSocket;

use super::{Asked, Now, QUESTION_BYTES_MAX};
use crate::names::Names;
use crate::names::sight::Dropped;
use crate::names::wire::{Transport, UDP_BYTES};

/// Questions answered before others on this thread get a turn.
const BATCH_MAX: usize = 64;

pub(in crate::names) async fn run(names: Rc<Names>, socket: UdpSocket) {
    let socket = Rc::new(socket);
    let mut bytes = vec![0; QUESTION_BYTES_MAX];
    let mut out = Vec::with_capacity(usize::from(*UDP_BYTES.end()));
    loop {
        if let Err(error) = socket.readable().await {
            tracing::debug!(%error, "names over UDP");
        }
        for _ in 0..BATCH_MAX {
            match socket.try_recv_from(&mut bytes) {
                Ok((length, client)) => names.datagram(&socket, client, &bytes[..length], &mut out),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // Of a reply that could not be delivered, for one.
                Err(error) => tracing::debug!(%error, "names over UDP"),
            }
        }
        tokio::task::yield_now().await;
    }
}

impl Names {
    fn datagram(
        self: &Rc<Self>,
        socket: &Rc<UdpSocket>,
        client: SocketAddr,
        bytes: &[u8],
        out: &mut Vec<u8>,
    ) {
        let asked = Asked::now(Transport::Udp, client);
        match self.now(asked, bytes, out) {
            Now::Reply => self.send(socket, client, out),
            Now::Silence => {}
            Now::Later => {
                let (names, socket) = (Rc::clone(self), Rc::clone(socket));
                let bytes = Box::from(bytes);
                tokio::task::spawn_local(async move {
                    let reply = Rc::clone(&names).later(asked, bytes).await;
                    names.send(&socket, client, &reply);
                });
            }
        }
    }

    /// What the kernel does not take now is lost, as UDP may lose it: whoever asked will ask again.
    fn send(&self, socket: &UdpSocket, client: SocketAddr, reply: &[u8]) {
        if socket.try_send_to(reply, client).is_err() {
            self.sight.dropped(Dropped::Unsent);
        }
    }
}
