//! A request to a service, and what the response says about it.

use evermesh_testkit::{
    app::scripted,
    http::{Address, HttpResponse},
};
use http::{Method, Request};
use http_body_util::Full;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::mesh_hosts::TARGETS;

/// A request; the sender adds the host name.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    method: Method,
    /// A host name that replaces the one that the sender gives.
    host: Option<String>,
    path: String,
    headers: Vec<(String, String)>,
    /// The scheme, if the request is sent with HTTP/2.
    http2: Option<&'static str>,
}

pub(crate) fn get(path: &str) -> Call {
    Call {
        method: Method::GET,
        host: None,
        path: path.to_owned(),
        headers: Vec::new(),
        http2: None,
    }
}

/// A gRPC call of a method such as `/shop.Cart/Add`.
pub(crate) fn grpc(path: &str) -> Call {
    get(path)
        .method(Method::POST)
        .http2()
        .header("content-type", "application/grpc")
        .header("te", "trailers")
}

impl Call {
    pub(crate) fn method(self, method: Method) -> Self {
        Self { method, ..self }
    }

    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn host(self, host: &str) -> Self {
        Self {
            host: Some(host.to_owned()),
            ..self
        }
    }

    pub(crate) fn http2(self) -> Self {
        self.scheme("http")
    }

    /// Sends the request with HTTP/2 and this scheme.
    pub(crate) fn scheme(self, scheme: &'static str) -> Self {
        Self {
            http2: Some(scheme),
            ..self
        }
    }

    /// Adds a script for the attempts, see [`scripted`].
    pub(crate) fn script(self, script: &str, key: &str) -> Self {
        self.header(scripted::SCRIPT, script)
            .header(scripted::KEY, key)
    }

    /// Sends the request with the host name `host`, which may contain a port.
    pub(crate) async fn send(&self, address: &Address, host: &str) -> HttpResponse {
        self.try_send(address, host).await.unwrap()
    }

    pub(crate) async fn try_send(
        &self,
        address: &Address,
        host: &str,
    ) -> anyhow::Result<HttpResponse> {
        let host = self.host.as_deref().unwrap_or(host);
        let mut request = Request::builder().method(self.method.clone());
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        if let Some(scheme) = self.http2 {
            let request = request.uri(format!("{scheme}://{host}{}", self.path));
            return address.send_http2(request.body(Full::default())?).await;
        }
        let request = request.uri(&self.path).header("host", host);
        address.send(request.body(Full::default())?).await
    }
}

/// Upgrades a connection to WebSocket, checks that it echoes, and returns the head of the response.
pub(crate) async fn websocket(address: &Address, host: &str, path: &str) -> String {
    let mut stream = address.connect().await.unwrap();
    let request = format!(
        "GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    let head = String::from_utf8(head).unwrap();
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    stream.write_all(b"echo").await.unwrap();
    let mut echo = [0; 4];
    stream.read_exact(&mut echo).await.unwrap();
    assert_eq!(&echo, b"echo");
    head
}

/// The number of the target that received the request: 3 for `t3` and `g3`; `None` if no target did.
pub(crate) fn target(response: &HttpResponse) -> Option<u16> {
    let port: u16 = response
        .headers
        .get("x-seen-port")?
        .to_str()
        .ok()?
        .parse()
        .ok()?;
    port.checked_sub(TARGETS)
}

/// A header of the response as text, empty if absent.
pub(crate) fn header<'a>(response: &'a HttpResponse, name: &str) -> &'a str {
    let value = response.headers.get(name);
    value
        .map(|value| value.to_str().unwrap())
        .unwrap_or_default()
}

/// The value of a header as the application received it.
pub(crate) fn seen_header<'a>(response: &'a HttpResponse, name: &str) -> Option<&'a str> {
    let mut headers = header(response, "x-seen-headers").split(';');
    headers.find_map(|it| it.strip_prefix(name)?.strip_prefix('='))
}
