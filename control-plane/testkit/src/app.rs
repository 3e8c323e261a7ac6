//! The servers behind the proxies, and the processes that hold the namespaces of a host or pod.
//!
//! `evermesh-test-app` runs them; tests may also run the servers inside their own process.

pub mod scripted;
pub mod switched;

use std::{
    convert::Infallible, fmt::Write as _, io, net::SocketAddr, path::Path, sync::Arc,
    time::Duration,
};

use anyhow::Result;
use bytes::Bytes;
use futures::{StreamExt as _, stream};
use h2::Reason;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{body::Frame, service::service_fn, upgrade::OnUpgrade};
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

use self::scripted::{Answer, Attempt};

/// The line that ends an agent.
pub const END: &str = "end";

/// Runs [`serve_http_on`] at an address.
pub async fn serve_http(listen: SocketAddr, name: &str) -> Result<()> {
    serve_http_on(TcpListener::bind(listen).await?, name).await
}

/// Answers every request with `name`, over HTTP/1.1 and cleartext HTTP/2.
///
/// Response headers describe the request: `x-seen-method`, `x-seen-host`, `x-seen-path`, `x-seen-headers` and
/// `x-seen-port`, the port that received it.
/// The query can set the status and delay the response: `/?status=503&delay_ms=100`.
/// A request can contain a script for its attempts, see [`scripted`]. A test can switch the status for a path and the
/// state of the gRPC health service, see [`switched`].
/// WebSocket upgrades are accepted and then echo bytes, without the frames of the WebSocket protocol.
pub async fn serve_http_on(listener: TcpListener, name: &str) -> Result<()> {
    let name = Bytes::from(name.to_owned());
    let port = listener.local_addr()?.port();
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let name = name.clone();
        tokio::spawn(async move {
            let service = service_fn(|request| respond(request, port, name.clone()));
            // An error of one connection does not concern the others.
            let _ = auto::Builder::new(TokioExecutor::new())
                .serve_connection_with_upgrades(TokioIo::new(stream), service)
                .await;
        });
    }
}

type ResponseBody = UnsyncBoxBody<Bytes, Infallible>;

/// An error resets the stream (HTTP/2) or closes the connection (HTTP/1.1).
async fn respond<B>(
    mut request: Request<B>,
    port: u16,
    name: Bytes,
) -> Result<Response<ResponseBody>, h2::Error> {
    let query = request.uri().query().unwrap_or_default();
    let key = parameter(query, "key").unwrap_or_default();
    match request.uri().path() {
        scripted::ATTEMPTS => return Ok(Response::new(text(scripted::attempts(key).to_string()))),
        scripted::RELEASE => {
            scripted::release(key);
            return Ok(Response::new(text("released")));
        }
        switched::GRPC_HEALTH => return Ok(switched::grpc_health()),
        _ => {}
    }
    let status = parameter(query, "status").and_then(|status| status.parse().ok());
    if request.uri().path() == switched::SWITCH {
        let path = parameter(query, "path").unwrap_or_default();
        switched::switch(path, status.unwrap_or(StatusCode::OK));
        return Ok(Response::new(text("switched")));
    }
    let status = switched::status(request.uri().path())
        .or(status)
        .unwrap_or(StatusCode::OK);
    if let Some(delay) = parameter(query, "delay_ms").and_then(|delay| delay.parse().ok()) {
        tokio::time::sleep(Duration::from_millis(delay)).await;
    }

    let mut response = Response::new(Full::new(name).boxed_unsync());
    *response.status_mut() = status;
    describe(&request, port, response.headers_mut());
    let upgrade = request.extensions_mut().remove::<OnUpgrade>();
    if let Some(upgrade) = upgrade.filter(|_| request.headers().contains_key(header::UPGRADE)) {
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        for name in [header::CONNECTION, header::UPGRADE] {
            if let Some(value) = request.headers().get(&name) {
                response.headers_mut().insert(name, value.clone());
            }
        }
        tokio::spawn(echo(upgrade));
        return Ok(response);
    }
    match scripted::attempt(request.headers()) {
        Ok(None) => Ok(response),
        Ok(Some(attempt)) => answer(attempt, response).await,
        Err(error) => {
            *response.status_mut() = StatusCode::BAD_REQUEST;
            *response.body_mut() = text(format!("{error:#}"));
            Ok(response)
        }
    }
}

/// Adds the headers that describe the request.
fn describe<B>(request: &Request<B>, port: u16, response: &mut HeaderMap) {
    let uri = request.uri();
    let authority = uri
        .authority()
        .map(|authority| authority.as_str().as_bytes());
    let host = authority
        .or_else(|| Some(request.headers().get(header::HOST)?.as_bytes()))
        .unwrap_or_default();
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let mut headers = String::new();
    for (name, value) in request.headers() {
        write!(headers, "{name}={};", value.to_str().unwrap_or("?"))
            .expect("writing to a string succeeds");
    }
    for (seen, value) in [
        ("x-seen-method", request.method().as_str().as_bytes()),
        ("x-seen-host", host),
        ("x-seen-path", path.as_bytes()),
        ("x-seen-headers", headers.as_bytes()),
        ("x-seen-port", port.to_string().as_bytes()),
    ] {
        if let Ok(value) = HeaderValue::from_bytes(value) {
            response.insert(seen, value);
        }
    }
}

/// Answers as the script demands; `response` is what a request without a script gets.
async fn answer(
    attempt: Attempt,
    mut response: Response<ResponseBody>,
) -> Result<Response<ResponseBody>, h2::Error> {
    let headers = response.headers_mut();
    headers.insert("x-seen-attempt", attempt.number.into());
    let mut released = attempt.released;
    match attempt.answer {
        Answer::Status(status) => *response.status_mut() = status,
        Answer::Grpc(status) => {
            headers.insert("grpc-status", status.into());
            headers.insert(
                header::CONTENT_TYPE,
                HeaderValue::from_static("application/grpc"),
            );
            *response.body_mut() = Full::default().boxed_unsync();
        }
        Answer::Reset => return Err(Reason::INTERNAL_ERROR.into()),
        Answer::Refuse => return Err(Reason::REFUSED_STREAM.into()),
        Answer::Hold => {
            // Fails only if the sender is gone, and keys live as long as the process.
            let _ = released.wait_for(|released| *released).await;
        }
        Answer::Stall => {
            let rest = stream::once(async move {
                let _ = released.wait_for(|released| *released).await;
                Ok(Frame::data(Bytes::from_static(b"rest")))
            });
            let first = stream::once(async { Ok(Frame::data(Bytes::from_static(b"first "))) });
            *response.body_mut() = StreamBody::new(first.chain(rest)).boxed_unsync();
        }
    }
    Ok(response)
}

fn text(text: impl Into<Bytes>) -> ResponseBody {
    Full::new(text.into()).boxed_unsync()
}

/// Echoes the bytes of an upgraded connection.
async fn echo(upgrade: OnUpgrade) -> io::Result<()> {
    let stream = TokioIo::new(upgrade.await.map_err(io::Error::other)?);
    let (mut reader, mut writer) = tokio::io::split(stream);
    tokio::io::copy(&mut reader, &mut writer).await.map(drop)
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

    async fn response_to(request: http::request::Builder) -> Response<ResponseBody> {
        let request = request.body(()).expect("a valid request");
        respond(request, 80, Bytes::from_static(b"blue"))
            .await
            .expect("a request without a script is not reset")
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
            ("x-seen-port", "80"),
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
