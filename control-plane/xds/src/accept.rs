//! Accepts connections for every listener of the process, with a limit for each.
//!
//! A failed `accept`, such as for lack of file descriptors, is followed by a pause. If there is no place for a new
//! connection, or the clients make the server hold too much, a connection of the address that takes most is closed
//! ([`fair_share`](crate::fair_share)), so that no client can keep others out.
//! A connection is closed if the client has not sent its first bytes in time. Connections are read
//! [in turns](crate::turns).

use std::{
    future, io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use futures::{Stream, stream};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    time::{self, Sleep},
};
use tonic::transport::server::Connected;
use tracing::debug;

use crate::{
    fair_share::{ConnectionEnd, FairShare, Holding},
    turns::{ReadReadiness, ReadTurns, TurnStream},
};

/// Pause after a failed `accept`.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Longest time until a client must have sent the first bytes of its protocol.
const FIRST_BYTES_TIME: Duration = Duration::from_secs(10);

/// Number of these bytes: the connection preface of HTTP/2 (RFC 9113, section 3.4). A request of HTTP/1 is not shorter.
const FIRST_BYTES: usize = 24;

/// Bytes that a connection takes before it has a stream.
const CONNECTION_BYTES: usize = 16 << 10;

/// The places for connections of a listener, and the bytes that its clients may make the server hold.
#[derive(Debug)]
pub struct ConnectionLimit {
    places: Arc<FairShare>,
    bytes: Arc<FairShare>,
    turns: Arc<ReadTurns>,
}

/// The place of one connection. Dropping it frees the place.
#[derive(Debug)]
pub(crate) struct ConnectionPlace {
    end: Arc<ConnectionEnd>,
    _place: Holding,
    /// Shared with the streams of the connection.
    held: Arc<Holding>,
}

/// The transport of a request, and what its connection makes the server hold, as an extension of the request.
#[derive(Debug, Clone)]
pub struct LimitedConnectInfo<I> {
    pub(crate) transport: I,
    pub(crate) held: Arc<Holding>,
}

/// A listener whose connections can be limited.
pub trait LimitedListener {
    /// A connection.
    type Stream: AsyncRead + AsyncWrite + ReadReadiness + Unpin + Send + 'static;

    /// Accepts a connection. The address is absent on a Unix socket.
    fn accept_one(
        &self,
    ) -> impl Future<Output = io::Result<(Self::Stream, Option<SocketAddr>)>> + Send;
}

impl LimitedListener for TcpListener {
    type Stream = TcpStream;

    async fn accept_one(&self) -> io::Result<(TcpStream, Option<SocketAddr>)> {
        let (stream, address) = self.accept().await?;
        // A failure means that the client has gone, which the first read reports.
        let _ = stream.set_nodelay(true);
        Ok((stream, Some(address)))
    }
}

impl LimitedListener for UnixListener {
    type Stream = UnixStream;

    async fn accept_one(&self) -> io::Result<(UnixStream, Option<SocketAddr>)> {
        let (stream, _) = self.accept().await?;
        Ok((stream, None))
    }
}

impl ConnectionLimit {
    /// Allows this number of open connections.
    pub fn new(places: usize) -> Arc<Self> {
        Self::with_bytes(places, usize::MAX)
    }

    /// Allows this number of open connections, whose clients make the server hold at most these bytes.
    pub fn with_bytes(places: usize, bytes: usize) -> Arc<Self> {
        Arc::new(Self {
            places: FairShare::new("connections", places),
            bytes: FairShare::new("bytes that clients make the server hold", bytes),
            turns: Arc::default(),
        })
    }

    /// The number of places.
    pub fn limit(&self) -> usize {
        self.places.limit()
    }

    /// Streams the connections of a listener that have a place.
    pub fn connections<L: LimitedListener>(
        self: Arc<Self>,
        listener: L,
    ) -> impl Stream<Item = io::Result<LimitedConnection<TurnStream<L::Stream>>>> {
        stream::unfold((listener, self), |(listener, limit)| async move {
            let (stream, place) = limit.accept(&listener).await;
            let connection = LimitedConnection::new(stream, place);
            Some((Ok(connection), (listener, limit)))
        })
    }

    /// Waits for the next connection that has a place. Cancel safe.
    pub(crate) async fn accept<L: LimitedListener>(
        self: &Arc<Self>,
        listener: &L,
    ) -> (TurnStream<L::Stream>, ConnectionPlace) {
        loop {
            match listener.accept_one().await {
                Ok((stream, address)) => {
                    let ip = address.map(|it| it.ip());
                    let place = self.enter(ip);
                    if place.check().is_ok() {
                        return (TurnStream::new(stream, ip, &self.turns), place);
                    }
                    debug!(?address, "closed a connection over the limit");
                }
                Err(error) => {
                    debug!(%error, "could not accept a connection");
                    if !is_about_one_connection(&error) {
                        time::sleep(ACCEPT_RETRY).await;
                    }
                }
            }
        }
    }

