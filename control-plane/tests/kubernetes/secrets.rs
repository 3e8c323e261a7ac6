//! Secrets in the place of ACM certificates: read by label and only in listed namespaces, and shown in statuses.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use evermesh_testkit::{chart::Chart, control_plane::ControlPlane, kubernetes::ApiServer};
use rcgen::{CertificateParams, KeyPair};
use serde_json::{Value, json};

use crate::{
    common::eventually,
    fixture::{Cluster, USER},
    proxy::TestProxy,
};

const MESH: &str = "
apiVersion: appmesh.k8s.aws/v1beta2
kind: Mesh
metadata:
  name: shop
  annotations:
    evermesh.dev/acm-secrets: |
      arn:aws:acm:eu-west-1:111122223333:certificate/color: shop/color
      arn:aws:acm:eu-west-1:111122223333:certificate/closed: closed/color for shop
      arn:aws:acm-pca:eu-west-1:111122223333:certificate-authority/root: shop/root
spec: {namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: shop}}}
---
apiVersion: appmesh.k8s.aws/v1beta2
kind: VirtualGateway
metadata: {name: gate, namespace: shop}
spec:
  podSelector: {matchLabels: {app: gate}}
  listeners:
  - portMapping: {port: 8443, protocol: http}
    tls:
      mode: STRICT
      certificate: {acm: {certificateARN: \"arn:aws:acm:eu-west-1:111122223333:certificate/color\"}}
";

/// The chart for Secrets of two namespaces, with a role in `shop` only.
fn chart() -> Chart {
    let mut chart = Chart::render_open(&["--set", "secretNamespaces={shop,closed}"]).unwrap();
    chart
        .objects
        .retain(|object| object["metadata"]["namespace"] != "closed");
    chart
}

/// A Secret as `kubectl apply` stores it: with its contents in an annotation too.
fn secret(namespace: &str, name: &str, label: &str, entries: &[(&str, &str)]) -> String {
    let entries = entries.iter();
    let data: BTreeMap<&str, String> = entries
        .map(|(key, text)| (*key, STANDARD.encode(text)))
        .collect();
    let labels = json!({"evermesh.dev/certificate": label});
    json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "data": data,
    })
    .to_string()
}

/// The condition of an object; null while it does not exist.
async fn condition(cluster: &Cluster, object: &str, name: &str) -> Value {
    let object = cluster.api.get(object, "shop").await.unwrap().unwrap();
    let conditions = object["status"]["conditions"].as_array();
    let found = conditions
        .into_iter()
        .flatten()
        .find(|it| it["type"] == name);
    found.cloned().unwrap_or_default()
}

/// The names of the Secrets that the status of the Mesh reports.
async fn reported(cluster: &Cluster) -> Vec<&'static str> {
    let active = condition(cluster, "mesh/shop", "MeshActive").await;
    let message = active["message"].as_str().unwrap_or_default().to_owned();
    let secrets = [
        "Secret/shop/color",
        "Secret/closed/color",
        "Secret/shop/root",
    ];
    let is_reported = |secret: &&str| message.contains(&format!("`{secret}`"));
    secrets.into_iter().filter(is_reported).collect()
}

/// Asserts that the control plane asked for Secrets with the label only, except for its own one.
fn assert_only_labelled_secrets_were_requested(cluster: &Cluster) {
    let mut namespaces = BTreeSet::new();
    for event in cluster.api.audit().unwrap() {
        let object = &event["objectRef"];
        if event["user"]["username"] != USER || object["resource"] != "secrets" {
            continue;
        }
        let namespace = object["namespace"].as_str().unwrap_or_default();
        if namespace == "appmesh-system" {
            continue;
        }
        let uri = event["requestURI"].as_str().unwrap();
        assert!(
            uri.contains("labelSelector=evermesh.dev%2Fcertificate%3Dtrue"),
            "{uri}"
        );
        namespaces.insert(namespace.to_owned());
    }
    assert_eq!(namespaces, ["closed".to_owned(), "shop".to_owned()].into());
}

