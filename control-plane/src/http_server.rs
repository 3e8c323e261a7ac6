//! Serves HTTP on the listeners of the pages and the webhooks.

use std::{io, time::Duration};

use axum::Router;
use futures::{Stream, StreamExt};
use hyper::service::{Service as _, service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto::Builder,
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    task::JoinSet,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

/// Longest time to the end of a request's head, from the end of the request before it. API servers close a connection
/// that was idle for 90 s; the server must not do it before them, because a request could be on its way.
const HEAD_TIME: Duration = Duration::from_mins(2);

/// Interval of HTTP/2 pings, and the time for the answer.
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_TIME: Duration = Duration::from_secs(20);

/// Open requests of one HTTP/2 connection.
const STREAMS_PER_CONNECTION: u32 = 250;

/// Serves each connection until `shutdown`, and then lets open requests finish for `grace` at most.
///
/// From `leaving` on, a connection ends after the requests that are open (HTTP/2: GOAWAY), so that its client connects
/// elsewhere. A connection that has had no request yet ends after its first one, because a client need not repeat a
/// request that was not answered.
pub(crate) async fn serve<S>(
    incoming: impl Stream<Item = io::Result<S>>,
    router: Router,
    leaving: CancellationToken,
    shutdown: CancellationToken,
    grace: Duration,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut http = Builder::new(TokioExecutor::new());
    http.http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME);
    http.http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIME)
        .max_concurrent_streams(STREAMS_PER_CONNECTION);
    let mut connections = JoinSet::new();
    let mut incoming = Box::pin(incoming);
    loop {
        let connection = tokio::select! {
            connection = incoming.next() => connection,
            () = shutdown.cancelled() => break,
        };
        let Some(Ok(connection)) = connection else {
            break;
        };
        let router = TowerToHyperService::new(router.clone());
        let (http, leaving, shutdown) = (http.clone(), leaving.clone(), shutdown.clone());
        connections.spawn(async move {
            let used = CancellationToken::new();
            let service = service_fn(|request| {
                used.cancel();
                router.call(request)
            });
            let mut serving = Box::pin(http.serve_connection(TokioIo::new(connection), service));
            let left = async {
                leaving.cancelled().await;
                used.cancelled().await;
            };
            // An error means that the client has gone or has broken the protocol.
            tokio::select! {
                _ = serving.as_mut() => return,
                () = left => {}
                () = shutdown.cancelled() => {}
            }
            serving.as_mut().graceful_shutdown();
            let _ = serving.await;
        });
        while connections.try_join_next().is_some() {}
    }
    drop(incoming);
    let all = async { while connections.join_next().await.is_some() {} };
    let _ = timeout(grace, all).await;
}
