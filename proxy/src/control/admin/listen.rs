//! Where the admin interface listens.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use socket2::{Domain, SockAddr, Socket, Type};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};

use super::guard::Exposure;
use crate::config::AdminListen;
use crate::handover::Succession;

/// The owner alone may connect.
const SOCKET_MODE: u32 = 0o600;
const BACKLOG: i32 = 128;

/// A bound socket. Made before anything else starts, so that a taken address is known at once.
#[derive(Debug)]
pub enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener, SocketFile),
}

/// Removed with its listener, unless a successor has taken over.
#[derive(Debug)]
pub struct SocketFile(PathBuf, Option<Succession>);

impl Listener {
    /// Must be called within a runtime.
    pub async fn bind(listen: &AdminListen) -> io::Result<Self> {
        match listen {
            AdminListen::Tcp(address) => TcpListener::bind(address).await.map(Self::Tcp),
            AdminListen::Unix(path) => {
                remove_stale(path)?;
                let listener = UnixListener::from_std(bind_private(path)?)?;
                Ok(Self::Unix(listener, SocketFile(path.clone(), None)))
            }
        }
    }

    /// The socket of a process before us. Must be called within a runtime.
    pub fn inherited(listen: &AdminListen, socket: OwnedFd) -> io::Result<Self> {
        Ok(match listen {
            AdminListen::Tcp(_) => Self::Tcp(TcpListener::from_std(socket.into())?),
            AdminListen::Unix(path) => {
                Self::Unix(UnixListener::from_std(socket.into())?, SocketFile(path.clone(), None))
            }
        })
    }

    /// The socket once more, and its address or path.
    pub fn copy(&self) -> io::Result<(String, OwnedFd)> {
        Ok(match self {
            Self::Tcp(listener) => {
                (listener.local_addr()?.to_string(), listener.as_fd().try_clone_to_owned()?)
            }
            Self::Unix(listener, SocketFile(path, _)) => {
                (path.display().to_string(), listener.as_fd().try_clone_to_owned()?)
            }
        })
    }

    /// Its file belongs to a successor, once there is one.
    #[must_use]
    pub fn until(self, succession: Succession) -> Self {
        match self {
            Self::Unix(listener, mut file) => {
                file.1 = Some(succession);
                Self::Unix(listener, file)
            }
            tcp => tcp,
        }
    }

    /// Of a TCP listener: with the port that the system chose for port 0.
    pub fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(listener) => listener.local_addr().ok(),
            Self::Unix(..) => None,
        }
    }

    pub(super) fn exposure(&self) -> Exposure {
        match self {
            Self::Unix(..) => Exposure::Unix,
            Self::Tcp(_) if self.address().is_some_and(|address| address.ip().is_loopback()) => {
                Exposure::Loopback
            }
            Self::Tcp(_) => Exposure::Network,
        }
    }

    pub(super) async fn accept(&self) -> io::Result<Box<dyn Stream>> {
        Ok(match self {
            Self::Tcp(listener) => Box::new(listener.accept().await?.0),
            Self::Unix(listener, _) => Box::new(listener.accept().await?.0),
        })
    }
}

/// Either kind of connection.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if !self.1.as_ref().is_some_and(Succession::has_begun) {
            // If it is gone, so much the better.
            let _ = std::fs::remove_file(&self.0);
        }
    }
}

/// What a process that was killed has left behind; a socket that somebody listens on stays.
fn remove_stale(path: &Path) -> io::Result<()> {
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path),
        _ => Ok(()),
    }
}

/// Permissions are set between binding and listening: nobody connects before.
fn bind_private(path: &Path) -> io::Result<std::os::unix::net::UnixListener> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.bind(&SockAddr::unix(path)?)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(SOCKET_MODE))?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}