async fn assert_no_key_is_shown(control_plane: &ControlPlane, key: &str) {
    let log = fs::read_to_string(control_plane.log_file()).unwrap();
    let graph = control_plane.admin().get("/debug/graph").await.unwrap();
    assert!(graph.contains("shop/color"));
    let lines = key.lines().filter(|line| !line.starts_with('-'));
    // As the API server sends it. The first characters are those of every key.
    let encoded = STANDARD.encode(key);
    let encoded = encoded.as_bytes()[80..].chunks_exact(40);
    let encoded = encoded.map(|chunk| str::from_utf8(chunk).unwrap());
    for part in lines.filter(|line| line.len() > 20).chain(encoded) {
        assert!(!log.contains(part) && !graph.contains(part));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn secrets_are_read_by_label_where_a_role_allows_it() {
    let api = ApiServer::start().await.unwrap();
    for namespace in ["shop", "closed"] {
        api.create_namespace(namespace).await.unwrap();
    }
    let cluster = Cluster::install(api, &chart()).await;
    // Ready although the API server forbids the list in `closed`.
    let control_plane = cluster.start_replica().await;
    cluster.wait_for_webhooks().await;
    cluster.api.apply(MESH).await.unwrap();
    let all = [
        "Secret/shop/color",
        "Secret/closed/color",
        "Secret/shop/root",
    ];
    eventually("three missing Secrets", async || {
        reported(&cluster).await == all
    })
    .await;

    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["color.shop".to_owned()]).unwrap();
    let certificate = params.self_signed(&key).unwrap().pem();
    let key = key.serialize_pem();
    let (chain, authority) = (("tls.crt", &*certificate), ("ca.crt", &*certificate));
    let pair = [chain, ("tls.key", &*key), authority];
    let apply = async |secret: String| cluster.api.apply(&secret).await.unwrap();
    apply(secret("shop", "color", "false", &pair)).await;
    apply(secret("closed", "color", "true", &pair)).await;
    // The watch that shows this Secret has passed the one before it.
    apply(secret("shop", "root", "true", &[authority])).await;
    let others = ["Secret/shop/color", "Secret/closed/color"];
    eventually("the authority", async || reported(&cluster).await == others).await;

    apply(secret("shop", "color", "true", &pair)).await;
    let closed = ["Secret/closed/color"];
    eventually("the certificate", async || {
        reported(&cluster).await == closed
    })
    .await;

    // The gateway's proxy connects without a token and in plaintext.
    let proxy = TestProxy::connect(control_plane.xds()).await;
    eventually("the withheld key", async || {
        let programmed = condition(&cluster, "virtualgateway/gate", "Programmed").await;
        programmed["reason"] == "SecretWithheld" && programmed["status"] == "False"
    })
    .await;
    let programmed = condition(&cluster, "virtualgateway/gate", "Programmed").await;
    let message = programmed["message"].as_str().unwrap();
    assert!(message.contains("`secret/shop/color`"), "{message}");
    drop(proxy);

    apply(secret("shop", "color", "true", &[chain, authority])).await;
    eventually("the last good version", async || {
        let active = condition(&cluster, "mesh/shop", "MeshActive").await;
        let message = active["message"].as_str().unwrap_or_default().to_owned();
        message.contains("no entry tls.key, so the last good version stays in force")
    })
    .await;
    let delete = ["delete", "secret", "color", "--namespace=shop"];
    cluster.api.kubectl(&delete).await.unwrap();
    eventually("the deletion", async || reported(&cluster).await == others).await;

    let forbidden = cluster.api.forbidden(USER).unwrap();
    let of_secrets = |request: &String| request.contains("closed") && request.contains("secrets");
    assert!(
        !forbidden.is_empty() && forbidden.iter().all(of_secrets),
        "{forbidden:?}"
    );
    assert_only_labelled_secrets_were_requested(&cluster);
    assert_no_key_is_shown(&control_plane, &key).await;
}
