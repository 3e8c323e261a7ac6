//! TLS on a TCP listener: runs each handshake in its own task, so that a slow client does not delay others.
//!
//! Each handshake uses the newest TLS settings; established connections keep theirs. Client certificates are verified
//! by those settings and interpreted by [`Authenticate`](crate::Authenticate). A new connection is always accepted: if
//! [`MAX_HANDSHAKES`] are unfinished, the oldest of them is given up.

use std::{collections::VecDeque, io, sync::Arc, time::Duration};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::{mpsc, watch},
    task::AbortHandle,
    time,
};
use tokio_rustls::{TlsAcceptor, rustls::ServerConfig, server::TlsStream};
use tokio_stream::wrappers::ReceiverStream;
use tracing::debug;

use crate::{
    accept::{ConnectionLimit, ConnectionPlace, LimitedConnection},
    turns::TurnStream,
};

/// Time limit of a handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Number of concurrent handshakes.
const MAX_HANDSHAKES: usize = 256;

/// An encrypted connection.
pub type TlsConnection = LimitedConnection<TlsStream<TurnStream<TcpStream>>>;

/// The unfinished handshakes, oldest first, with some finished ones.
#[derive(Debug, Default)]
struct Handshakes(VecDeque<AbortHandle>);

/// Streams the encrypted connections of a listener that have a place. Accepting stops when the returned stream is dropped.
///
/// # Panics
/// The caller is not on a tokio runtime.
pub fn accept_tls(
    listener: TcpListener,
    limit: Arc<ConnectionLimit>,
    settings: watch::Receiver<Arc<ServerConfig>>,
) -> ReceiverStream<io::Result<TlsConnection>> {
    let (connected, incoming) = mpsc::channel(1);
    tokio::spawn(async move {
        let mut handshakes = Handshakes::default();
        loop {
            let (stream, place) = tokio::select! {
                accepted = limit.accept(&listener) => accepted,
                () = connected.closed() => return,
            };
            let acceptor = TlsAcceptor::from(Arc::clone(&settings.borrow()));
            let connected = connected.clone();
            let task = tokio::spawn(async move {
                match handshake(&acceptor, stream, place).await {
                    // Sending fails only if the server is shutting down.
                    Ok(connection) => drop(connected.send(Ok(connection)).await),
                    Err(error) => debug!(%error, "TLS handshake failed"),
                }
            });
            handshakes.add(task.abort_handle());
        }
    });
    ReceiverStream::new(incoming)
}

async fn handshake(
    acceptor: &TlsAcceptor,
    stream: TurnStream<TcpStream>,
    place: ConnectionPlace,
) -> io::Result<TlsConnection> {
    let handshake = time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream));
    let stream = tokio::select! {
        stream = handshake => stream??,
        lost = place.lost() => return Err(lost),
    };
    Ok(LimitedConnection::new(stream, place))
}

impl Handshakes {
    /// Adds a handshake, and gives up the oldest one if there are too many.
    fn add(&mut self, handshake: AbortHandle) {
        if self.0.len() >= MAX_HANDSHAKES {
            self.0.retain(|handshake| !handshake.is_finished());
        }
        if self.0.len() >= MAX_HANDSHAKES
            && let Some(oldest) = self.0.pop_front()
        {
            oldest.abort();
        }
        self.0.push_back(handshake);
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    #[tokio::test]
    async fn oldest_unfinished_handshake_is_given_up_for_a_new_one() {
        let mut handshakes = Handshakes::default();
        let mut tasks: VecDeque<_> = (0..MAX_HANDSHAKES)
            .map(|_| tokio::spawn(pending::<()>()))
            .collect();
        for task in &tasks {
            handshakes.add(task.abort_handle());
        }
        let finished = tasks.remove(1).unwrap();
        finished.abort();
        assert!(finished.await.is_err());
        handshakes.add(tokio::spawn(pending::<()>()).abort_handle());
        let oldest = tasks.pop_front().unwrap();
        assert!(!oldest.is_finished());
        handshakes.add(tokio::spawn(pending::<()>()).abort_handle());
        assert!(oldest.await.unwrap_err().is_cancelled());
        assert!(tasks.iter().all(|task| !task.is_finished()));
    }
}
