//! Secrets that are missing: only what needs them fails.

use evermesh_testkit::{envoy::EnvoyVersion, interception::Interception, tools};
use http::StatusCode;

use crate::{
    certificates::{Authority, SecretVolume},
    hosts::{
        COLOR, TlsHosts, color, file_certificate, file_trust, front, listener, service, socket,
    },
    sds,
};

/// `color` has a listener whose certificate exists and two whose certificates do not. `front` has a policy whose
/// authorities exist and two whose authorities do not.
async fn start(version: EnvoyVersion) -> TlsHosts {
    let authority = Authority::new();
    let folder = tools::scratch("tls").unwrap();
    let path = folder.path().join("color");
    SecretVolume::mount_certificate(path, &authority.sign(COLOR), authority.pem());
    let authorities = sds::authorities(authority.pem());
    sds::serve(&socket(folder.path()), vec![("authorities", authorities)]);
    let (own, missing) = (file_certificate("color"), file_certificate("missing"));
    let unknown = "certificate: {sds: {secretName: unknown}}";
    let color = color(&[
        listener(8000, "http", ""),
        listener(8001, "http", &format!("mode: STRICT, {own}")),
        listener(8002, "http", &format!("mode: STRICT, {missing}")),
        listener(8003, "http", &format!("mode: STRICT, {unknown}")),
    ]);
    let policy = |trust: &str| format!("tls: {{validation: {{{trust}}}}}");
    let front = front(&[
        ("plain", ""),
        ("file", &policy(&file_trust("color"))),
        ("sds", &policy("trust: {sds: {secretName: authorities}}")),
        ("no-file", &policy(&file_trust("missing"))),
        ("no-sds", &policy("trust: {sds: {secretName: unknown}}")),
    ]);
    let services = ["plain", "file", "sds", "no-file", "no-sds"].map(service);
    let manifests = format!("{color}{front}{}", services.concat());
    TlsHosts::start(version, folder, &manifests).await
}

async fn only_what_needs_a_missing_secret_fails(version: EnvoyVersion) {
    let hosts = start(version).await;
    let _color = hosts.color_envoy().await;
    let _front = hosts.front_envoy().await;
    for (service, port, expected) in [
        ("plain", 8000, StatusCode::OK),
        ("file", 8001, StatusCode::OK),
        ("sds", 8001, StatusCode::OK),
        ("no-file", 8001, StatusCode::SERVICE_UNAVAILABLE),
        ("no-sds", 8001, StatusCode::SERVICE_UNAVAILABLE),
        ("file", 8002, StatusCode::SERVICE_UNAVAILABLE),
        ("file", 8003, StatusCode::SERVICE_UNAVAILABLE),
    ] {
        let status = hosts.call(service, port).await;
        assert_eq!(status, expected, "{service} {port}");
    }
}

#[tokio::test]
async fn only_what_needs_a_missing_secret_fails_in_the_oldest_envoy() {
    only_what_needs_a_missing_secret_fails(EnvoyVersion::Oldest).await;
}

#[tokio::test]
async fn only_what_needs_a_missing_secret_fails_in_the_newest_envoy() {
    only_what_needs_a_missing_secret_fails(EnvoyVersion::Newest).await;
}

/// The cluster of the secret discovery service is part of the bootstrap. Envoy refuses what refers to it without.
#[tokio::test]
async fn proxy_without_a_socket_refuses_only_what_needs_one() {
    let hosts = start(EnvoyVersion::Newest).await;
    let _color = hosts.color_envoy().await;
    let node = "mesh/shop/virtualNode/front_shop";
    let mut front = hosts.start_envoy(&hosts.front, node, &[]);
    front.ready().await.unwrap();
    Interception::default().install(&hosts.front).unwrap();
    for (service, port, expected) in [
        ("plain", 8000, StatusCode::OK),
        ("file", 8001, StatusCode::OK),
        ("sds", 8001, StatusCode::SERVICE_UNAVAILABLE),
    ] {
        let status = hosts.call(service, port).await;
        assert_eq!(status, expected, "{service} {port}");
    }
    let nacks = hosts.control_plane.metric("evermesh_xds_nacks_total").await;
    assert!(nacks.unwrap() > 0);
}
