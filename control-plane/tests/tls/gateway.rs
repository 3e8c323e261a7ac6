//! TLS of a gateway: towards its clients, and towards the targets of its routes.

use evermesh_testkit::{envoy::EnvoyVersion, tools};
use http::StatusCode;

use crate::{
    certificates::{Authority, SecretVolume},
    client::{self, connect},
    hosts::{
        COLOR, TlsHosts, color, file_certificate, file_trust, listener, object, service, status,
    },
};

/// The name in the certificate of the gateway.
const GATE: &str = "shop.example.com";

#[tokio::test]
async fn gateway_accepts_tls_and_calls_targets_with_its_policy() {
    let (mesh, public) = (Authority::new(), Authority::new());
    let folder = tools::scratch("tls").unwrap();
    for (name, authority, subject) in [
        ("color", &mesh, COLOR),
        ("other", &mesh, "other.shop"),
        ("gate", &public, GATE),
    ] {
        let path = folder.path().join(name);
        SecretVolume::mount_certificate(path, &authority.sign(subject), authority.pem());
    }
    let (own, other) = (file_certificate("color"), file_certificate("other"));
    let color = color(&[
        listener(8001, "http", &format!("mode: STRICT, {own}")),
        listener(8002, "http", &format!("mode: STRICT, {other}")),
    ]);
    let gate = file_certificate("gate");
    let mutual = format!(
        "mode: STRICT, {gate}, validation: {{{}}}",
        file_trust("gate")
    );
    let listeners = [
        listener(7001, "http", &format!("mode: STRICT, {gate}")),
        listener(7002, "http", &format!("mode: PERMISSIVE, {gate}")),
        listener(7003, "http", &mutual),
    ];
    let gateway = object(
        "VirtualGateway",
        "gate",
        &format!(
            "{{namespaceSelector: {{matchLabels: {{mesh: shop}}}}, listeners: [{}], backendDefaults: {{clientPolicy: {{tls: {{validation: {{{}}}}}}}}}}}",
            listeners.join(", "),
            file_trust("color")
        ),
    );
    let routes: String = [("right", 8001), ("wrong-name", 8002)]
        .map(|(name, port)| {
            let target =
                format!("{{virtualService: {{virtualServiceRef: {{name: color}}}}, port: {port}}}");
            let spec = format!(
                "{{httpRoute: {{match: {{prefix: /{name}}}, action: {{target: {target}}}}}}}"
            );
            object("GatewayRoute", name, &spec)
        })
        .concat();
    let manifests = format!("{color}{gateway}{routes}{}", service("color"));
    let hosts = TlsHosts::start(EnvoyVersion::Newest, folder, &manifests).await;
    let _color = hosts.color_envoy().await;
    let _gate = hosts
        .envoy(&hosts.gate, "mesh/shop/virtualGateway/gate_shop")
        .await;
    let address = |port: u16| hosts.control.reach((hosts.gate.ip(), port).into());
    let ca = public.pem();

    for port in [7001, 7002] {
        let stream = connect(&address(port), GATE, ca, None).await.unwrap();
        let path = |path| client::get(stream, GATE, path);
        assert_eq!(path("/right").await.unwrap(), 200, "{port}");
    }
    let stream = connect(&address(7001), GATE, ca, None).await.unwrap();
    let wrong_name = client::get(stream, GATE, "/wrong-name").await;
    assert_eq!(wrong_name.unwrap(), 503);
    assert_eq!(
        status(&address(7002), GATE, "/right").await.unwrap(),
        StatusCode::OK
    );
    let plaintext = status(&address(7001), GATE, "/right").await;
    plaintext.expect_err("plaintext to a STRICT listener");

    let stream = connect(&address(7003), GATE, ca, Some(&public.sign("client"))).await;
    let mutual = client::get(stream.unwrap(), GATE, "/right").await;
    assert_eq!(mutual.unwrap(), 200);
    for certificate in [None, Some(&mesh.sign("client"))] {
        // With TLS 1.3 the client learns of the refusal when it reads.
        let refused = match connect(&address(7003), GATE, ca, certificate).await {
            Ok(stream) => client::get(stream, GATE, "/right").await.is_err(),
            Err(_) => true,
        };
        assert!(refused, "client without a certificate of the authority");
    }
    let protocol = client::negotiate(&address(7001), GATE, ca, &["h2", "http/1.1"]).await;
    assert_eq!(protocol.unwrap().as_deref(), Some("h2"));
    hosts.has_no_error().await;
}
