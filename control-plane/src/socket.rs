//! The Unix socket on which xDS is served to proxies that share files with us: on the same host, or in the same pod.
//!
//! Who may connect is a matter of the file's permissions, which are set before anybody can.

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

/// Connections that may wait to be accepted.
const BACKLOG: u32 = 1024;

/// The file, which is removed when this is dropped.
#[derive(Debug)]
pub(crate) struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.0) {
            let path = self.0.display();
            tracing::warn!(%error, %path, "the socket cannot be removed");
        }
    }
}

/// Listens on a socket at this path, with these permissions. One that a process left when it was killed is replaced.
///
/// # Errors
/// There is something else, or somebody who serves there.
pub(crate) fn bind(path: &Path, mode: u32) -> anyhow::Result<(UnixListener, SocketFile)> {
    let listen = || -> anyhow::Result<_> {
        remove_stale(path)?;
        let socket = UnixSocket::new_stream()?;
        socket.bind(path)?;
        let file = SocketFile(path.to_owned());
        fs::set_permissions(path, Permissions::from_mode(mode))?;
        Ok((socket.listen(BACKLOG)?, file))
    };
    listen().with_context(|| format!("--xds-socket {}: cannot listen there", path.display()))
}

fn remove_stale(path: &Path) -> anyhow::Result<()> {
    let found = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        found => found?,
    };
    ensure!(
        found.file_type().is_socket(),
        "there is a file that is no socket"
    );
    match UnixStream::connect(path).map_err(|error: io::Error| error.kind()) {
        Ok(_) => bail!("another process serves there"),
        Err(ErrorKind::ConnectionRefused) => Ok(fs::remove_file(path)?),
        Err(error) => bail!("there is a socket: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_socket_of_the_dead_is_replaced_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("xds.sock");
        let refused = |path: &Path| format!("{:#}", bind(path, 0o600).unwrap_err());

        let (listener, file) = bind(&path, 0o660).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o660);
        let error = refused(&path);
        assert!(error.contains("another process serves there"), "{error}");
        // As if it were killed.
        drop(listener);
        std::mem::forget(file);
        let (_listener, file) = bind(&path, 0o600).unwrap();
        drop(file);
        assert!(!path.exists());

        fs::write(&path, "mine").unwrap();
        let error = refused(&path);
        assert!(error.contains("no socket"), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
        let error = refused(&folder.path().join("none/xds.sock"));
        assert!(error.contains("--xds-socket"), "{error}");
    }
}
