//! A TCP socket as workers use it: what can be done at once is tried first, and the poller is asked as late as can be.
//!
//! A connection that brings its request along and ends with the answer never meets the poller: registering costs more
//! than reading the request. All methods take `&self`, so both directions share one value.

use std::cell::{OnceCell, RefCell};
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::io::Errno;
use rustix::net::sockopt::set_socket_linger;
use rustix::net::{RecvFlags, SendFlags, Shutdown, SocketFlags, acceptfrom_with, recv, send, shutdown};
use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::TcpStream;

use super::own_dials::OwnDial;

#[derive(Debug)]
pub(super) struct Socket {
    /// Of one that we have made, where it might come back to us, until something has come back on it. First, so that it
    /// goes before the port is free.
    own: RefCell<Option<OwnDial>>,
    /// Until it is registered.
    fresh: RefCell<Option<OwnedFd>>,
    /// From then on: the poller's way to tell that the socket is ready. Reading and writing are ours.
    watched: OnceCell<TcpStream>,
}

impl Socket {
    /// `fd` listens and does not block.
    pub(super) fn listener(fd: OwnedFd) -> io::Result<Self> {
        let socket = Self::new(fd);
        socket.watched()?;
        Ok(socket)
    }

    /// `fd` is connected and does not block.
    pub(super) fn new(fd: OwnedFd) -> Self {
        Self { own: RefCell::new(None), fresh: RefCell::new(Some(fd)), watched: OnceCell::new() }
    }

    /// A listener takes a connection in.
    pub(super) async fn accept(&self) -> io::Result<(Self, SocketAddr)> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let accept = || self.on_fd(|fd| acceptfrom_with(fd, flags));
        let (fd, address) = self.watched()?.async_io(Interest::READABLE, accept).await?;
        // A client that has left already has no address.
        let address = address.and_then(|a| SocketAddr::try_from(a).ok());
        Ok((Self::new(fd), address.ok_or(io::ErrorKind::ConnectionAborted)?))
    }

    /// Connected, and known to the poller already.
    pub(super) fn connected(stream: TcpStream, own: Option<OwnDial>) -> Self {
        Self { own: RefCell::new(own), fresh: RefCell::new(None), watched: OnceCell::from(stream) }
    }

    /// Whether the poller tells us of what comes.
    pub(super) fn is_watched(&self) -> bool {
        self.watched.get().is_some()
    }

    /// Waits until there is something to read, or the end.
    pub(super) async fn readable(&self) -> io::Result<()> {
        let watched = self.watched()?;
        poll_fn(|cx| watched.poll_read_ready(cx)).await
    }

    /// Reads once into the room that `into` has; `Ok(0)` is the end of the stream.
    pub(super) async fn read(&self, into: &mut Vec<u8>) -> io::Result<usize> {
        let watched = self.watched()?;
        poll_fn(|cx| {
            loop {
                ready!(watched.poll_read_ready(cx))?;
                let mut read = 0;
                let tried = watched.try_io(Interest::READABLE, || {
                    let room = into.capacity() - into.len();
                    read = recv(watched, spare_capacity(into), RecvFlags::empty())?.0;
                    // Less than there was room for was all: not ready any more, without another call to learn it.
                    if (1..room).contains(&read) { Err(Errno::WOULDBLOCK.into()) } else { Ok(()) }
                });
                if self.own.borrow().is_some() {
                    self.came_about();
                }
                match tried {
                    Err(error) if read == 0 && error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) if read == 0 => return Poll::Ready(Err(error)),
                    _ => return Poll::Ready(Ok(read)),
                }
            }
        })
        .await
    }

    /// It has not come back to us.
    pub(super) fn came_about(&self) {
        self.own.take();
    }

    /// Reads what is there already, without the poller; `None` if nothing is.
    pub(super) fn read_now(&self, into: &mut Vec<u8>) -> Option<io::Result<usize>> {
        match self.on_fd(|fd| recv(fd, spare_capacity(into), RecvFlags::empty())) {
            Ok((count, _)) => Some(Ok(count)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            Err(error) => Some(Err(error)),
        }
    }

    /// Whether an idle connection is quiet. One that is readable has ended, or says something nobody asked for.
    pub(super) fn is_quiet(&self) -> bool {
        let Ok(watched) = self.watched() else { return false };
        match watched.poll_read_ready(&mut Context::from_waker(Waker::noop())) {
            Poll::Pending => true,
            // Readiness may be left over from a read that filled its buffer: look.
            Poll::Ready(Ok(())) => {
                matches!(watched.try_read(&mut [0]), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
            }
            Poll::Ready(Err(_)) => false,
        }
    }

    pub(super) async fn write_all(&self, bytes: &[u8]) -> io::Result<()> {
        self.send_all(bytes, SendFlags::NOSIGNAL).await
    }

    /// Writes the last bytes and ends our side, in one segment where they fit.
    pub(super) async fn finish(&self, bytes: &[u8]) -> io::Result<()> {
        self.send_all(bytes, SendFlags::NOSIGNAL | SendFlags::MORE).await?;
        self.end()
    }

    /// Ends our side.
    pub(super) fn end(&self) -> io::Result<()> {
        self.on_fd(|fd| shutdown(fd, Shutdown::Write))
    }

    /// Has the other side see a reset when this is dropped, not an end.
    pub(super) fn break_off(&self) {
        // Where it fails, the other side has gone already.
        let _ = self.on_fd(|fd| set_socket_linger(fd, Some(Duration::ZERO)));
    }

    /// Our end's address, and the one that the client dialled, where the kernel has translated it.
    pub(super) fn addresses(&self) -> io::Result<(SocketAddr, Option<SocketAddr>)> {
        let (local, original) = self.on_fd(|fd| {
            let socket = SockRef::from(&fd);
            let local = socket.local_addr();
            let is_ipv4 = local.as_ref().is_ok_and(|local| local.is_ipv4());
            Ok((local, if is_ipv4 { socket.original_dst_v4() } else { socket.original_dst_v6() }))
        })?;
        let local = local?.as_socket().ok_or(io::ErrorKind::AddrNotAvailable)?;
        Ok((local, original.ok().and_then(|original| original.as_socket())))
    }

    async fn send_all(&self, mut bytes: &[u8], flags: SendFlags) -> io::Result<()> {
        while !bytes.is_empty() {
            let count = match self.on_fd(|fd| send(fd, bytes, flags)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let again = || self.on_fd(|fd| send(fd, bytes, flags));
                    self.watched()?.async_io(Interest::WRITABLE, again).await?
                }
                tried => tried?,
            };
            bytes = &bytes[count..];
        }
        Ok(())
    }

    fn on_fd<T>(&self, call: impl FnOnce(BorrowedFd<'_>) -> rustix::io::Result<T>) -> io::Result<T> {
        let done = match (self.watched.get(), &*self.fresh.borrow()) {
            (Some(stream), _) => call(stream.as_fd()),
            (None, Some(fd)) => call(fd.as_fd()),
            // Registering has failed and closed it.
            (None, None) => Err(Errno::BADF),
        };
        Ok(done?)
    }

    fn watched(&self) -> io::Result<&TcpStream> {
        if let Some(watched) = self.watched.get() {
            return Ok(watched);
        }
        let fd = self.fresh.take().ok_or(Errno::BADF)?;
        let stream = TcpStream::from_std(fd.into())?;
        Ok(self.watched.get_or_init(|| stream))
    }
}
