//! Scripted and switched answers of the test application over real connections, with both versions of HTTP.

#![allow(clippy::unwrap_used)] // a panic fails the test

use std::net::SocketAddr;

use anyhow::Result;
use evermesh_testkit::{
    app::{self, scripted, switched},
    http::{Address, HttpResponse},
};
use http::{Request, StatusCode};
use http_body_util::Full;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

/// A server on a free loopback port, which runs until the runtime of the test ends.
async fn server() -> Address {
    let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0)))
        .await
        .unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { app::serve_http_on(listener, "blue").await });
    Address::Tcp(address)
}

async fn send(server: &Address, http2: bool, script: &str, key: &str) -> Result<HttpResponse> {
    let request = Request::get("http://color.shop/")
        .header("host", "color.shop")
        .header(scripted::SCRIPT, script)
        .header(scripted::KEY, key)
        .body(Full::default())?;
    if http2 {
        server.send_http2(request).await
    } else {
        server.send(request).await
    }
}

async fn attempts(server: &Address, key: &str) -> String {
    let path = format!("{}?key={key}", scripted::ATTEMPTS);
    server.get(&path).await.unwrap()
}

#[tokio::test]
async fn attempts_are_answered_in_the_order_of_the_script() {
    let server = server().await;
    for http2 in [false, true] {
        let key = format!("order-{http2}");
        let send = async || send(&server, http2, "503 reset refuse grpc-14 200", &key).await;
        let first = send().await.unwrap();
        assert_eq!(first.status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(first.headers["x-seen-attempt"], "1");
        for reason in ["unexpected internal error", "refused stream"] {
            let error = format!("{:#}", send().await.unwrap_err());
            assert!(!http2 || error.contains(reason), "{error}");
        }
        assert_eq!(send().await.unwrap().headers["grpc-status"], "14");
        assert_eq!(send().await.unwrap().body, "blue");
        assert_eq!(attempts(&server, &key).await, "5");
    }
}

#[tokio::test]
async fn held_and_stalled_answers_end_with_the_release() {
    let server = server().await;
    for http2 in [false, true] {
        let key = format!("release-{http2}");
        let (held, stalled, ()) = tokio::join!(
            send(&server, http2, "hold", &key),
            send(&server, http2, "stall", &key),
            async {
                while attempts(&server, &key).await != "2" {}
                let path = format!("{}?key={key}", scripted::RELEASE);
                server.get(&path).await.unwrap();
            }
        );
        assert_eq!(held.unwrap().body, "blue");
        assert_eq!(stalled.unwrap().body, "first rest");
    }
}

#[tokio::test]
async fn websocket_echoes() {
    let mut stream = server().await.connect().await.unwrap();
    let request = "GET / HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    assert!(head.starts_with(b"HTTP/1.1 101 "));
    stream.write_all(b"echo").await.unwrap();
    let mut echo = [0; 4];
    stream.read_exact(&mut echo).await.unwrap();
    assert_eq!(&echo, b"echo");
}

#[tokio::test]
async fn switched_path_keeps_its_status_until_it_is_switched_again() {
    let server = server().await;
    let switch = async |path: &str, status: u16| {
        let uri = format!("{}?path={path}&status={status}", switched::SWITCH);
        server.get(&uri).await.unwrap();
    };
    for is_ready in [true, false, true] {
        let status = if is_ready { 200 } else { 503 };
        switch("/ready", status).await;
        switch(switched::GRPC_HEALTH, status).await;
        assert_eq!(server.get("/ready?deep=1").await.is_ok(), is_ready);
        assert_eq!(server.get("/other").await.unwrap(), "blue");
        let health = Request::post(format!("http://color.shop{}", switched::GRPC_HEALTH));
        let health = health.body(Full::default()).unwrap();
        let health = server.send_http2(health).await.unwrap();
        // SERVING or NOT_SERVING, the last byte of the message
        assert!(
            health
                .body
                .ends_with(if is_ready { '\u{1}' } else { '\u{2}' })
        );
    }
}
