//! The applications behind the proxies: servers that answer with their name; and what holds a host or a pod.

use std::{
    convert::Infallible, fmt::Write as _, io, net::SocketAddr, path::Path, sync::Arc,
    time::Duration,
};

use anyhow::Result;
use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use rustix::process::{self, WaitOptions};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, copy_bidirectional},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    signal::unix::{SignalKind, signal},
    sync::Notify,
};

/// What is said to an agent that is to end.
pub const END: &str = "end";

/// Answers every request with `name`, over HTTP/1.1 and cleartext HTTP/2.
///
/// What the application saw goes back in the headers `x-seen-method`, `x-seen-host`, `x-seen-path` and `x-seen-headers`.
/// The query may ask for another `status` and for a delay, as in `/?status=503&delay_ms=100`.
pub async fn serve_http(listen: SocketAddr, name: &str) -> Result<()> {
    let name = Bytes::from(name.to_owned());
    let listener = TcpListener::bind(listen).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let name = name.clone();
        tokio::spawn(async move {
            let answer = service_fn(|request| answer(request, name.clone()));
            // A connection that breaks concerns its caller alone.
            let _ = auto::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), answer)
                .await;
        });
    }
}

async fn answer(
    request: Request<Incoming>,
    name: Bytes,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let query = request.uri().query().unwrap_or_default();
    let asked = |key: &str| {
        query
            .split('&')
            .find_map(|pair| pair.strip_prefix(key)?.strip_prefix('='))
    };
    let status = asked("status")
        .and_then(|status| status.parse().ok())
        .unwrap_or(StatusCode::OK);
    if let Some(delay) = asked("delay_ms").and_then(|delay| delay.parse().ok()) {
        tokio::time::sleep(Duration::from_millis(delay)).await;
    }

    let host = request
        .uri()
        .authority()
        .map(|authority| authority.as_str().as_bytes());
    let host = host
        .or_else(|| Some(request.headers().get(http::header::HOST)?.as_bytes()))
        .unwrap_or_default();
    let path = request
        .uri()
        .path_and_query()
        .map_or("/", |path| path.as_str());
    let mut headers = String::new();
    for (name, value) in request.headers() {
        write!(headers, "{name}={};", value.to_str().unwrap_or("?"))
            .expect("a string takes every header");
    }
    let mut response = Response::new(Full::new(name));
    *response.status_mut() = status;
    for (seen, value) in [
        ("x-seen-method", request.method().as_str().as_bytes()),
        ("x-seen-host", host),
        ("x-seen-path", path.as_bytes()),
        ("x-seen-headers", headers.as_bytes()),
    ] {
        if let Ok(value) = HeaderValue::from_bytes(value) {
            response.headers_mut().insert(seen, value);
        }
    }
    Ok(response)
}

/// Greets every connection with `name` before the caller says anything, then echoes.
pub async fn serve_tcp(listen: SocketAddr, name: &str) -> Result<()> {
    let greeting = format!("{name}\n");
    let listener = TcpListener::bind(listen).await?;
    loop {
        let (mut stream, _) = listener.accept().await?;
        let greeting = greeting.clone();
        tokio::spawn(async move {
            stream.write_all(greeting.as_bytes()).await?;
            let (mut reader, mut writer) = stream.split();
            tokio::io::copy(&mut reader, &mut writer).await
        });
    }
}

/// Waits for every child that ends, as the first process of a namespace must: orphans become its children.
pub async fn reap() -> Result<()> {
    let mut ended = signal(SignalKind::child())?;
    loop {
        // One signal may stand for several children; an error says that there are none.
        while let Ok(Some(_)) = process::wait(WaitOptions::NOHANG) {}
        ended.recv().await;
    }
}

/// Connects whoever comes by the Unix socket to the address that its first line names; [`END`] ends it.
pub async fn serve_agent(socket: &Path) -> Result<()> {
    let listener = UnixListener::bind(socket)?;
    let end = Arc::new(Notify::new());
    loop {
        let (stream, _) = tokio::select! {
            accepted = listener.accept() => accepted?,
            () = end.notified() => return Ok(()),
        };
        tokio::spawn(relay(stream, Arc::clone(&end)));
    }
}

async fn relay(stream: UnixStream, end: Arc<Notify>) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    stream.read_line(&mut line).await?;
    if line.trim() == END {
        end.notify_one();
        return Ok(());
    }
    let target: SocketAddr = line.trim().parse().map_err(io::Error::other)?;
    let mut target = TcpStream::connect(target).await?;
    target.set_nodelay(true)?;
    copy_bidirectional(&mut stream, &mut target).await?;
    Ok(())
}
