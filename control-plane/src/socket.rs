//! The Unix socket of `--xds-socket`, for proxies on the same host or in the same pod.
//!
//! The permissions of the file decide which processes may connect. They are set before the socket accepts connections.

use std::{
    fs::{self, Permissions},
    io::{self, ErrorKind},
    os::unix::{
        fs::{FileTypeExt as _, PermissionsExt as _},
        net::UnixStream,
    },
    path::{Path, PathBuf},
};

use anyhow::{Context, bail, ensure};
use tokio::net::{UnixListener, UnixSocket};

/// Connections that wait to be accepted (`listen(2)`).
const BACKLOG: u32 = 1024;

/// The file of a socket, removed on drop.
#[derive(Debug)]
pub(crate) struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.0) {
            let path = self.0.display();
            tracing::warn!(%error, %path, "cannot remove the xDS socket");
        }
    }
}

/// Listens on a socket at this path with these permissions. Replaces a socket that no process listens on.
///
/// # Errors
/// The path is another file or the socket of a running process, or the socket cannot be created.
pub(crate) fn bind(path: &Path, mode: u32) -> anyhow::Result<(UnixListener, SocketFile)> {
    let listen = || -> anyhow::Result<_> {
        remove_stale(path)?;
        let socket = UnixSocket::new_stream()?;
        socket.bind(path)?;
        let file = SocketFile(path.to_owned());
        fs::set_permissions(path, Permissions::from_mode(mode))?;
        Ok((socket.listen(BACKLOG)?, file))
    };
    listen().with_context(|| format!("cannot listen on --xds-socket {}", path.display()))
}

fn remove_stale(path: &Path) -> anyhow::Result<()> {
    let found = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        found => found?,
    };
    ensure!(
        found.file_type().is_socket(),
        "the path exists and is not a socket; remove the file or choose another path"
    );
    match UnixStream::connect(path).map_err(|error: io::Error| error.kind()) {
        Ok(_) => bail!("another process listens on the socket"),
        Err(ErrorKind::ConnectionRefused) => Ok(fs::remove_file(path)?),
        Err(error) => {
            bail!("cannot find out whether a process listens on the existing socket: {error}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_the_socket_of_an_ended_process_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("xds.sock");
        let error_for = |path: &Path| format!("{:#}", bind(path, 0o600).unwrap_err());

        let (listener, file) = bind(&path, 0o660).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o660);
        let error = error_for(&path);
        assert!(
            error.contains("another process listens on the socket"),
            "{error}"
        );
        // Simulates a killed process, which leaves the file behind.
        drop(listener);
        std::mem::forget(file);
        let (_listener, file) = bind(&path, 0o600).unwrap();
        drop(file);
        assert!(!path.exists());

        fs::write(&path, "mine").unwrap();
        let error = error_for(&path);
        assert!(error.contains("not a socket"), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
        let error = error_for(&folder.path().join("none/xds.sock"));
        assert!(error.contains("--xds-socket"), "{error}");
    }
}
