//! The unix socket of RCP: bound by the keeper, so that it is there while a relay is replaced, and served by the relay.

use std::{
    fs,
    io::{self, Read},
    os::unix::{
        fs::{FileTypeExt, PermissionsExt},
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    time::Duration,
};

use thiserror::Error;

/// A dataplane that serves greets within so long.
const GREETING_WITHIN: Duration = Duration::from_secs(1);

/// Looks at a socket that was closed in our hand.
const DYING_TRIES: usize = 100;

/// Why the socket could not be opened.
#[derive(Debug, Error)]
pub enum SocketError {
    /// Somebody answers at the path.
    #[error("dataplane_socket: another dataplane serves {0}")]
    InUse(PathBuf),
    /// Something else lies at the path.
    #[error("dataplane_socket: {0} is no socket; it is left as it is")]
    NotASocket(PathBuf),
    /// The kernel refused.
    #[error("dataplane_socket: {path}: {source}")]
    Io {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Removes a socket that a dead dataplane left, and nothing else.
pub(super) fn clear(path: &Path) -> Result<(), SocketError> {
    let io = |source| SocketError::Io { path: path.to_owned(), source };
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => Err(SocketError::NotASocket(path.to_owned())),
        Ok(_) if is_served(path).map_err(io)? => Err(SocketError::InUse(path.to_owned())),
        Ok(_) => fs::remove_file(path).map_err(io),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(io(error)),
    }
}

/// Binds the socket, readable and writable by owner and group, in place of one that a dead dataplane left.
pub(super) fn listen(path: &Path) -> Result<UnixListener, SocketError> {
    clear(path)?;
    let io = |source| SocketError::Io { path: path.to_owned(), source };
    let listener = UnixListener::bind(path).map_err(io)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o660)).map_err(io)?;
    listener.set_nonblocking(true).map_err(io)?;
    Ok(listener)
}

/// Whether somebody serves the socket. A relay that dies with its keeper still holds it for a moment, and says nothing any more.
fn is_served(path: &Path) -> io::Result<bool> {
    for _ in 0..DYING_TRIES {
        let mut stream = match UnixStream::connect(path) {
            Ok(stream) => stream,
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => return Ok(false),
            Err(error) => return Err(error),
        };
        stream.set_read_timeout(Some(GREETING_WITHIN))?;
        match stream.read(&mut [0]) {
            // Its end is near; the next look will find nobody.
            Ok(0) => {}
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {}
            // A greeting, or one who is there and slow.
            _ => return Ok(true),
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_socket_that_nobody_serves_is_replaced() {
        let data = tempfile::tempdir().unwrap();
        let path = data.path().join("notes.txt");
        fs::write(&path, "precious").unwrap();
        let error = listen(&path).unwrap_err();
        assert!(matches!(&error, SocketError::NotASocket(at) if *at == path));
        assert!(error.to_string().starts_with("dataplane_socket: "), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
        let link = data.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(matches!(listen(&link), Err(SocketError::NotASocket(_))));
        let path = data.path().join("socket");
        let first = listen(&path).unwrap();
        assert!(matches!(listen(&path), Err(SocketError::InUse(_))));
        drop(first);
        listen(&path).unwrap();
    }
}
