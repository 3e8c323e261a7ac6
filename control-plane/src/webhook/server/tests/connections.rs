//! Certificates of connections, and their end.

use hyper::client::conn::http2;
use hyper_util::rt::TokioExecutor;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    task::JoinHandle,
    time::timeout,
};

use super::*;

#[tokio::test]
async fn new_certificate_applies_to_new_connections_only() {
    let (first, second) = (material(), material());
    let server = start(Duration::ZERO).await;
    server.surroundings.send_replace(Some(a_mesh()));
    assert!(
        server.connect(&first.bundle).await.is_err(),
        "no certificate is loaded yet"
    );
    take(&server.certificates, &first);
    let mut open = server.connect(&first.bundle).await.unwrap();
    let (status, _) = post(&mut open, VALIDATE, creation(&node(&json!({})))).await;
    assert_eq!(status, 200);

    take(&server.certificates, &second);
    let (status, _) = post(&mut open, VALIDATE, creation(&node(&json!({})))).await;
    assert_eq!(status, 200, "the open connection stays usable");
    assert!(
        server.connect(&first.bundle).await.is_err(),
        "new connections get the new certificate"
    );
    assert!(server.connect(&second.bundle).await.is_ok());

    let wrong = server.certificates.replace(
        first.serving.certificate.as_bytes(),
        second.serving.key.as_bytes(),
    );
    assert!(wrong.is_err(), "the key belongs to another certificate");
    assert!(
        server.connect(&second.bundle).await.is_ok(),
        "the last good certificate stays in use"
    );
}

#[tokio::test]
async fn open_request_is_answered_after_the_shutdown_begins() {
    const CONTINUE: &[u8; 25] = b"HTTP/1.1 100 Continue\r\n\r\n";

    let server = start(Duration::ZERO).await;
    server.surroundings.send_replace(Some(a_mesh()));
    let material = material();
    take(&server.certificates, &material);
    let mut idle = server.connect_tls(&material.bundle).await.unwrap();
    let mut open = server.connect_tls(&material.bundle).await.unwrap();

    let body = creation(&node(&json!({})));
    let head = format!(
        "POST {VALIDATE} HTTP/1.1\r\nhost: webhook.test\r\ncontent-length: {}\r\nexpect: 100-continue\r\n\r\n",
        body.len()
    );
    open.write_all(head.as_bytes()).await.unwrap();
    // The server sends this when the handler begins to read the body, so the request is open from here on.
    let mut interim = [0; CONTINUE.len()];
    let read = timeout(DEADLINE, open.read_exact(&mut interim)).await;
    read.unwrap().unwrap();
    assert_eq!(&interim, CONTINUE);

    server.shutdown.cancel();
    // A graceful shutdown closes idle connections at once. A TLS stream may end without close_notify, hence no unwrap.
    let mut rest = Vec::new();
    let _end = timeout(DEADLINE, idle.read_to_end(&mut rest))
        .await
        .unwrap();

    open.write_all(body.as_bytes()).await.unwrap();
    let mut response = Vec::new();
    let _end = timeout(DEADLINE, open.read_to_end(&mut response))
        .await
        .unwrap();
    let response = String::from_utf8(response).unwrap();
    assert!(response.starts_with("HTTP/1.1 200 OK"), "{response}");
    assert!(response.contains("\"allowed\":true"), "{response}");
}

/// A connection as API servers keep them.
struct Http2Connection {
    requests: http2::SendRequest<Full<Bytes>>,
    running: JoinHandle<hyper::Result<()>>,
}

impl Http2Connection {
    async fn open(server: &Server, bundle: &str) -> Self {
        let stream = TokioIo::new(server.connect_tls(bundle).await.unwrap());
        let (requests, connection) = http2::handshake(TokioExecutor::new(), stream)
            .await
            .unwrap();
        Self {
            requests,
            running: tokio::spawn(connection),
        }
    }

    /// The status of the answer to a request.
    async fn post(&mut self) -> u16 {
        let url = format!("https://webhook.test{VALIDATE}");
        let body = Full::new(creation(&node(&json!({}))).into());
        let request = HttpRequest::post(url).body(body).unwrap();
        let answer = timeout(DEADLINE, self.requests.send_request(request)).await;
        answer.unwrap().unwrap().status().as_u16()
    }

    /// Waits until the server has ended the connection, in order.
    async fn ends(self) {
        let ended = timeout(DEADLINE, self.running).await;
        ended.unwrap().unwrap().unwrap();
    }
}

#[tokio::test]
async fn leaving_replica_keeps_no_connection_and_answers_each_request() {
    let server = start(Duration::ZERO).await;
    server.surroundings.send_replace(Some(a_mesh()));
    let material = material();
    take(&server.certificates, &material);
    let mut kept = Http2Connection::open(&server, &material.bundle).await;
    assert_eq!(kept.post().await, 200);
    let mut unused = Http2Connection::open(&server, &material.bundle).await;

    server.leaving.cancel();
    kept.ends().await;
    assert_eq!(unused.post().await, 200);
    unused.ends().await;
    let mut late = Http2Connection::open(&server, &material.bundle).await;
    assert_eq!(late.post().await, 200);
    late.ends().await;
}
