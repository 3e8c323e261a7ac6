//! The load generator over real connections: both protocols, and reasons of failures.

#![allow(clippy::unwrap_used)] // a panic fails the test

use std::{net::SocketAddr, time::Duration};

use evermesh_testkit::{app, http::Address, load::Load, port::ReservedPort};
use tokio::net::TcpListener;

/// A server on a free loopback port, which runs until the runtime of the test ends.
async fn server() -> Address {
    let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0)))
        .await
        .unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { app::serve_http_on(listener, "blue").await });
    Address::Tcp(address)
}

fn load(target: Address, path: &str) -> Load {
    Load {
        target,
        host: "color.demo.local".to_owned(),
        path: path.to_owned(),
        rate: 100,
        duration: Duration::from_millis(500),
        http2: false,
    }
}

#[tokio::test]
async fn every_request_is_answered_over_both_protocols() {
    let target = server().await;
    for http2 in [false, true] {
        let load = Load {
            http2,
            ..load(target.clone(), "/")
        };
        let total = load.run(|_| ()).await.unwrap();
        assert_eq!(total.answers, [("blue".to_owned(), 50)].into());
        assert_eq!((total.requests(), total.failed()), (50, 0));
    }
}

#[tokio::test]
async fn bad_status_is_a_failure() {
    let load = load(server().await, "/?status=503");
    let total = load.run(|_| ()).await.unwrap();
    assert_eq!(total.statuses, [(503, 50)].into());
    assert_eq!((total.requests(), total.failed()), (50, 50));
}

#[tokio::test]
async fn refused_connection_is_a_failure_with_its_reason() {
    let port = ReservedPort::reserve().unwrap();
    let load = load(Address::Tcp(port.address()), "/");
    let total = load.run(|_| ()).await.unwrap();
    assert_eq!((total.requests(), total.failed()), (50, 50));
    assert!(
        total.errors.keys().all(|reason| reason.contains("refused")),
        "{total:?}"
    );
}