    fn enter(&self, address: Option<IpAddr>) -> ConnectionPlace {
        let end = Arc::default();
        let place = self.places.enter(address, 1, &end);
        let held = self.bytes.enter(address, CONNECTION_BYTES, &end);
        ConnectionPlace {
            end,
            _place: place,
            held: Arc::new(held),
        }
    }
}

impl ConnectionPlace {
    /// Fails once the place is needed for another client.
    fn check(&self) -> io::Result<()> {
        self.end.check()
    }

    /// Completes with an error once the place is needed for another client.
    pub(crate) async fn lost(&self) -> io::Error {
        future::poll_fn(|context| self.end.poll(context)).await
    }
}

/// Whether a failed `accept` says nothing about the next one.
fn is_about_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset
    )
}

/// A connection that holds its place, and that fails if its client does not send the first bytes in time.
#[derive(Debug)]
pub struct LimitedConnection<S> {
    stream: S,
    place: ConnectionPlace,
    first_bytes: Option<Box<FirstBytes>>,
}

#[derive(Debug)]
struct FirstBytes {
    missing: usize,
    deadline: Pin<Box<Sleep>>,
}

impl<S> LimitedConnection<S> {
    /// Replaces the transport.
    pub(crate) fn map<T>(self, convert: impl FnOnce(S) -> T) -> LimitedConnection<T> {
        LimitedConnection {
            stream: convert(self.stream),
            place: self.place,
            first_bytes: self.first_bytes,
        }
    }

    /// Expects the first bytes of the client from now on.
    pub(crate) fn new(stream: S, place: ConnectionPlace) -> Self {
        Self {
            stream,
            place,
            first_bytes: Some(Box::new(FirstBytes {
                missing: FIRST_BYTES,
                deadline: Box::pin(time::sleep(FIRST_BYTES_TIME)),
            })),
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for LimitedConnection<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if let Poll::Ready(lost) = this.place.end.poll(context) {
            return Poll::Ready(Err(lost));
        }
        let Some(first) = &mut this.first_bytes else {
            return Pin::new(&mut this.stream).poll_read(context, buffer);
        };
        let before = buffer.filled().len();
        match Pin::new(&mut this.stream).poll_read(context, buffer) {
            Poll::Pending => {
                ready!(first.deadline.as_mut().poll(context));
                let message = "the client did not send a request in time";
                Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, message)))
            }
            Poll::Ready(read) => {
                let bytes = buffer.filled().len() - before;
                first.missing = first.missing.saturating_sub(bytes);
                if first.missing == 0 {
                    this.first_bytes = None;
                }
                Poll::Ready(read)
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for LimitedConnection<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.place.check()?;
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.place.check()?;
        Pin::new(&mut self.stream).poll_write_vectored(context, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.place.check()?;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

impl<S: Connected> Connected for LimitedConnection<S> {
    type ConnectInfo = LimitedConnectInfo<S::ConnectInfo>;

    fn connect_info(&self) -> Self::ConnectInfo {
        LimitedConnectInfo {
            transport: self.stream.connect_info(),
            held: Arc::clone(&self.place.held),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test]
    async fn connection_that_loses_its_place_fails_to_read_and_write() {
        let limit = ConnectionLimit::new(2);
        let _first = limit.enter(None);
        let (_client, server) = duplex(100);
        let mut second = LimitedConnection::new(server, limit.enter(None));
        let reading = tokio::spawn(async move {
            let read = second.read_u8().await.unwrap_err();
            [read, second.write_u8(1).await.unwrap_err()]
        });
        tokio::task::yield_now().await;
        let _third = limit.enter(Some(IpAddr::from([10, 0, 0, 1])));
        for error in reading.await.unwrap() {
            assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn client_must_send_the_first_bytes_in_time_and_may_then_be_silent() {
        let open = || {
            let (client, server) = duplex(100);
            let place = ConnectionLimit::new(1).enter(None);
            (client, LimitedConnection::new(server, place))
        };
        let (mut client, mut server) = open();
        client.write_all(&[0; FIRST_BYTES - 1]).await.unwrap();
        let mut bytes = [0; FIRST_BYTES];
        let late = server.read_exact(&mut bytes).await.unwrap_err();
        assert_eq!(late.kind(), io::ErrorKind::TimedOut);

        let (mut client, mut server) = open();
        client.write_all(&[0; FIRST_BYTES]).await.unwrap();
        server.read_exact(&mut bytes).await.unwrap();
        time::advance(FIRST_BYTES_TIME * 2).await;
        client.write_all(&[1]).await.unwrap();
        assert_eq!(server.read_u8().await.unwrap(), 1);
    }
}
