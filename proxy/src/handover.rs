//! Listening sockets, passed from a process to the one that takes its place: no connection is refused, and none that
//! waits to be accepted is lost, since the queue of a socket lives for as long as one of them has it.
//!
//! Both are started with the same path. The new process connects there, gets a copy of every socket, and says when it
//! serves; from then on it listens at the path itself. The older one goes on as before until it is told to end, and
//! learns by the connection's end if its successor is gone. Neither trusts another user.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::net::sockopt::socket_peercred;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use thiserror::Error;
use tokio::io::Interest;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Of each message, filled up with zeros: what a socket is for, and its address or path.
const MESSAGE_BYTES: usize = 256;
/// More would not come from this program.
const SOCKETS_MAX: usize = 16 * 1024;
/// For each step of the other side, which has nothing else to do.
const STEP: Duration = Duration::from_secs(5);
const SOCKET_MODE: u32 = 0o600;
/// Messages without a socket.
const ALL_SENT: &[u8] = b"all";
const SERVING: &[u8] = b"serving";
const NOTED: &[u8] = b"noted";

/// A socket, and what it is for: a word and an address.
pub type Named = (String, OwnedFd);

/// Whether another process serves in our place.
#[derive(Debug, Clone)]
pub struct Succession(watch::Receiver<bool>);

/// What the process before us has passed on.
#[derive(Debug, Default)]
pub struct Inheritance {
    sockets: Vec<Named>,
    predecessor: Option<Predecessor>,
}

/// Makes a `Succession` begin, and end.
#[derive(Debug)]
pub struct Begun(watch::Sender<bool>);

/// Kept for as long as this process lives: its end is told by it.
#[derive(Debug)]
pub struct Predecessor(UnixStream);

/// Our sockets, for whoever comes to take our place. Dropped, nobody can.
#[derive(Debug)]
pub struct Offer {
    path: PathBuf,
    succession: Succession,
    task: JoinHandle<()>,
}

#[derive(Debug, Error)]
pub enum HandoverError {
    #[error("cannot take over the sockets of the process at {}: {error}", path.display())]
    Take { path: PathBuf, error: io::Error },
    #[error("cannot listen at {} for a successor: {error}", path.display())]
    Offer { path: PathBuf, error: io::Error },
}

impl Succession {
    pub fn new() -> (Begun, Self) {
        let (begun, seen) = watch::channel(false);
        (Begun(begun), Self(seen))
    }

    pub fn has_begun(&self) -> bool {
        *self.0.borrow()
    }

    /// Waits until there is a successor, or none any more.
    pub async fn until(&mut self, begun: bool) {
        if self.0.wait_for(|has| *has == begun).await.is_err() {
            // Whoever could tell has gone.
            std::future::pending().await
        }
    }
}

impl Inheritance {
    /// Empty if nobody is there. Blocks for a moment.
    pub fn from(path: &Path) -> Result<Self, HandoverError> {
        receive(path).map_err(|error| HandoverError::Take { path: path.to_owned(), error })
    }

    /// The next socket that is for this and whose address fits.
    pub fn take(&mut self, purpose: &str, fits: impl Fn(&str) -> bool) -> Option<OwnedFd> {
        let wanted = |name: &str| name.split_once(' ').is_some_and(|(is, at)| is == purpose && fits(at));
        let index = self.sockets.iter().position(|(name, _)| wanted(name))?;
        Some(self.sockets.swap_remove(index).1)
    }

    pub fn predecessor(self) -> Option<Predecessor> {
        self.predecessor
    }
}

impl Predecessor {
    /// It knows that we serve once this returns, and takes nothing back when it ends. Blocks for a moment.
    pub fn tell_serving(&self) -> io::Result<()> {
        write(&self.0, SERVING, None)?;
        match read(&self.0)?.0 {
            text if text == NOTED => Ok(()),
            _ => Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
        }
    }
}

