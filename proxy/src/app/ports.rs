//! All that is listened on, bound before anything else is done.

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};

use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::AppError;
use crate::config::{AdminListen, Capture, Config, Mode};
use crate::control::admin::Listener;
use crate::handover::{Inheritance, Named};
use crate::worker::Door;
use crate::{names, tcp};

/// Connections that wait to be accepted, per listener; the kernel caps it by `net.core.somaxconn`.
const BACKLOG: i32 = 4096;
const ADMIN: &str = "admin";
const NAMES_UDP: &str = "names-udp";
const NAMES_TCP: &str = "names-tcp";

/// All that is listened on.
pub(super) struct Ports {
    /// By worker, each with all addresses.
    pub(super) workers: Vec<Vec<(Door, TcpListener)>>,
    pub(super) admin: Listener,
    pub(super) names: Option<names::Sockets>,
}

impl Ports {
    /// First of all: a second instance must fail before it registers, compiles or captures anything.
    /// What was inherited is taken from there; what is not wanted any more stays there.
    pub(super) async fn bind(config: &Config, inheritance: &mut Inheritance) -> Result<Self, AppError> {
        let mut workers: Vec<Vec<(Door, TcpListener)>> = (0..config.workers).map(|_| Vec::new()).collect();
        bind_all(&mut workers, (Door::Open, &config.outbound), Kind::default(), inheritance)?;
        if let Some(Capture { mode, outbound, inbound, .. }) = &config.capture {
            for (door, listen) in [(Door::Outbound, outbound), (Door::Inbound, inbound)] {
                let transparent = *mode == Mode::Tproxy;
                let kind = Kind { spare: listen.is_default, transparent };
                bind_all(&mut workers, (door, &listen.addresses), kind, inheritance)?;
            }
        }
        let inherited = inheritance.take(ADMIN, |at| match &config.admin.listen {
            AdminListen::Tcp(wanted) => fits(at, *wanted),
            AdminListen::Unix(path) => path.to_str() == Some(at),
        });
        let admin = match inherited {
            Some(socket) => Listener::inherited(&config.admin.listen, socket),
            None => Listener::bind(&config.admin.listen).await,
        };
        let admin =
            admin.map_err(|error| AppError::Listen { address: config.admin.listen.to_string(), error })?;
        let names = config.dns.as_ref();
        let names =
            names.map(|dns| names::Sockets::bind(dns, |address| inherited_names(inheritance, address)));
        let names = names.transpose();
        let names = names.map_err(|(address, error)| AppError::Listen {
            address: format!("{address} for names"),
            error,
        })?;
        Ok(Self { workers, admin, names })
    }

    /// All of them once more, for a successor.
    pub(super) fn copies(&self) -> io::Result<Vec<Named>> {
        let mut copies = Vec::new();
        for (door, listener) in self.workers.iter().flatten() {
            let name = format!("{} {}", purpose(*door), listener.local_addr()?);
            copies.push((name, listener.try_clone()?.into()));
        }
        for (udp, tcp, address) in self.names.iter().flat_map(names::Sockets::iter) {
            copies.push((format!("{NAMES_UDP} {address}"), udp.try_clone()?.into()));
            copies.push((format!("{NAMES_TCP} {address}"), tcp.try_clone()?.into()));
        }
        let (address, copy) = self.admin.copy()?;
        copies.push((format!("{ADMIN} {address}"), copy));
        Ok(copies)
    }
}

/// What a socket of a worker's is for, as two processes say it to one another.
fn purpose(door: Door) -> &'static str {
    match door {
        Door::Open => "open",
        Door::Outbound => "outbound",
        Door::Inbound => "inbound",
    }
}

/// Port 0 is any that the predecessor has.
fn fits(at: &str, wanted: SocketAddr) -> bool {
    let same = |at: SocketAddr| at.ip() == wanted.ip() && (wanted.port() == 0 || at.port() == wanted.port());
    at.parse().is_ok_and(same)
}

fn inherited_names(inheritance: &mut Inheritance, address: SocketAddr) -> Option<(UdpSocket, TcpListener)> {
    let tcp: TcpListener = inheritance.take(NAMES_TCP, |at| fits(at, address))?.into();
    let address = tcp.local_addr().ok()?;
    Some((inheritance.take(NAMES_UDP, |at| fits(at, address))?.into(), tcp))
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
    (door, addresses): (Door, &[SocketAddr]),
    kind: Kind,
    inheritance: &mut Inheritance,
) -> Result<(), AppError> {
    let shared = workers.len() > 1;
    for address in addresses {
        let failed = |error| AppError::Listen { address: address.to_string(), error };
        let inherited = std::iter::from_fn(|| inheritance.take(purpose(door), |at| fits(at, *address)));
        let inherited: Vec<TcpListener> = inherited.map(TcpListener::from).collect();
        if !inherited.is_empty() {
            share(workers, door, inherited, kind).map_err(failed)?;
            continue;
        }
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

/// Each queue needs a worker that takes from it, and each worker a queue. No more are bound: what comes to one before
/// we serve would wait, and be lost if we never do.
fn share(
    workers: &mut [Vec<(Door, TcpListener)>],
    door: Door,
    inherited: Vec<TcpListener>,
    kind: Kind,
) -> io::Result<()> {
    let (count, many) = (workers.len(), inherited.len());
    for listener in &inherited {
        prepare(listener, kind)?;
    }
    for (listeners, listener) in workers.iter_mut().zip(inherited.iter().cycle()).skip(many) {
        listeners.push((door, listener.try_clone()?));
    }
    for (index, listener) in inherited.into_iter().enumerate() {
        workers[index % count].push((door, listener));
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

/// A predecessor's listener, which may have been another kind.
fn prepare(listener: &TcpListener, kind: Kind) -> io::Result<()> {
    let (socket, address) = (SockRef::from(listener), listener.local_addr()?);
    let is_transparent =
        if address.is_ipv4() { socket.ip_transparent_v4() } else { socket.ip_transparent_v6() };
    if kind.transparent && !is_transparent? {
        stand_for_all(&socket, address).map_err(unprivileged)?;
    }
    Ok(())
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
