//! A small HTTP client for servers on loopback, behind Unix sockets and on lab hosts.

use std::{io, net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt as _},
    net::{TcpStream, UnixStream},
};

/// Limit for one request, from connecting to the end of the body.
const LIMIT: Duration = Duration::from_secs(10);

/// The address of a server, seen from this process.
#[derive(Clone, Debug)]
pub enum Address {
    /// A TCP port that this process can reach.
    Tcp(SocketAddr),
    Unix(PathBuf),
    /// A TCP port that the agent of a lab host connects to.
    Relayed {
        /// The Unix socket of the agent.
        agent: PathBuf,
        /// The address as the host sees it.
        target: SocketAddr,
    },
}

/// A bidirectional connection.
pub trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> ByteStream for S {}

/// A response whose body was read to its end.
#[derive(Clone, Debug)]
pub struct HttpResponse {
    pub status: StatusCode,
    pub headers: HeaderMap,
    /// The body; bytes that are not UTF-8 are replaced.
    pub body: String,
}

impl Address {
    /// Opens a connection.
    pub async fn connect(&self) -> io::Result<Box<dyn ByteStream>> {
        Ok(match self {
            Self::Tcp(address) => {
                let stream = TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
                Box::new(stream)
            }
            Self::Unix(path) => Box::new(UnixStream::connect(path).await?),
            Self::Relayed { agent, target } => {
                let mut stream = UnixStream::connect(agent).await?;
                stream.write_all(format!("{target}\n").as_bytes()).await?;
                Box::new(stream)
            }
        })
    }

    /// Sends one request with HTTP/1.1 over a new connection.
    pub async fn send(&self, request: Request<Full<Bytes>>) -> Result<HttpResponse> {
        let what = format!("{} {} at {self:?}", request.method(), request.uri());
        let exchange = async { exchange(self.connect().await?, request).await };
        within_limit(what, exchange).await
    }

    /// Sends one request with cleartext HTTP/2 over a new connection. The URI contains scheme and authority.
    pub async fn send_http2(&self, request: Request<Full<Bytes>>) -> Result<HttpResponse> {
        let what = format!("{} {} at {self:?}", request.method(), request.uri());
        let exchange = async {
            let stream = TokioIo::new(self.connect().await?);
            let (mut sender, connection) = http2::handshake(TokioExecutor::new(), stream).await?;
            let connection = tokio::spawn(connection);
            let response = HttpResponse::read(sender.send_request(request).await?).await;
            connection.abort();
            response
        };
        within_limit(what, exchange).await
    }

    /// Gets `path`; a status other than 2xx is an error.
    pub async fn get(&self, path: &str) -> Result<String> {
        self.expect_success(Method::GET, path).await
    }

    /// Posts to `path` without a body; a status other than 2xx is an error.
    pub async fn post(&self, path: &str) -> Result<String> {
        self.expect_success(Method::POST, path).await
    }

    async fn expect_success(&self, method: Method, path: &str) -> Result<String> {
        let request = Request::builder()
            .method(method.clone())
            .uri(path)
            .header("host", "localhost")
            .body(Full::default())?;
        let response = self.send(request).await?;
        if !response.status.is_success() {
            bail!(
                "{method} {path} at {self:?}: {} {}",
                response.status,
                response.body.trim()
            );
        }
        Ok(response.body)
    }
}

async fn exchange(
    stream: impl ByteStream + 'static,
    request: Request<Full<Bytes>>,
) -> Result<HttpResponse> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let response = HttpResponse::read(sender.send_request(request).await?).await;
    connection.abort();
    response
}

async fn within_limit(
    what: String,
    exchange: impl Future<Output = Result<HttpResponse>>,
) -> Result<HttpResponse> {
    tokio::time::timeout(LIMIT, exchange)
        .await
        .with_context(|| format!("{what}: no response within {LIMIT:?}"))?
        .context(what)
}

impl HttpResponse {
    /// Reads the body to its end.
    async fn read(response: Response<Incoming>) -> Result<Self> {
        let (head, body) = response.into_parts();
        let body = body.collect().await?.to_bytes();
        Ok(Self {
            status: head.status,
            headers: head.headers,
            body: String::from_utf8_lossy(&body).into_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, duplex};

    use super::*;

    /// The result of a request that a server answers with these bytes before it closes the connection.
    async fn answered(response: &[u8]) -> Result<HttpResponse> {
        let (client, mut server) = duplex(4096);
        let request = Request::get("/path")
            .header("host", "localhost")
            .body(Full::default())?;
        let serve = async {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(server.read_u8().await.expect("a whole request"));
            }
            assert!(head.starts_with(b"GET /path HTTP/1.1\r\n"));
            server.write_all(response).await.expect("the client reads");
            drop(server);
        };
        tokio::join!(exchange(client, request), serve).0
    }

    #[tokio::test]
    async fn response_has_status_headers_and_whole_body() {
        let response = answered(
            b"HTTP/1.1 503 Service Unavailable\r\nx-team: blue\r\ntransfer-encoding: chunked\r\n\r\n\
              3\r\nno \r\n4\r\nhost\r\n0\r\n\r\n",
        )
        .await
        .expect("a whole response");
        assert_eq!(response.status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(response.headers["x-team"], "blue");
        assert_eq!(response.body, "no host");
    }

    #[tokio::test]
    async fn bytes_that_are_not_utf8_are_replaced() {
        let response = answered(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\na\xffb")
            .await
            .expect("a whole response");
        assert_eq!(response.body, "a\u{fffd}b");
    }

    #[tokio::test]
    async fn broken_response_is_an_error() {
        answered(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nshort")
            .await
            .expect_err("the body is cut off");
        answered(b"").await.expect_err("there is no response");
    }
}
