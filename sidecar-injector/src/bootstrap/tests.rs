//! Snapshots of rendered bootstraps.

use evermesh_model::ProxyKind;

use super::*;

fn options() -> BootstrapOptions {
    BootstrapOptions::new(
        ResourceName::new("shop", ProxyKind::VirtualNode, "color_ns"),
        "evermesh.evermesh-system:18000".parse().unwrap(),
    )
}

#[test]
fn node_has_defaults() {
    insta::assert_snapshot!(render(&bootstrap(&options())).unwrap());
}

#[test]
fn gateway_has_every_option() {
    let gateway = bootstrap(&BootstrapOptions {
        node: ResourceName::new("shop", ProxyKind::VirtualGateway, "gate_ns"),
        id: Some("mesh/shop@111122223333/virtualGateway/gate_ns".to_owned()),
        cluster: Some("gates".to_owned()),
        metadata: [("pod".to_owned(), "gate-1".to_owned())].into(),
        zone: Some("eu-west-1a".to_owned()),
        xds: "[::1]:18000".parse().unwrap(),
        tls: Some(ControlPlaneTls {
            authority: Authority::Inline("-----BEGIN CERTIFICATE-----".to_owned()),
            identity: Some(ClientCertificateFiles {
                chain: "/certificates/tls.crt".to_owned(),
                key: "/certificates/tls.key".to_owned(),
            }),
        }),
        token: Some("/var/run/token".to_owned()),
        sotw: true,
        admin: AdminAddress::Pipe("/run/envoy/admin.sock".to_owned()),
        admin_access_log: Some("/tmp/admin.log".to_owned()),
        stats_tags: false,
        statsd: Some(StatsD::Udp("127.0.0.1:8125".parse().unwrap())),
        tracing: Some(Tracing::Jaeger("jaeger.tracing:9411".parse().unwrap())),
        sds_socket: Some("/run/spire/sockets/agent.sock".to_owned()),
    });
    insta::assert_snapshot!(render(&gateway).unwrap());
}

#[test]
fn other_tracers_with_a_statsd_socket() {
    let with = |tracing| BootstrapOptions {
        tracing: Some(tracing),
        statsd: Some(StatsD::Socket("/run/statsd.sock".to_owned())),
        ..options()
    };
    let datadog = bootstrap(&with(Tracing::Datadog(
        "datadog.system:8126".parse().unwrap(),
    )));
    let xray = bootstrap(&with(Tracing::XRay {
        port: 2000,
        sampling_rate: 0.05,
    }));
    let opentelemetry = bootstrap(&with(Tracing::OpenTelemetry(
        "collector.tracing:4317".parse().unwrap(),
    )));
    let all: Vec<_> = [datadog, xray, opentelemetry]
        .iter()
        .map(|bootstrap| {
            let mut shown = evermesh_proto::json::to_json(bootstrap).unwrap();
            shown["static_resources"]["clusters"]
                .as_array_mut()
                .unwrap()
                .remove(0);
            serde_json::json!({
                "static_resources": shown["static_resources"],
                "tracing": shown["tracing"],
                "stats_sinks": shown["stats_sinks"],
            })
        })
        .collect();
    insta::assert_json_snapshot!(all);
}

#[test]
fn host_port_is_parsed_and_displayed() {
    for text in ["a.b:1", "10.0.0.1:65535", "[::1]:18000"] {
        let parsed: HostPort = text.parse().unwrap();
        assert_eq!(parsed.to_string(), text);
    }
    for text in ["", "a", "a:", ":1", "a:0", "a:65536", "::1:18000", "[]:1"] {
        assert_eq!(
            text.parse::<HostPort>(),
            Err(InvalidHostPort(text.to_owned()))
        );
    }
}
