//! Kubernetes Secrets in the place of ACM certificates, from a folder, with real Envoys: renewal under load, and who gets
//! a private key.

#![allow(clippy::unwrap_used)] // a panic fails the test

mod authority;
#[path = "../common/mod.rs"]
mod common;
mod fixture;

use std::{fs, time::Duration};

use common::eventually;
use evermesh_testkit::{
    authority::TestCertificate,
    control_plane::bootstrap,
    envoy::{Envoy, EnvoyOptions, EnvoyVersion},
    http::Address,
    load::Load,
    tools,
};
use tokio::sync::oneshot;

use crate::{
    authority::{Authority, der, parts_of_key},
    fixture::Fixture,
};

/// The name of the resource with the key.
const KEY: &str = "secret/shop/color-tls";

async fn renewal_fails_no_request(version: EnvoyVersion) {
    let authority = Authority::new();
    let first = authority.sign();
    let fixture = Fixture::with_tls(&authority, &first).await;
    let _color = fixture.start_envoy(version, "color").await;
    let front = fixture.start_envoy(version, "front").await;
    let caller = Address::Tcp(fixture.caller.address());
    eventually("a response through both Envoys", async || {
        caller.get("/").await.is_ok_and(|body| body == "color")
    })
    .await;
    let mut connection = authority.connect(fixture.listener.address()).await.unwrap();
    assert_eq!(connection.certificate(), der(&first));

    let (stop, stopped) = oneshot::channel();
    let load = Load {
        target: caller,
        host: "color.shop".to_owned(),
        path: "/".to_owned(),
        rate: 200,
        duration: Duration::from_mins(10),
        http2: false,
    };
    let stop_load = async move {
        // A test that fails drops the sender, which also ends the load.
        let _ = stopped.await;
    };
    let load = tokio::spawn(async move { load.run_until(stop_load, |_| ()).await.unwrap() });

    let mut presented = vec![first];
    for _ in 0..3 {
        let renewed = authority.sign();
        fixture.write_secret(&renewed, &authority.pem());
        eventually("the renewed certificate", async || {
            let connection = authority.connect(fixture.listener.address()).await;
            connection.is_ok_and(|it| it.certificate() == der(&renewed))
        })
        .await;
        assert_eq!(connection.get().await.unwrap(), "color");
        presented.push(renewed);
    }
    // A key of another certificate: the last good one stays.
    let good = presented.last().unwrap().clone();
    let broken = TestCertificate {
        key: authority.sign().key,
        ..authority.sign()
    };
    fixture.write_secret(&broken, &authority.pem());
    let problems = "the problem of the broken Secret";
    eventually(problems, async || {
        let page = fixture.page("/debug/problems").await;
        page.contains("does not belong") && page.contains("the last good version stays in force")
    })
    .await;
    let next = authority.connect(fixture.listener.address()).await.unwrap();
    assert_eq!(next.certificate(), der(&good));
    assert_eq!(connection.get().await.unwrap(), "color");

    stop.send(()).unwrap();
    let stats = load.await.unwrap();
    assert_eq!(stats.failed(), 0, "{stats:?}");
    assert_eq!(stats.answers.keys().collect::<Vec<_>>(), ["color"]);
    // The connections of the caller are those that it opened with the first certificate.
    let port = fixture.listener.address().port();
    let stat = async |name| {
        let name = format!("cluster.cds_egress_shop_color_shop_http_{port}.{name}");
        front.stat(&name).await.unwrap()
    };
    assert!(stat("upstream_cx_total").await > 0);
    assert_eq!(stat("upstream_cx_destroy").await, 0);

    presented.push(broken);
    assert_no_key_is_shown(&fixture, &presented).await;
}

/// Asserts that no part of a key is in the log, which has every level, on a page or in what `lint` prints.
async fn assert_no_key_is_shown(fixture: &Fixture, certificates: &[TestCertificate]) {
    let mut texts = vec![(
        "the log".to_owned(),
        fs::read_to_string(fixture.control_plane.log_file()).unwrap(),
    )];
    let proxy = "/debug/resources?proxy=mesh/shop/virtualNode/color_shop";
    for path in [
        "/debug/graph",
        "/debug/problems",
        "/debug/resources",
        proxy,
        "/debug/proxies",
        "/debug/changes",
        "/metrics",
    ] {
        texts.push((path.to_owned(), fixture.page(path).await));
    }
    let mut lint = std::process::Command::new(tools::built("evermesh").unwrap());
    lint.arg("lint").arg(fixture.folder());
    let printed = lint.output().unwrap().stdout;
    texts.push(("lint".to_owned(), String::from_utf8(printed).unwrap()));

    let of = |name: &str| &texts.iter().find(|(other, _)| other == name).unwrap().1;
    // The texts that the assertion below searches are not empty.
    assert!(of(proxy).contains(KEY), "{}", of(proxy));
    assert!(of("/debug/graph").contains("shop/color-tls"));
    assert!(of("lint").contains("does not belong"), "{}", of("lint"));
    assert!(of("the log").contains("TRACE"));
    for (name, text) in &texts {
        for part in certificates.iter().flat_map(parts_of_key) {
            assert!(!text.contains(&part), "{name} contains {part}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn renewed_certificate_fails_no_request_and_no_key_is_shown() {
    for version in EnvoyVersion::ALL {
        renewal_fails_no_request(version).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plaintext_proxy_gets_no_key_and_everything_else() {
    let authority = Authority::new();
    let certificate = authority.sign();
    let fixture = Fixture::plaintext(&authority, &certificate).await;
    let xds = fixture.control_plane.xds();
    let bootstrap = bootstrap("mesh/shop/virtualNode/color_shop", xds, false).unwrap();
    let mut envoy = Envoy::start(&EnvoyOptions::new(EnvoyVersion::Newest, bootstrap)).unwrap();
    envoy.ready().await.unwrap();

    let open = Address::Tcp(fixture.open.address());
    eventually("a response of the listener without TLS", async || {
        open.get("/").await.is_ok_and(|body| body == "color")
    })
    .await;
    eventually("the withheld key", async || {
        let proxies = fixture.control_plane.proxies().await.unwrap();
        proxies[0]["withheld"] == serde_json::json!([KEY])
    })
    .await;
    let log = fs::read_to_string(fixture.control_plane.log_file()).unwrap();
    let mut lines = log.lines();
    let warning = lines.find(|line| line.contains("withholding private keys"));
    let warning = warning.unwrap_or_else(|| panic!("no warning in {log}"));
    assert!(
        warning.contains(KEY) && warning.contains("color_shop"),
        "{warning}"
    );

    // The listener with TLS exists and completes no handshake.
    assert!(authority.connect(fixture.listener.address()).await.is_err());
    let dump = envoy.admin().get("/config_dump?include_eds").await.unwrap();
    for part in parts_of_key(&certificate) {
        assert!(!dump.contains(&part));
    }
    // Authorities are not confidential.
    let proxies = fixture.control_plane.proxies().await.unwrap();
    let resources = proxies[0]["resources"].as_array().unwrap();
    let secrets: Vec<_> = resources
        .iter()
        .filter(|it| it["type"] == "secret")
        .collect();
    assert_eq!(secrets.len(), 1, "{secrets:?}");
    assert_eq!(secrets[0]["sent"], serde_json::Value::Null);
}