impl Offer {
    /// In the place of what is there. Has to be called within a runtime.
    pub fn make(path: &Path, sockets: Vec<Named>, begun: Begun) -> Result<Self, HandoverError> {
        let failed = |error| HandoverError::Offer { path: path.to_owned(), error };
        let listener = listen_at(path).map_err(failed)?;
        let succession = Succession(begun.0.subscribe());
        let task = tokio::spawn(offer(path.to_owned(), listener, sockets, begun.0));
        Ok(Self { path: path.to_owned(), succession, task })
    }
}

impl Drop for Offer {
    fn drop(&mut self) {
        self.task.abort();
        if !self.succession.has_begun() {
            // If it is gone, so much the better.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// One after the other: who is served by one successor needs no second.
async fn offer(
    path: PathBuf,
    mut listener: tokio::net::UnixListener,
    sockets: Vec<Named>,
    begun: watch::Sender<bool>,
) {
    let sockets = Arc::new(sockets);
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(STEP).await;
            continue;
        };
        if let Err(error) = pass_on(stream, &sockets, &begun).await {
            tracing::warn!(%error, "the sockets were not taken over");
        }
        if !*begun.borrow() {
            continue;
        }
        if UnixStream::connect(&path).is_ok() {
            // It has a successor of its own.
            return;
        }
        begun.send_replace(false);
        tracing::warn!("the successor has ended; this process goes on");
        match listen_at(&path) {
            Ok(again) => listener = again,
            Err(error) => tracing::warn!(%error, "no other process can take over"),
        }
    }
}

/// Returns when the successor, or whoever tried to be one, is gone.
async fn pass_on(
    stream: tokio::net::UnixStream,
    sockets: &Arc<Vec<Named>>,
    begun: &watch::Sender<bool>,
) -> io::Result<()> {
    let (stream, sockets) = (stream.into_std()?, Arc::clone(sockets));
    let sent = tokio::task::spawn_blocking(move || {
        prepare(&stream)?;
        for (name, socket) in sockets.iter() {
            write(&stream, name.as_bytes(), Some(socket.as_fd()))?;
        }
        write(&stream, ALL_SENT, None)?;
        stream.set_nonblocking(true)?;
        Ok::<_, io::Error>(stream)
    });
    let stream = tokio::net::UnixStream::from_std(sent.await.map_err(io::Error::other)??)?;
    tracing::info!("another process has taken a copy of the sockets");
    loop {
        match stream.async_io(Interest::READABLE, || read(&stream)).await {
            Ok((text, _)) if text == SERVING => {
                begun.send_replace(true);
                write(&stream, NOTED, None)?;
                tracing::info!(
                    "another process serves in our place; it goes on when this one is told to end"
                );
            }
            // The end, in whichever way.
            _ => return Ok(()),
        }
    }
}

fn receive(path: &Path) -> io::Result<Inheritance> {
    let stream = match UnixStream::connect(path) {
        Ok(stream) => stream,
        // A file that somebody has left behind is nobody, too.
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            return Ok(Inheritance::default());
        }
        Err(error) => return Err(error),
    };
    prepare(&stream)?;
    let mut sockets = Vec::new();
    loop {
        match read(&stream)? {
            (name, Some(passed)) if sockets.len() < SOCKETS_MAX => {
                sockets.push((String::from_utf8_lossy(&name).into_owned(), passed));
            }
            (text, None) if text == ALL_SENT => break,
            (text, None) if text.is_empty() => return Err(io::ErrorKind::UnexpectedEof.into()),
            _ => return Err(io::Error::other("it does not speak as this program does")),
        }
    }
    Ok(Inheritance { sockets, predecessor: Some(Predecessor(stream)) })
}

/// Blocks from now on, but each step is bounded. Asks who it is.
fn prepare(stream: &UnixStream) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(STEP))?;
    stream.set_write_timeout(Some(STEP))?;
    let (peer, own) = (socket_peercred(stream)?.uid, rustix::process::geteuid());
    if peer == own || peer.is_root() {
        return Ok(());
    }
    let says = format!("it is user {}, and this is user {}", peer.as_raw(), own.as_raw());
    Err(io::Error::new(io::ErrorKind::PermissionDenied, says))
}

