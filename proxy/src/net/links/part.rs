//! Removing a link without waiting until the kernel has put its memory away.
//!
//! RTM_DELLINK takes a link off every list and tells everybody; then it waits for an RCU barrier, 10 to 40 ms, before it
//! returns (Linux, net/core/dev.c, netdev_run_todo). Whoever ends right afterwards need not see that: a copy of this
//! process makes the call, and ends by itself.

use std::io;
use std::os::fd::{AsRawFd as _, RawFd};
use std::time::{Duration, Instant};

use rtnetlink::packet_core::{NLM_F_ACK, NLM_F_REQUEST, NetlinkMessage};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::LinkMessage;
use rtnetlink::sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use super::notice::{LINKS, end_of};

/// The kernel takes a link off its lists at once; longer means that we have missed the news.
const NEWS_WITHIN: Duration = Duration::from_secs(2);
const STANDARD_STREAMS: [RawFd; 3] = [0, 1, 2];

/// Returns when the link with this number is gone from this thread's namespace, and with it its peer. Any error says
/// that it may still be there.
pub fn part_with(index: u32) -> io::Result<()> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    socket.add_membership(LINKS)?;
    let timeout = rustix::net::sockopt::Timeout::Recv;
    rustix::net::sockopt::set_socket_timeout(&socket, timeout, Some(NEWS_WITHIN))?;
    send_by_a_copy(&socket, &request(index))?;
    let end = Instant::now() + NEWS_WITHIN;
    // On a host with much other news, silence would not tell.
    while Instant::now() < end {
        // The news comes to the socket that the copy sends by, as does a refusal.
        let (bytes, _) = socket.recv_from_full()?;
        if let Some(end) = end_of(&bytes, index) {
            return end;
        }
    }
    Err(io::ErrorKind::TimedOut.into())
}

fn request(index: u32) -> Vec<u8> {
    let mut link = LinkMessage::default();
    link.header.index = index;
    let mut message = NetlinkMessage::from(RouteNetlinkMessage::DelLink(link));
    message.header.flags = NLM_F_REQUEST | NLM_F_ACK;
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

/// The copy keeps none of the standard streams: whoever reads ours sees their end when we end.
#[expect(
    unsafe_code,
    reason = "there is no other way to leave a call of the kernel to somebody who outlives us"
)]
fn send_by_a_copy(socket: &Socket, request: &[u8]) -> io::Result<()> {
    let socket = socket.as_raw_fd();
    // SAFETY: the copy has this thread only. It allocates nothing, takes no lock and returns to nobody: until it ends
    // it calls close, send and _exit, which POSIX allows after fork whatever other threads were doing (async-signal-safe).
    // `request` and the descriptor are its own copies.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => unsafe {
            for stream in STANDARD_STREAMS {
                libc::close(stream);
            }
            libc::send(socket, request.as_ptr().cast(), request.len(), 0);
            libc::_exit(0)
        },
        _ => Ok(()),
    }
}
