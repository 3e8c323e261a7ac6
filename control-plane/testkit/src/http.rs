//! A small HTTP client that reaches servers on loopback, behind Unix sockets and inside the hosts of a lab.

use std::{io, net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt as _},
    net::{TcpStream, UnixStream},
};

/// Longer than any answer that a local server owes us.
const LIMIT: Duration = Duration::from_secs(10);

/// Where a server is, seen from this process.
#[derive(Clone, Debug)]
pub enum Address {
    /// A TCP port that this process reaches itself.
    Tcp(SocketAddr),
    /// A Unix socket.
    Unix(PathBuf),
    /// A TCP port that the agent of a lab's host connects to.
    Relayed {
        /// The Unix socket of the agent.
        agent: PathBuf,
        /// The address as the host sees it.
        target: SocketAddr,
    },
}

/// A byte stream of either kind.
pub trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> ByteStream for S {}

/// An answer, read to its end.
#[derive(Clone, Debug)]
pub struct HttpResponse {
    /// The status code.
    pub status: StatusCode,
    /// The headers.
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

    /// Sends one request over a connection of its own.
    pub async fn send(&self, request: Request<Full<Bytes>>) -> Result<HttpResponse> {
        let what = format!("{} {} at {self:?}", request.method(), request.uri());
        let exchange = async {
            let (mut sender, connection) =
                hyper::client::conn::http1::handshake(TokioIo::new(self.connect().await?)).await?;
            let connection = tokio::spawn(connection);
            let response = sender.send_request(request).await?;
            let (head, body) = response.into_parts();
            let body = body.collect().await?.to_bytes();
            connection.abort();
            anyhow::Ok(HttpResponse {
                status: head.status,
                headers: head.headers,
                body: String::from_utf8_lossy(&body).into_owned(),
            })
        };
        tokio::time::timeout(LIMIT, exchange)
            .await
            .with_context(|| format!("{what}: no answer in time"))?
            .context(what)
    }

    /// Gets `path` and expects success.
    pub async fn get(&self, path: &str) -> Result<String> {
        let request = Request::get(path)
            .header("host", "localhost")
            .body(Full::default())?;
        let answer = self.send(request).await?;
        if !answer.status.is_success() {
            bail!(
                "GET {path} at {self:?}: {} {}",
                answer.status,
                answer.body.trim()
            );
        }
        Ok(answer.body)
    }

    /// Posts to `path`, without a body, and expects success.
    pub async fn post(&self, path: &str) -> Result<String> {
        let request = Request::post(path)
            .header("host", "localhost")
            .body(Full::default())?;
        let answer = self.send(request).await?;
        if !answer.status.is_success() {
            bail!(
                "POST {path} at {self:?}: {} {}",
                answer.status,
                answer.body.trim()
            );
        }
        Ok(answer.body)
    }
}
