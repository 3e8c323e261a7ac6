//! The arguments and permissions that the chart gives to the control plane.

use std::net::{Ipv4Addr, Ipv6Addr};

use clap::Parser as _;
use evermesh::args::{CommandLine, EvermeshCommand, ServeArgs};
use evermesh_testkit::chart::{Chart, NAMESPACE, appmesh_controller_values};
use serde_json::Value;

use crate::{common::eventually, fixture::MeshFixture};

/// The arguments that the chart renders for these values, as the program parses them.
fn parsed(values: &[&str]) -> ServeArgs {
    let arguments = Chart::render(values).unwrap().arguments().unwrap();
    let line = ["evermesh".to_owned()].into_iter().chain(arguments.clone());
    let cli =
        CommandLine::try_parse_from(line).unwrap_or_else(|error| panic!("{arguments:?}: {error}"));
    let EvermeshCommand::Serve(serve) = cli.command else {
        panic!("{arguments:?} do not serve")
    };
    *serve
}

#[test]
fn program_accepts_the_charts_arguments() {
    let plain = parsed(&[]);
    assert!(plain.source.kubernetes);
    let namespace = plain.kubernetes.leader_election_namespace.as_deref();
    assert_eq!(namespace, Some(NAMESPACE));
    assert_eq!(plain.kubernetes.aws_region, None);
    assert!(plain.injection().unwrap().is_some());
    let webhook = plain.webhook;
    assert_eq!(
        webhook.webhook_secret.to_string(),
        "appmesh-system/evermesh-webhook"
    );
    assert_eq!(webhook.webhook_secret, webhook.webhook_service);
    assert_eq!(webhook.webhook_certificates, None);

    let old = appmesh_controller_values();
    let old = parsed(&["--values", old.to_str().unwrap()]);
    assert_eq!(old.kubernetes.aws_region.as_deref(), Some("us-west-2"));
    assert_eq!(old.kubernetes.aws_account_id, "012345678901");
    // These values leave the certificates to cert-manager.
    assert!(old.webhook.webhook_certificates.is_some());

    let more = parsed(&[
        "--set",
        "watchNamespaces={a,b},secretNamespaces={b,c},region=eu-west-1,log.level=debug,extraArgs={--endpoint-slices}",
        "--set",
        "cloudMap.registration=true,cloudMapDNS.ttl=60,cloudMapCustomHealthCheck.enabled=true",
    ]);
    assert_eq!(more.kubernetes.watch_namespaces, ["a", "b"]);
    assert_eq!(more.kubernetes.secret_namespaces, ["b", "c"]);
    assert!(more.kubernetes.endpoint_slices);
    assert_eq!(more.telemetry.log, "debug");
    assert!(more.cloud_map.cloud_map_registration);
    assert_eq!(more.cloud_map.cloud_map_dns_ttl, 60);
    assert!(more.cloud_map.cloud_map_custom_health_check);
}

#[test]
fn ipv6_chart_listens_on_ipv6() {
    let ipv6 = parsed(&["--set", "ipFamily=ipv6"]);
    for address in [
        Some(ipv6.xds_address),
        ipv6.metrics_address,
        ipv6.webhook.webhook_address,
    ] {
        assert_eq!(address.unwrap().ip(), Ipv6Addr::UNSPECIFIED);
    }
    assert!(ipv6.admin_address.ip().is_loopback());
    assert!(ipv6.injection().unwrap().unwrap().envoy.admin_ipv6);

    let dual = parsed(&["--set", "ipFamily=dual"]);
    assert_eq!(dual.xds_address.ip(), Ipv4Addr::UNSPECIFIED);
    let settings = dual.injection().unwrap().unwrap();
    assert!(settings.envoy.admin_ipv6 && settings.has_ipv6);

    let plain = parsed(&[]);
    assert_eq!(plain.xds_address.ip(), Ipv4Addr::UNSPECIFIED);
    assert!(!plain.injection().unwrap().unwrap().envoy.admin_ipv6);
}

#[test]
fn token_audience_is_the_same_for_pods_and_authentication() {
    let audience = |values: &str| {
        let settings = parsed(&["--set", values]).injection().unwrap().unwrap();
        settings.control_plane.token_audience
    };
    let other = audience("xds.authentication=kubernetes,xds.tokenAudience=other");
    assert_eq!(other.as_deref(), Some("other"));
    let permissive = "migration=true,xds.authentication=kubernetes-permissive";
    assert_eq!(
        audience(&format!("{permissive},sidecar.tokenAudience=")),
        None
    );

    let certificates = "xds.authentication=certificate,xds.tls.secretName=xds";
    let off = format!("{certificates},injection.enabled=false");
    assert_eq!(parsed(&["--set", &off]).injection().unwrap(), None);
    let beside = parsed(&["--set", &format!("{certificates},beside=true")]);
    assert_eq!(beside.webhook.webhook_address, None);
}

#[test]
fn tracing_port_replaces_the_default_of_its_provider() {
    let ports = |values: &str| {
        let telemetry = parsed(&["--set", values]).injector.telemetry;
        [
            telemetry.xray_daemon_port,
            telemetry.jaeger_port,
            telemetry.datadog_port,
            telemetry.opentelemetry_port,
        ]
    };
    let providers = ["x-ray", "jaeger", "datadog", "opentelemetry"];
    for (index, provider) in providers.into_iter().enumerate() {
        let mut expected = [2000, 9411, 8126, 4317];
        let values = format!("tracing.enabled=true,tracing.provider={provider}");
        assert_eq!(ports(&values), expected, "{provider}");
        expected[index] = 1234;
        let values = format!("{values},tracing.port=1234");
        assert_eq!(ports(&values), expected, "{provider}");
    }
}

#[tokio::test]
async fn missing_permission_shows_in_the_audit_log() {
    let mut chart = Chart::render_open(&[]).unwrap();
    for role in &mut chart.objects {
        let Some(Value::Array(rules)) = role.get_mut("rules") else {
            continue;
        };
        rules.retain(|rule| rule["resources"][0] != "routes/status");
    }
    let fixture = MeshFixture::build_with(&chart).await;
    let patch = "patch /apis/evermesh.dev/v1alpha1/namespaces/shop/routes/color/status";
    eventually("a denied request", async || {
        fixture.forbidden().iter().any(|it| it.starts_with(patch))
    })
    .await;
}
