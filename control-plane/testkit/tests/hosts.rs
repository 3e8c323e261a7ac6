//! Hosts of a lab: reached, intercepted, cut off.

use std::{net::SocketAddr, time::Duration};

use evermesh_testkit::{
    envoy::{Envoy, EnvoyOptions, EnvoyVersion},
    hosts::{Lab, LabHost},
    interception::Interception,
    load::Load,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// No host has this address: only interception answers there.
const NOWHERE: ([u8; 4], u16) = ([10, 77, 200, 1], 80);

/// Where applications listen that others reach without a proxy.
const ANYWHERE: ([u8; 4], u16) = ([0, 0, 0, 0], 8080);

/// Where applications listen behind their proxy.
const LOOPBACK: ([u8; 4], u16) = ([127, 0, 0, 1], 8080);

/// One request per 10 ms for half a second, from `host`.
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

#[tokio::test]
async fn hosts_reach_each_other_until_one_is_cut_off() {
    let mut lab = Lab::start().await.unwrap();
    let front = lab.host("front").await.unwrap();
    let color = lab.host("color").await.unwrap();
    let _app = color.http_app("color", ANYWHERE.into()).await.unwrap();
    let there = front.reach((color.ip(), 8080).into());
    assert_eq!(there.get("/").await.unwrap(), "color");

    color.disconnect().unwrap();
    tokio::time::timeout(Duration::from_millis(500), there.get("/"))
        .await
        .unwrap_err();
    color.reconnect().unwrap();
    assert_eq!(there.get("/").await.unwrap(), "color");
}

#[tokio::test]
async fn labs_do_not_see_each_other() {
    let (mut one, mut other) = (Lab::start().await.unwrap(), Lab::start().await.unwrap());
    let here = one.host("here").await.unwrap();
    let there = other.host("there").await.unwrap();
    assert_eq!(here.ip(), there.ip());
    let _app = there.http_app("there", ANYWHERE.into()).await.unwrap();
    here.loopback(8080).get("/").await.unwrap_err();
}

#[tokio::test]
async fn a_server_that_speaks_first_is_heard() {
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
    let mut heard = [0; 9];
    stream.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"mail\necho");
}

#[tokio::test]
async fn a_call_passes_both_proxies() {
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

    let nowhere = front.reach(NOWHERE.into());
    tokio::time::timeout(Duration::from_millis(300), nowhere.get("/"))
        .await
        .unwrap_err();

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
    assert_eq!(
        proxies[0]
            .stat("http.egress.downstream_rq_2xx")
            .await
            .unwrap(),
        100
    );
    assert_eq!(
        proxies[1]
            .stat("http.ingress.downstream_rq_2xx")
            .await
            .unwrap(),
        100
    );
}
