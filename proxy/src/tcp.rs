//! What both sides of the proxy ask of a TCP socket.

use std::net::IpAddr;

use socket2::SockRef;

/// Loopback loses nothing and has no bottleneck to find: a congestion control that models the path and paces what it
/// sends, such as BBR, costs CPU time there and gains nothing. Reno does the least, and every kernel has it.
///
/// For sockets that are not connected yet: pacing, once on, stays. What a listener accepts inherits it.
pub fn spare_loopback(socket: SockRef<'_>, address: IpAddr) {
    if address.is_loopback() {
        // The system's choice works too.
        let _ = socket.set_tcp_congestion(b"reno");
    }
}
