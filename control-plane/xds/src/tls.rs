//! TLS on the xDS listener: accepts TCP connections and runs each handshake in its own task, so that a slow client
//! does not delay others.
//!
//! Each handshake uses the newest TLS settings; established connections keep theirs. Client certificates are verified
//! by those settings and interpreted by [`Authenticate`](crate::Authenticate).

use std::{io, sync::Arc, time::Duration};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc, watch},
    time,
};
use tokio_rustls::{TlsAcceptor, rustls::ServerConfig, server::TlsStream};
use tokio_stream::wrappers::ReceiverStream;
use tracing::debug;

/// Time limit of a handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Number of concurrent handshakes. Further connections wait in the kernel's backlog.
const MAX_HANDSHAKES: usize = 256;

/// Pause after a failed `accept`, for instance when the process has too many open files.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Streams the encrypted connections of a listener. Accepting stops when the returned stream is dropped.
pub(crate) fn accept(
    listener: TcpListener,
    settings: watch::Receiver<Arc<ServerConfig>>,
) -> ReceiverStream<io::Result<TlsStream<TcpStream>>> {
    let (connected, incoming) = mpsc::channel(1);
    tokio::spawn(async move {
        let permits = Arc::new(Semaphore::new(MAX_HANDSHAKES));
        loop {
            let accepted = async {
                let permit = Arc::clone(&permits).acquire_owned().await;
                (permit, listener.accept().await)
            };
            let (permit, accepted) = tokio::select! {
                accepted = accepted => accepted,
                () = connected.closed() => return,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    debug!(%error, "could not accept a connection");
                    time::sleep(ACCEPT_RETRY).await;
                    continue;
                }
            };
            let acceptor = TlsAcceptor::from(Arc::clone(&settings.borrow()));
            let connected = connected.clone();
            tokio::spawn(async move {
                let _permit = permit;
                match handshake(&acceptor, stream).await {
                    // Sending fails only if the server is shutting down.
                    Ok(stream) => drop(connected.send(Ok(stream)).await),
                    Err(error) => debug!(%error, "TLS handshake failed"),
                }
            });
        }
    });
    ReceiverStream::new(incoming)
}

async fn handshake(acceptor: &TlsAcceptor, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
    stream.set_nodelay(true)?;
    time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await?
}
