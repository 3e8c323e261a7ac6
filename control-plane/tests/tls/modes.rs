//! The modes of listeners, with clients that speak TLS, plaintext, or wait for the server to speak first.

use evermesh_testkit::{envoy::EnvoyVersion, http::ByteStream, tools};
use http::StatusCode;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::{
    certificates::{Authority, SecretVolume},
    client::{self, connect},
    hosts::{COLOR, TlsHosts, color, file_certificate, front, listener, service},
};

/// Reads the greeting of a TCP application without sending anything.
async fn greeting(mut stream: impl ByteStream) -> Option<String> {
    let mut text = Vec::new();
    while !text.ends_with(b"\n") {
        text.push(stream.read_u8().await.ok()?);
    }
    Some(String::from_utf8(text).unwrap())
}

#[tokio::test]
async fn listener_accepts_what_its_mode_says() {
    let authority = Authority::new();
    let folder = tools::scratch("tls").unwrap();
    let path = folder.path().join("color");
    SecretVolume::mount_certificate(path, &authority.sign(COLOR), authority.pem());
    let strict = format!("mode: STRICT, {}", file_certificate("color"));
    let permissive = format!("mode: PERMISSIVE, {}", file_certificate("color"));
    let color = color(&[
        listener(8001, "http", &strict),
        listener(8002, "http", &permissive),
        listener(9000, "tcp", &strict),
        listener(9001, "tcp", &permissive),
        listener(9002, "tcp", ""),
    ]);
    let manifests = format!("{color}{}{}", front(&[("color", "")]), service("color"));
    let hosts = TlsHosts::start(EnvoyVersion::Newest, folder, &manifests).await;
    let _color = hosts.color_envoy().await;
    let _front = hosts.front_envoy().await;
    let ca = authority.pem();

    for port in [8001, 8002] {
        let stream = connect(&hosts.direct(port), COLOR, ca, None).await.unwrap();
        assert_eq!(
            client::get(stream, COLOR, "/").await.unwrap(),
            200,
            "{port}"
        );
        assert_eq!(hosts.call("color", port).await, StatusCode::OK, "{port}");
    }
    hosts.direct(8002).get("/").await.unwrap();
    let refused = hosts.direct(8001).get("/").await;
    refused.expect_err("plaintext to a STRICT listener");

    // The server speaks first. Nothing but the ports that accept both waits for the client.
    for port in [9000, 9002] {
        let stream = hosts.egress(port).connect().await.unwrap();
        let expected = Some(format!("tcp-{port}\n"));
        assert_eq!(greeting(stream).await, expected, "from front");
    }
    let stream = hosts.direct(9002).connect().await.unwrap();
    assert_eq!(greeting(stream).await.unwrap(), "tcp-9002\n");
    let mut stream = hosts.direct(9000).connect().await.unwrap();
    stream.write_all(b"plaintext").await.unwrap();
    let refused = greeting(stream).await;
    assert_eq!(refused, None, "plaintext to a STRICT listener");
    for port in [9000, 9001] {
        let stream = connect(&hosts.direct(port), COLOR, ca, None).await.unwrap();
        assert_eq!(greeting(stream).await.unwrap(), format!("tcp-{port}\n"));
    }
    let mut stream = hosts.direct(9001).connect().await.unwrap();
    stream.write_all(b"client first").await.unwrap();
    assert_eq!(greeting(stream).await.unwrap(), "tcp-9001\n");
    hosts.has_no_error().await;
}
