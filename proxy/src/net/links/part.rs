//! Removing a link without waiting until the kernel has put its memory away.
//!
//! RTM_DELLINK takes a link off every list and tells everybody; then it waits for an RCU barrier, 10 to 40 ms, before
//! it returns (Linux, net/core/dev.c, netdev_run_todo). Whoever ends right afterwards need not see that: another process
//! makes the call, and ends by itself. A thread would not do: a process ends with the last of its threads.

use std::ffi::{c_int, c_void};
use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, RawFd};
use std::time::{Duration, Instant};

use rtnetlink::packet_core::{NLM_F_ACK, NLM_F_REQUEST, NetlinkMessage};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::LinkMessage;
use rtnetlink::sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use super::notice::{LINKS, end_of};

/// The kernel takes a link off its lists at once; longer means that we have missed the news.
const NEWS_WITHIN: Duration = Duration::from_secs(2);
const STANDARD_STREAMS: [RawFd; 3] = [0, 1, 2];
/// For a few calls of the kernel, which has a stack of its own.
const STACK_BYTES: usize = 16 * 1024;

/// Aligned as every platform wants it.
#[repr(align(16))]
#[expect(dead_code, reason = "it is the other process that uses it")]
struct Stack([u8; STACK_BYTES]);

/// Returns when the link with this number is gone from this thread's namespace, and with it its peer. Any error says
/// that it may still be there.
pub fn part_with(index: u32) -> io::Result<()> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    socket.add_membership(LINKS)?;
    let timeout = rustix::net::sockopt::Timeout::Recv;
    rustix::net::sockopt::set_socket_timeout(&socket, timeout, Some(NEWS_WITHIN))?;
    send_by_another(&socket, request(index))?;
    let end = Instant::now() + NEWS_WITHIN;
    // On a host with much other news, silence would not tell.
    while Instant::now() < end {
        // The news comes to the socket that the other one sends by, as does a refusal.
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

/// What the other process needs.
struct Errand {
    socket: RawFd,
    request: Vec<u8>,
}

/// Has the request sent by a process that shares this one's memory, as after vfork, but is not waited for. To copy the
/// memory (fork) costs more than all that is done for the link. Its stack and its errand are given up: they are a few
/// pages, of a process that ends soon, and nobody knows when it is done.
#[expect(
    unsafe_code,
    reason = "there is no other way to leave a call of the kernel to somebody who outlives us"
)]
fn send_by_another(socket: &Socket, request: Vec<u8>) -> io::Result<()> {
    let errand = Box::into_raw(Box::new(Errand { socket: socket.as_raw_fd(), request }));
    let stack = Box::into_raw(Box::<Stack>::new_uninit());
    // SAFETY: the stack is its own, grows down from its end, and is never freed, as the errand, which nobody writes to.
    // `run` touches nothing else of what both share (see there). Without CLONE_FILES, its descriptors are its own
    // copies. Without CLONE_THREAD, it outlives us, and the memory with it.
    let started = unsafe {
        let flags = libc::CLONE_VM | libc::SIGCHLD;
        libc::clone(run, stack.add(1).cast(), flags, errand.cast())
    };
    if started != -1 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    // SAFETY: both come from `Box::into_raw`, and nobody else has them.
    drop(unsafe { (Box::from_raw(errand), Box::from_raw(stack)) });
    Err(error)
}

/// In the other process. It has the thread-local storage of the thread that started it, so it must not use the C
/// library, which keeps `errno` there: rustix enters the kernel by itself. It allocates nothing and cannot panic. It
/// keeps none of the standard streams: whoever reads ours sees their end when we end.
#[expect(unsafe_code, reason = "see `send_by_another`")]
extern "C" fn run(errand: *mut c_void) -> c_int {
    // SAFETY: it is what `send_by_another` gave, which lives for ever.
    let errand = unsafe { &*errand.cast::<Errand>() };
    for stream in STANDARD_STREAMS {
        // SAFETY: nothing in this process uses them.
        unsafe { rustix::io::close(stream) };
    }
    // SAFETY: this process has the descriptor for as long as it lives.
    let socket = unsafe { BorrowedFd::borrow_raw(errand.socket) };
    // The answer comes to whoever listens.
    let _ = rustix::net::send(socket, &errand.request, rustix::net::SendFlags::empty());
    0
}
