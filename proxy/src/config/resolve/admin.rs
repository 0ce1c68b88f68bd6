//! The administration interface: where it listens and what it asks for.

use std::io::Read as _;
use std::net::Ipv4Addr;
use std::path::Path;

use super::super::diagnostic::{FieldPath, Problems};
use super::super::resolved::{Admin, AdminListen, Secret};
use super::super::written;
use super::check;

const PORT: u16 = 15020;
const TOKEN_BYTES_MAX: u64 = 4096;
/// `sockaddr_un` holds 108 bytes, the last of them zero.
const SOCKET_PATH_BYTES_MAX: usize = 107;

pub(super) fn resolve(
    written: written::Admin,
    base: &Path,
    at: &FieldPath<'_>,
    problems: &mut Problems,
) -> Admin {
    let listen = listen(written.listen.as_deref(), base, &at.field("listen"), problems);
    if written.token.is_some() && written.token_file.is_some() {
        problems.report(&at.field("token"), "`token` and `token_file` exclude each other");
    }
    let token = match (written.token, written.token_file) {
        (Some(token), _) => token_from(&token, &at.field("token"), problems),
        (None, Some(file)) => read_token(&base.join(file), &at.field("token_file"), problems),
        (None, None) => {
            if let AdminListen::Tcp(address) = listen
                && !address.ip().to_canonical().is_loopback()
            {
                let message =
                    format!("a token is required, since {address} can be reached from other machines");
                problems.report_with(at, message, "give `token_file`");
            }
            None
        }
    };
    Admin { listen, token }
}

fn listen(written: Option<&str>, base: &Path, at: &FieldPath<'_>, problems: &mut Problems) -> AdminListen {
    let default = (Ipv4Addr::LOCALHOST, PORT).into();
    let Some(text) = written else {
        return AdminListen::Tcp(default);
    };
    let Some(path) = text.strip_prefix("unix:") else {
        return AdminListen::Tcp(check::address(text, at, problems).unwrap_or(default));
    };
    let socket = base.join(path);
    if path.is_empty() {
        problems.report(at, "an empty path");
    } else if socket.as_os_str().len() > SOCKET_PATH_BYTES_MAX {
        problems.report(at, format!("the path of a socket is at most {SOCKET_PATH_BYTES_MAX} bytes long"));
    }
    AdminListen::Unix(socket)
}

pub(crate) fn read_token(file: &Path, at: &FieldPath<'_>, problems: &mut Problems) -> Option<Secret> {
    let mut text = String::new();
    let read =
        std::fs::File::open(file).and_then(|file| file.take(TOKEN_BYTES_MAX + 1).read_to_string(&mut text));
    if let Err(error) = read {
        problems.report(at, format!("cannot read {}: {error}", file.display()));
        return None;
    }
    token_from(text.trim(), at, problems)
}

/// A token travels in a header: printable ASCII without spaces.
pub(crate) fn token_from(text: &str, at: &FieldPath<'_>, problems: &mut Problems) -> Option<Secret> {
    if text.is_empty() {
        problems.report(at, "the token is empty");
        return None;
    }
    if text.len() as u64 > TOKEN_BYTES_MAX {
        problems.report(at, format!("the token is longer than {TOKEN_BYTES_MAX} bytes"));
        return None;
    }
    if !text.bytes().all(|b| b.is_ascii_graphic()) {
        problems.report(at, "the token may only hold printable ASCII characters, and no spaces");
        return None;
    }
    Some(Secret(text.to_owned()))
}
