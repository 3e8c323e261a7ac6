//! Lab hosts: connections between them, a host that is disconnected, and interception.

#![allow(clippy::unwrap_used)] // a panic fails the test

use std::{
    net::{Ipv4Addr, SocketAddr},
    pin::pin,
    time::Duration,
};

use evermesh_testkit::{
    envoy::{Envoy, EnvoyOptions, EnvoyVersion},
    hosts::{Lab, LabHost},
    interception::Interception,
    load::Load,
    wait::eventually,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// An address that no host has; only interception makes it reachable.
const NOWHERE: ([u8; 4], u16) = ([10, 77, 200, 1], 80);

/// The listener of an application without a proxy.
const ANYWHERE: ([u8; 4], u16) = ([0, 0, 0, 0], 8080);

/// The listener of an application behind its proxy.
const LOOPBACK: ([u8; 4], u16) = ([127, 0, 0, 1], 8080);

/// 50 requests from `host` in half a second.
fn load(host: &LabHost, target: impl Into<SocketAddr>) -> Load {
    Load {
        target: host.reach(target.into()),
        host: "color.demo.local".to_owned(),
        path: "/".to_owned(),
        rate: 100,
        duration: Duration::from_millis(500),
        http2: false,
    }
}

/// Number of TCP segments that the host's kernel sent again, for lack of an acknowledgement.
fn retransmitted(host: &LabHost) -> u64 {
    let counters = host.shell("grep ^Tcp: /proc/net/snmp").unwrap();
    let (names, values) = counters.split_once('\n').unwrap();
    let mut counters = names.split(' ').zip(values.trim().split(' '));
    let (_, value) = counters.find(|(name, _)| *name == "RetransSegs").unwrap();
    value.parse().unwrap()
}

#[tokio::test]
async fn disconnected_host_is_reachable_again_after_reconnect() {
    let mut lab = Lab::start().await.unwrap();
    let front = lab.host("front").await.unwrap();
    let color = lab.host("color").await.unwrap();
    let _app = color.http_app("color", ANYWHERE.into()).await.unwrap();
    let address = front.reach((color.ip(), 8080).into());
    assert_eq!(address.get("/").await.unwrap(), "color");

    color.disconnect().unwrap();
    let before = retransmitted(&front);
    let mut request = pin!(address.get("/"));
    // The kernel repeats a SYN only if nothing has answered it for a second.
    let repeated = eventually("a repeated SYN", Duration::from_secs(30), async || {
        retransmitted(&front) > before
    });
    tokio::select! {
        answer = &mut request => panic!("a disconnected host answered: {answer:?}"),
        () = repeated => {}
    }
    color.reconnect().unwrap();
    assert_eq!(request.await.unwrap(), "color");
}

#[tokio::test]
async fn labs_are_isolated_from_each_other() {
    let (mut one, mut other) = (Lab::start().await.unwrap(), Lab::start().await.unwrap());
    let here = one.host("here").await.unwrap();
    let there = other.host("there").await.unwrap();
    assert_eq!(here.ip(), there.ip());
    let _app = there.http_app("there", ANYWHERE.into()).await.unwrap();
    here.loopback(8080).get("/").await.unwrap_err();
}

#[tokio::test]
async fn tcp_application_speaks_first_and_echoes() {
    let mut lab = Lab::start().await.unwrap();
    let front = lab.host("front").await.unwrap();
    let mail = lab.host("mail").await.unwrap();
    let _app = mail
        .tcp_app("mail", ([0, 0, 0, 0], 2525).into())
        .await
        .unwrap();
    let mut stream = front
        .reach((mail.ip(), 2525).into())
        .connect()
        .await
        .unwrap();
    stream.write_all(b"echo").await.unwrap();
    let mut received = [0; 9];
    stream.read_exact(&mut received).await.unwrap();
    assert_eq!(&received, b"mail\necho");
}

#[tokio::test]
async fn intercepted_request_passes_both_proxies() {
    let mut lab = Lab::start().await.unwrap();
    let front = lab.host("front").await.unwrap();
    let color = lab.host("color").await.unwrap();
    let _app = color.http_app("color", LOOPBACK.into()).await.unwrap();
    let mut proxies = Vec::new();
    for (host, bootstrap) in [
        (
            &front,
            include_str!("envoys/front.yaml").replace("COLOR", &color.ip().to_string()),
        ),
        (&color, include_str!("envoys/color.yaml").to_owned()),
    ] {
        let mut envoy =
            Envoy::start_on(host, &EnvoyOptions::new(EnvoyVersion::Newest, bootstrap)).unwrap();
        envoy.ready().await.unwrap();
        proxies.push(envoy);
    }

    // Without interception the connection fails: no host answers to ARP.
    front.reach(NOWHERE.into()).get("/").await.unwrap_err();

    Interception::default().install(&front).unwrap();
    Interception {
        app_ports: vec![8080],
        ..Interception::default()
    }
    .install(&color)
    .unwrap();
    for http2 in [false, true] {
        let total = Load {
            http2,
            ..load(&front, NOWHERE)
        }
        .run(|_| ())
        .await
        .unwrap();
        assert_eq!(total.answers.get("color"), Some(&50), "{total:?}");
        assert_eq!(total.failed(), 0, "{total:?}");
    }
    for (proxy, counter) in [
        (&proxies[0], "http.egress.downstream_rq_2xx"),
        (&proxies[1], "http.ingress.downstream_rq_2xx"),
    ] {
        assert_eq!(proxy.stat(counter).await.unwrap(), 100, "{counter}");
    }
}

#[tokio::test]
async fn host_resolves_its_own_names_only() {
    let mut lab = Lab::start().await.unwrap();
    let front = lab.host("front").await.unwrap();
    let color = lab.host("color").await.unwrap();
    let addresses = [Ipv4Addr::new(10, 77, 1, 1), Ipv4Addr::new(10, 77, 1, 2)];
    front
        .resolve(addresses.map(|address| ("color.demo.local", address)))
        .unwrap();
    let lookup = "getent ahostsv4 color.demo.local | cut -d ' ' -f 1 | sort -u";
    assert_eq!(front.shell(lookup).unwrap(), "10.77.1.1\n10.77.1.2\n");
    assert_eq!(color.shell(lookup).unwrap(), "");
}