/// For the owner alone, and in one step: whoever connects finds the one process or the other.
fn listen_at(path: &Path) -> io::Result<tokio::net::UnixListener> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(format!(".{}", std::process::id()));
    let beside = PathBuf::from(beside);
    let listener = UnixListener::bind(&beside)?;
    std::fs::set_permissions(&beside, std::fs::Permissions::from_mode(SOCKET_MODE))?;
    std::fs::rename(&beside, path)?;
    listener.set_nonblocking(true)?;
    tokio::net::UnixListener::from_std(listener)
}

/// One message in one piece, as the kernel keeps what has a socket with it apart.
fn write(stream: impl AsFd, text: &[u8], socket: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let mut message = [0; MESSAGE_BYTES];
    let room = message.get_mut(..text.len()).ok_or(io::ErrorKind::InvalidInput)?;
    room.copy_from_slice(text);
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if socket.is_some() && !control.push(SendAncillaryMessage::ScmRights(socket.as_slice())) {
        return Err(io::ErrorKind::OutOfMemory.into());
    }
    let sent = sendmsg(stream, &[IoSlice::new(&message)], &mut control, SendFlags::NOSIGNAL)?;
    if sent == message.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}

/// Without text, it was the end.
fn read(stream: impl AsFd) -> io::Result<(Vec<u8>, Option<OwnedFd>)> {
    let mut message = [0; MESSAGE_BYTES];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    recvmsg(stream, &mut [IoSliceMut::new(&mut message)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let socket = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut sockets) => sockets.next(),
        _ => None,
    });
    let text = message.split(|byte| *byte == 0).next().unwrap_or_default();
    Ok((text.to_vec(), socket))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    fn named(listener: &TcpListener) -> Named {
        (format!("open {}", listener.local_addr().unwrap()), listener.try_clone().unwrap().into())
    }

    async fn inherited(path: &Path) -> Inheritance {
        let path = path.to_owned();
        tokio::task::spawn_blocking(move || Inheritance::from(&path)).await.unwrap().unwrap()
    }

    #[tokio::test]
    async fn what_waits_to_be_accepted_is_not_lost() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("handover");
        assert!(inherited(&path).await.predecessor().is_none(), "nobody is there");
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (begun, succession) = Succession::new();
        let offer = Offer::make(&path, vec![named(&listener)], begun).unwrap();
        let waiting = TcpStream::connect(address).unwrap();
        let mut inheritance = inherited(&path).await;
        assert!(inheritance.take("names", |_| true).is_none());
        let passed = inheritance.take("open", |at| at == address.to_string()).expect("it was passed on");
        let predecessor = inheritance.predecessor().expect("somebody is there");
        assert!(!succession.has_begun(), "it may still change its mind");
        let (predecessor, told) = tokio::task::spawn_blocking(move || {
            let told = predecessor.tell_serving();
            (predecessor, told)
        })
        .await
        .unwrap();
        told.unwrap();
        assert!(succession.has_begun());
        let next = Offer::make(&path, Vec::new(), Succession::new().0).unwrap();
        drop((offer, listener));
        assert!(path.exists(), "it is the successor's");
        let (accepted, from) = TcpListener::from(passed).accept().unwrap();
        assert_eq!(from, waiting.local_addr().unwrap());
        drop((accepted, predecessor, next));
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_successor_that_ends_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("handover");
        let (begun, mut succession) = Succession::new();
        let _offer = Offer::make(&path, Vec::new(), begun).unwrap();
        for _ in 0..2 {
            let predecessor = inherited(&path).await.predecessor().unwrap();
            let told = move || predecessor.tell_serving().map(|()| predecessor).unwrap();
            let predecessor = tokio::task::spawn_blocking(told).await.unwrap();
            drop(Offer::make(&path, Vec::new(), Succession::new().0).unwrap());
            assert!(!path.exists());
            drop(predecessor);
            succession.until(false).await;
            tokio::time::timeout(STEP, async {
                while !path.exists() {
                    tokio::task::yield_now().await;
                }
            })
            .await
            .expect("it can be found again");
        }
        assert!(!succession.has_begun());
    }
}
