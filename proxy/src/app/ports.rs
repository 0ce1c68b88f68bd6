//! All that is listened on, bound before anything else is done.

use std::io;
use std::net::{SocketAddr, TcpListener};

use socket2::{Domain, Protocol, Socket, Type};

use super::AppError;
use crate::config::{Capture, Config, Mode};
use crate::control::admin::Listener;
use crate::worker::Door;
use crate::{names, tcp};

/// Connections that wait to be accepted, per listener; the kernel caps it by `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// All that is listened on.
pub(super) struct Ports {
    /// By worker, each with all addresses.
    pub(super) workers: Vec<Vec<(Door, TcpListener)>>,
    pub(super) admin: Listener,
    pub(super) names: Option<names::Sockets>,
}

impl Ports {
    /// First of all: a second instance must fail before it registers, compiles or captures anything.
    pub(super) async fn bind(config: &Config) -> Result<Self, AppError> {
        let mut workers: Vec<Vec<(Door, TcpListener)>> = (0..config.workers).map(|_| Vec::new()).collect();
        bind_all(&mut workers, Door::Open, &config.outbound, Kind::default())?;
        if let Some(Capture { mode, outbound, inbound, .. }) = &config.capture {
            for (door, listen) in [(Door::Outbound, outbound), (Door::Inbound, inbound)] {
                let kind = Kind { spare: listen.is_default, transparent: *mode == Mode::Tproxy };
                bind_all(&mut workers, door, &listen.addresses, kind)?;
            }
        }
        let admin = Listener::bind(&config.admin.listen)
            .await
            .map_err(|error| AppError::Listen { address: config.admin.listen.to_string(), error })?;
        let names = config.dns.as_ref().map(names::Sockets::bind).transpose();
        let names = names.map_err(|(address, error)| AppError::Listen {
            address: format!("{address} for names"),
            error,
        })?;
        Ok(Self { workers, admin, names })
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct Kind {
    /// IPv6 is left out on a host without it.
    spare: bool,
    /// Takes connections to any address that are led to it.
    transparent: bool,
}

/// A listener for each worker at each address.
fn bind_all(
    workers: &mut [Vec<(Door, TcpListener)>],
    door: Door,
    addresses: &[SocketAddr],
    kind: Kind,
) -> Result<(), AppError> {
    let shared = workers.len() > 1;
    for address in addresses {
        let failed = |error| AppError::Listen { address: address.to_string(), error };
        // Without the option first: with it, a second process would silently take half of the traffic.
        match bind(*address, false, kind.transparent) {
            Ok(probe) => drop(probe),
            Err(error) if kind.spare && address.is_ipv6() && is_absent(&error) => {
                tracing::info!(%address, %error, "captured connections are not taken at this address");
                continue;
            }
            Err(error) => return Err(failed(error)),
        }
        let mut address = *address;
        for listeners in &mut *workers {
            let listener = bind(address, shared, kind.transparent).map_err(failed)?;
            // Port 0 means any port, but the same for all workers.
            address = listener.local_addr().map_err(failed)?;
            listeners.push((door, listener));
        }
    }
    Ok(())
}

/// The host has no such address, or nothing of its kind.
fn is_absent(error: &io::Error) -> bool {
    let absent = [libc::EADDRNOTAVAIL, libc::EAFNOSUPPORT];
    error.raw_os_error().is_some_and(|code| absent.contains(&code))
}

fn bind(address: SocketAddr, shared: bool, transparent: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    if transparent {
        stand_for_all(&socket, address).map_err(unprivileged)?;
    }
    // Accepted connections inherit it: one call here instead of one for each of them. Without it, small answers
    // wait for acknowledgements.
    socket.set_tcp_nodelay(true)?;
    // So is this.
    tcp::spare_loopback((&socket).into(), address.ip());
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn stand_for_all(socket: &Socket, address: SocketAddr) -> io::Result<()> {
    if address.is_ipv4() { socket.set_ip_transparent_v4(true) } else { socket.set_ip_transparent_v6(true) }
}

fn unprivileged(error: io::Error) -> io::Error {
    if error.kind() != io::ErrorKind::PermissionDenied {
        return error;
    }
    io::Error::other(format!(
        "{error}; `capture.mode: tproxy` needs CAP_NET_RAW or CAP_NET_ADMIN at the start, as in `setpriv --reuid=1337 \
         --inh-caps=+net_raw --ambient-caps=+net_raw`; with `redirect`, here and in the network file, it needs neither"
    ))
}

/// Those of one kind; all workers have the same.
pub(super) fn addresses(listeners: &[Vec<(Door, TcpListener)>], door: Door) -> Vec<SocketAddr> {
    let first = listeners.iter().take(1).flatten().filter(|(is, _)| *is == door);
    first.filter_map(|(_, listener)| listener.local_addr().ok()).collect()
}

pub(super) fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => "; another process has it: `ss -ltnp` tells which",
        io::ErrorKind::PermissionDenied => "; ports below 1024 need CAP_NET_BIND_SERVICE",
        io::ErrorKind::AddrNotAvailable => "; this host has no such address",
        _ => "",
    }
}
