//! Connections over TLS: each handshake in a task of its own, so that a slow one holds up nobody.
//!
//! In: connections of a listener, and settings that may be replaced at any time. Out: connections that are encrypted.
//! Must not know where certificates come from, nor what a client's says of it.

use std::{io, sync::Arc, time::Duration};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc, watch},
    time,
};
use tokio_rustls::{TlsAcceptor, rustls::ServerConfig, server::TlsStream};
use tokio_stream::wrappers::ReceiverStream;
use tracing::debug;

/// How long a client may take.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Handshakes at a time; further connections wait in the kernel.
const HANDSHAKES: usize = 256;

/// What to do when the kernel has no connection to give, as when the process has too many files open.
const PAUSE: Duration = Duration::from_millis(100);

/// The connections of a listener, each by the newest settings. It ends with what reads it.
pub(crate) fn accept(
    listener: TcpListener,
    settings: watch::Receiver<Arc<ServerConfig>>,
) -> ReceiverStream<io::Result<TlsStream<TcpStream>>> {
    let (connected, incoming) = mpsc::channel(1);
    tokio::spawn(async move {
        let places = Arc::new(Semaphore::new(HANDSHAKES));
        loop {
            let accepted = async {
                let place = Arc::clone(&places).acquire_owned().await;
                (place, listener.accept().await)
            };
            let (place, accepted) = tokio::select! {
                accepted = accepted => accepted,
                () = connected.closed() => return,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    debug!(%error, "no connection");
                    time::sleep(PAUSE).await;
                    continue;
                }
            };
            let acceptor = TlsAcceptor::from(Arc::clone(&settings.borrow()));
            let connected = connected.clone();
            tokio::spawn(async move {
                let _place = place;
                match handshake(&acceptor, stream).await {
                    // Nobody takes it when the server is going away.
                    Ok(stream) => drop(connected.send(Ok(stream)).await),
                    Err(error) => debug!(%error, "no handshake"),
                }
            });
        }
    });
    ReceiverStream::new(incoming)
}

async fn handshake(acceptor: &TlsAcceptor, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
    stream.set_nodelay(true)?;
    time::timeout(HANDSHAKE, acceptor.accept(stream)).await?
}
