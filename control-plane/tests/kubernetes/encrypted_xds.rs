//! xDS over TLS as the chart installs it: the certificate that Evermesh creates, and sidecars that trust its authority.

use std::net::Ipv4Addr;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use evermesh_local_cluster::canary::route;
use evermesh_testkit::{
    chart::{Chart, NAMESPACE},
    control_plane::ControlPlane,
    dns::DnsServer,
    envoy::{Envoy, EnvoyOptions, EnvoyVersion},
    kubernetes::ApiServer,
    tools,
};
use serde_json::{Value, json};

use crate::{
    common::eventually,
    fixture::{Cluster, USER, lock_gateway, mesh, start_app},
    identity::token_of,
};

/// The host in the bootstrap of sidecars, for which the certificate must be valid.
const HOST: &str = "evermesh-xds.appmesh-system.svc";

const TOKEN: &str = "/var/run/secrets/evermesh.dev/token";

/// An entry of the Secret with the certificate.
async fn entry(api: &ApiServer, name: &str) -> String {
    let secret = api.get("secret/evermesh-webhook", NAMESPACE).await.unwrap();
    let secret = secret.unwrap();
    let contents = secret["data"][name].as_str().unwrap_or_default();
    String::from_utf8(BASE64_STANDARD.decode(contents).unwrap()).unwrap()
}

async fn patch_secret(api: &ApiServer, patch: &Value) {
    let patch = patch.to_string();
    let command = ["patch", "secret/evermesh-webhook", "-n", NAMESPACE];
    let command = [&command[..], &["--type=merge", "-p", &patch]].concat();
    api.kubectl(&command).await.unwrap();
}

/// Creates a pod of the gateway; returns the bootstrap that the webhook gave its Envoy.
async fn inject(api: &ApiServer, name: &str) -> Value {
    let pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "shop", "labels": {"app": "gate"}},
        "spec": {"containers": [{"name": "envoy", "image": "envoy"}]},
    });
    api.apply(&pod.to_string()).await.unwrap();
    let created = api.get(&format!("pod/{name}"), "shop").await.unwrap();
    let created = created.unwrap();
    let arguments = created["spec"]["containers"][0]["args"].as_array().unwrap();
    let bootstrap = arguments.iter().find_map(|it| {
        let text = it.as_str()?.replace("$$", "$");
        serde_json::from_str(&text).ok().filter(Value::is_object)
    });
    bootstrap.unwrap_or_else(|| panic!("{arguments:?} have no bootstrap"))
}

/// The authorities in a bootstrap.
fn trusted(bootstrap: &Value) -> &str {
    let clusters = &bootstrap["static_resources"]["clusters"];
    let context = &clusters[0]["transport_socket"]["typed_config"]["common_tls_context"];
    let authority = &context["validation_context"]["trusted_ca"]["inline_string"];
    authority.as_str().unwrap()
}

/// Starts an Envoy with the bootstrap of an injected pod, whose token is in `token`.
async fn start(bootstrap: &Value, control_plane: &ControlPlane, token: &str) -> Envoy {
    let mut bootstrap = bootstrap.clone();
    // Other Envoys of this machine use the admin port.
    bootstrap.as_object_mut().unwrap().remove("admin");
    let resources = bootstrap["static_resources"].as_object_mut().unwrap();
    resources.remove("listeners");
    let port = control_plane.xds().port();
    let bootstrap = bootstrap
        .to_string()
        .replace("\"port_value\":18000", &format!("\"port_value\":{port}"))
        .replace(TOKEN, token);
    let dns = DnsServer::start(&[(HOST, Ipv4Addr::LOCALHOST)]).await;
    let bootstrap = dns.unwrap().bootstrap_with_resolver(&bootstrap).unwrap();
    Envoy::start(&EnvoyOptions::new(EnvoyVersion::Newest, bootstrap)).unwrap()
}

#[tokio::test]
async fn sidecar_trusts_renewed_certificates_of_its_authority_only() {
    let api = ApiServer::start().await.unwrap();
    let cluster = Cluster::install(api, &Chart::render(&[]).unwrap()).await;
    let control_plane = cluster.start_replica().await;
    cluster.wait_for_webhooks().await;
    let api = &cluster.api;
    api.create_namespace("shop").await.unwrap();
    let versions = [start_app("v1"), start_app("v2")];
    api.apply(&mesh(18_088, versions)).await.unwrap();
    api.apply(&route([100, 0])).await.unwrap();
    let label = "appmesh.k8s.aws/sidecarInjectorWebhook=enabled";
    api.kubectl(&["label", "namespace", "shop", label])
        .await
        .unwrap();

    let bootstrap = inject(api, "gate-1").await;
    let authority = entry(api, "ca.crt").await;
    assert_eq!(trusted(&bootstrap), authority);
    let folder = tools::scratch("token").unwrap();
    let token = folder.path().join("token");
    std::fs::write(&token, token_of(api, "gate-1").await).unwrap();
    let token = token.to_string_lossy();
    let _gateway_ports = lock_gateway().await;
    let mut first = start(&bootstrap, &control_plane, &token).await;
    first.ready().await.unwrap();
    drop(first);

    let certificate = entry(api, "tls.crt").await;
    patch_secret(
        api,
        &json!({"data": {"tls.crt": BASE64_STANDARD.encode("broken")}}),
    )
    .await;
    eventually("a new certificate", async || {
        let renewed = entry(api, "tls.crt").await;
        renewed != "broken" && renewed != certificate
    })
    .await;
    assert_eq!(entry(api, "ca.crt").await, authority);
    let mut second = start(&bootstrap, &control_plane, &token).await;
    second.ready().await.unwrap();
    drop(second);

    patch_secret(api, &json!({"data": null})).await;
    eventually("a new authority in the bootstrap of new pods", async || {
        let new = entry(api, "ca.crt").await;
        !new.is_empty() && new != authority
    })
    .await;
    let third = start(&bootstrap, &control_plane, &token).await;
    eventually("a certificate that the sidecar rejects", async || {
        let log = std::fs::read_to_string(third.log_file()).unwrap();
        log.contains("CERTIFICATE_VERIFY_FAILED")
    })
    .await;
    let newest = entry(api, "ca.crt").await;
    cluster.wait_for_webhooks().await;
    assert_eq!(trusted(&inject(api, "gate-2").await), newest);
    assert_eq!(api.forbidden(USER).unwrap(), Vec::<String>::new());
}
