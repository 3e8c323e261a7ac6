//! The servers behind the proxies, and the processes that hold the namespaces of a host or pod.
//!
//! `evermesh-test-app` runs them; tests may also run the servers inside their own process.

use std::{
    convert::Infallible, fmt::Write as _, io, net::SocketAddr, path::Path, sync::Arc,
    time::Duration,
};

use anyhow::Result;
use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::service::service_fn;
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

/// The line that ends an agent.
pub const END: &str = "end";

/// Runs [`serve_http_on`] at an address.
pub async fn serve_http(listen: SocketAddr, name: &str) -> Result<()> {
    serve_http_on(TcpListener::bind(listen).await?, name).await
}

/// Answers every request with `name`, over HTTP/1.1 and cleartext HTTP/2.
///
/// Response headers describe the request: `x-seen-method`, `x-seen-host`, `x-seen-path` and `x-seen-headers`.
/// The query can set the status and delay the response: `/?status=503&delay_ms=100`.
pub async fn serve_http_on(listener: TcpListener, name: &str) -> Result<()> {
    let name = Bytes::from(name.to_owned());
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let name = name.clone();
        tokio::spawn(async move {
            let service = service_fn(|request| respond(request, name.clone()));
            // An error of one connection does not concern the others.
            let _ = auto::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

async fn respond<B>(request: Request<B>, name: Bytes) -> Result<Response<Full<Bytes>>, Infallible> {
    let query = request.uri().query().unwrap_or_default();
    let status = parameter(query, "status")
        .and_then(|status| status.parse().ok())
        .unwrap_or(StatusCode::OK);
    if let Some(delay) = parameter(query, "delay_ms").and_then(|delay| delay.parse().ok()) {
        tokio::time::sleep(Duration::from_millis(delay)).await;
    }

    let authority = request
        .uri()
        .authority()
        .map(|authority| authority.as_str().as_bytes());
    let host = authority
        .or_else(|| Some(request.headers().get(http::header::HOST)?.as_bytes()))
        .unwrap_or_default();
    let path = request
        .uri()
        .path_and_query()
        .map_or("/", |path| path.as_str());
    let mut headers = String::new();
    for (name, value) in request.headers() {
        write!(headers, "{name}={};", value.to_str().unwrap_or("?"))
            .expect("writing to a string succeeds");
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

/// The value of a query parameter, not decoded.
fn parameter<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    query
        .split('&')
        .find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
}

/// Sends `name` and a newline on every connection before it reads, then echoes.
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

/// Reaps every child that ends, forever. Process 1 of a PID namespace must do so, because orphans become its children.
pub async fn reap() -> Result<()> {
    let mut ended = signal(SignalKind::child())?;
    loop {
        // One signal can stand for several children; an error means that no child is left.
        while let Ok(Some(_)) = process::wait(WaitOptions::NOHANG) {}
        ended.recv().await;
    }
}

/// Connects each client of a Unix socket to the TCP address in its first line, until a client sends [`END`].
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

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    async fn response_to(request: http::request::Builder) -> Response<Full<Bytes>> {
        let request = request.body(()).expect("a valid request");
        let Ok(response) = respond(request, Bytes::from_static(b"blue")).await;
        response
    }

    #[tokio::test]
    async fn response_describes_the_request() {
        let request = Request::put("/a/b?c=d")
            .header("host", "color.demo.local")
            .header("x-team", "blue");
        let response = response_to(request).await;
        assert_eq!(response.status(), StatusCode::OK);
        for (header, value) in [
            ("x-seen-method", "PUT"),
            ("x-seen-host", "color.demo.local"),
            ("x-seen-path", "/a/b?c=d"),
            ("x-seen-headers", "host=color.demo.local;x-team=blue;"),
        ] {
            assert_eq!(response.headers()[header], value);
        }
    }

    #[tokio::test]
    async fn authority_of_http2_is_the_seen_host() {
        let response = response_to(Request::get("http://color.demo.local/")).await;
        assert_eq!(response.headers()["x-seen-host"], "color.demo.local");
        assert_eq!(response.headers()["x-seen-path"], "/");
    }

    #[tokio::test(start_paused = true)]
    async fn query_sets_status_and_delay() {
        let start = Instant::now();
        let response = response_to(Request::get("/?status=503&delay_ms=100")).await;
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(start.elapsed(), Duration::from_millis(100));
        let response = response_to(Request::get("/?status=none&statuses=404")).await;
        assert_eq!(response.status(), StatusCode::OK);
    }
}
