//! The load client counts what a server answers, and the server answers what it is asked for.

use std::{net::SocketAddr, time::Duration};

use evermesh_testkit::{app, http::Address, load::Load};
use http::Request;
use http_body_util::Full;
use tokio::net::TcpListener;

/// A server on a free port of loopback, for as long as the test's runtime lives.
async fn server() -> Address {
    let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0)))
        .await
        .expect("loopback has a free port");
    let address = listener.local_addr().expect("a listener has an address");
    drop(listener);
    tokio::spawn(async move { app::serve_http(address, "blue").await });
    let address = Address::Tcp(address);
    while address.get("/").await.is_err() {
        tokio::task::yield_now().await;
    }
    address
}

fn load(target: Address, path: &str) -> Load {
    Load {
        target,
        host: "color.demo.local".to_owned(),
        path: path.to_owned(),
        rate: 100,
        duration: Duration::from_millis(1500),
        http2: false,
    }
}

#[tokio::test]
async fn answers_are_counted_by_second_and_altogether() {
    let target = server().await;
    for http2 in [false, true] {
        let mut seconds = Vec::new();
        let load = Load {
            http2,
            ..load(target.clone(), "/?delay_ms=5")
        };
        let total = load
            .run(|second| seconds.push(second.clone()))
            .await
            .unwrap();
        assert_eq!(total.answers, [("blue".to_owned(), 150)].into());
        assert_eq!((total.requests(), total.failed()), (150, 0));
        assert!(
            total.p50_ms >= 5.0 && total.p50_ms <= total.p99_ms && total.p99_ms <= total.max_ms,
            "{total:?}"
        );
        // The second one has not ended when the load does.
        assert_eq!(seconds.len(), 1);
        assert!((90..=110).contains(&seconds[0].requests()), "{seconds:?}");
    }
}

#[tokio::test]
async fn failures_are_counted_with_their_reason() {
    let target = server().await;
    let total = load(target, "/?status=503").run(|_| ()).await.unwrap();
    assert_eq!(total.statuses, [(503, 150)].into());
    assert_eq!((total.requests(), total.failed()), (150, 150));

    // Port 1 of loopback refuses.
    let nobody = Address::Tcp(SocketAddr::from(([127, 0, 0, 1], 1)));
    let total = load(nobody, "/").run(|_| ()).await.unwrap();
    assert_eq!((total.requests(), total.failed()), (150, 150));
    assert!(
        total.errors.keys().all(|reason| reason.contains("refused")),
        "{total:?}"
    );
}

#[tokio::test]
async fn the_server_tells_what_it_saw() {
    let request = Request::put("/a/b?c=d")
        .header("host", "color.demo.local")
        .header("x-team", "blue");
    let answer = server()
        .await
        .send(request.body(Full::default()).unwrap())
        .await
        .unwrap();
    let seen = |name: &str| answer.headers[name].to_str().unwrap();
    assert_eq!(seen("x-seen-method"), "PUT");
    assert_eq!(seen("x-seen-host"), "color.demo.local");
    assert_eq!(seen("x-seen-path"), "/a/b?c=d");
    assert!(seen("x-seen-headers").contains("x-team=blue;"));
}
