//! Pods: the API server accepts every patched pod of the golden cases, at the expected level of Pod Security, and calls
//! the webhook for new pods.

#[path = "../../../sidecar-injector/tests/fixture/mod.rs"]
pub(crate) mod injection;

use std::collections::BTreeMap;

use evermesh_testkit::{kubernetes::ApiServer, tools};
use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, PostParams},
};
use serde_json::{Value, json};

use self::injection::Case;
use crate::{
    cluster::{self, Cluster},
    common::eventually,
};

/// Part of the message about a pod whose label `app` is `other`, in a namespace whose only node selects `web`.
const WRONG_LABEL: &str = "label `app` is `other`";

/// Every patched pod of the injector's golden cases, by the name of its case.
fn golden_pods() -> BTreeMap<String, Value> {
    let testdata = tools::workspace()
        .unwrap()
        .join("sidecar-injector/tests/testdata");
    let cases = evermesh_golden::cases(&testdata).into_iter();
    let pods: BTreeMap<String, Value> = cases
        .filter_map(|case| Some((case.name, Case::read(&case.input).patched_pod()?)))
        .collect();
    assert!(pods.len() > 60, "{}", pods.len());
    pods
}

pub(crate) async fn api_server() -> (ApiServer, Client) {
    let api = ApiServer::start().await.unwrap();
    for level in ["privileged", "baseline", "restricted"] {
        api.create_namespace(level).await.unwrap();
        let enforce = format!("pod-security.kubernetes.io/enforce={level}");
        let version = "pod-security.kubernetes.io/enforce-version=latest";
        api.kubectl(&["label", "namespace", level, &enforce, version])
            .await
            .unwrap();
    }
    let client = api.client().await.unwrap();
    (api, client)
}

/// Creates a pod as a dry run; returns the API server's message if it rejects the pod.
async fn rejection(client: &Client, namespace: &str, pod: &Value) -> Option<String> {
    let mut pod = pod.clone();
    pod["metadata"]["namespace"] = namespace.into();
    let resource = ApiResource::erase::<k8s_openapi::api::core::v1::Pod>(&());
    let pods: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &resource);
    let dry = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    let pod: DynamicObject = serde_json::from_value(pod).unwrap();
    pods.create(&dry, &pod).await.err().map(|it| it.to_string())
}

/// Gives the containers that Evermesh did not add the security context that the level `restricted` demands.
fn restrict(pod: &mut Value) {
    for list in ["containers", "initContainers"] {
        for container in pod["spec"][list].as_array_mut().into_iter().flatten() {
            if container["securityContext"].is_null() {
                container["securityContext"] = json!({
                    "allowPrivilegeEscalation": false,
                    "capabilities": { "drop": ["ALL"] },
                    "runAsNonRoot": true,
                    "seccompProfile": { "type": "RuntimeDefault" },
                });
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_patched_pod_is_accepted_by_the_api_server() {
    let (_api, client) = api_server().await;
    for (case, mut pod) in golden_pods() {
        assert_eq!(rejection(&client, "privileged", &pod).await, None, "{case}");
        let text = pod["spec"].to_string();
        // Pod Security forbids the capability of the init container, and host volumes and networks of the pod's owner.
        let intercepted = text.contains("NET_ADMIN");
        let uses_host = text.contains("hostPath") || text.contains("hostNetwork");
        let at_baseline = rejection(&client, "baseline", &pod).await;
        assert_eq!(
            at_baseline.is_some(),
            intercepted || uses_host,
            "{case}: {at_baseline:?}"
        );
        if intercepted {
            let words =
                r#"non-default capabilities (container "proxyinit" must not include "NET_ADMIN""#;
            assert!(at_baseline.unwrap().contains(words), "{case}");
            continue;
        }
        let is_gateway = case.starts_with("gateway/");
        restrict(&mut pod);
        let at_restricted = rejection(&client, "restricted", &pod).await;
        // The container of a gateway keeps the security context that its owner gave it.
        let is_rejected = at_restricted.is_some() && !is_gateway;
        assert_eq!(
            is_rejected,
            uses_host && !is_gateway,
            "{case}: {at_restricted:?}"
        );
    }
}

fn pod(name: &str, app: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "name": name, "namespace": "shop", "labels": { "app": app } },
        "spec": { "containers": [{ "name": "app", "image": "app:1" }] },
    })
}

/// The service account without which the API server rejects every pod of a namespace.
fn default_account(namespace: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": { "name": "default", "namespace": namespace },
    })
}

fn names(pod: &Value, list: &str) -> Vec<String> {
    let list = pod["spec"][list].as_array().cloned().unwrap_or_default();
    let name = |it: &Value| it["name"].as_str().unwrap().to_owned();
    list.iter().map(name).collect()
}

/// Events about rejected pods, as `OBJECT: REASON`, with the number of occurrences.
async fn rejection_events(cluster: &Cluster) -> BTreeMap<String, u64> {
    let listed = cluster
        .kubectl(&["get", "events.events.k8s.io", "-n", "shop", "-o", "json"])
        .await
        .unwrap();
    let listed: Value = serde_json::from_str(&listed).unwrap();
    let events = listed["items"].as_array().unwrap().iter().map(|event| {
        let regarding = &event["regarding"];
        let word = |value: &Value| value.as_str().unwrap().to_owned();
        let (kind, name) = (word(&regarding["kind"]), word(&regarding["name"]));
        let note = word(&event["note"]);
        assert!(note.contains(WRONG_LABEL), "{note}");
        let times = event["series"]["count"].as_u64().unwrap_or(1);
        (format!("{kind}/{name}: {}", word(&event["reason"])), times)
    });
    events.collect()
}

async fn pod_of_an_unknown_namespace_is_rejected(cluster: &Cluster) {
    let mut namespace = cluster::namespace(cluster::UNSEEN);
    namespace["metadata"]["labels"][evermesh_injector::INJECTION] = "enabled".into();
    let mut early = pod("early", "web");
    early["metadata"]["namespace"] = cluster::UNSEEN.into();
    let account = default_account(cluster::UNSEEN);
    for object in [&namespace, &account] {
        cluster.create(object).await.unwrap();
    }
    let error = cluster.create(&early).await.unwrap_err();
    for words in [
        "(ServiceUnavailable)",
        "denied the request",
        "`appmesh.k8s.aws/sidecarInjectorWebhook`",
        "`unseen`",
    ] {
        assert!(error.contains(words), "{words} in {error}");
    }
}

/// The rejection of a pod is an event of the pod's owner; the rejection of a dry run is not an event.
async fn rejections_are_events(cluster: &Cluster) {
    let mut owned = pod("owned", "other");
    owned["metadata"]["ownerReferences"] = json!([{
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "name": "web-1",
        "uid": "7a4f1e0c",
        "controller": true,
    }]);
    cluster.dry_run(&pod("dry-run", "other")).await.unwrap_err();
    for _ in 0..2 {
        cluster.create(&owned).await.unwrap_err();
    }
    let expected = BTreeMap::from([
        ("Pod/lost: SidecarRefused".to_owned(), 1),
        ("ReplicaSet/web-1: SidecarRefused".to_owned(), 2),
    ]);
    eventually("events about both rejections", async || {
        rejection_events(cluster).await == expected
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_of_a_node_become_members_and_others_are_rejected() {
    let cluster = Cluster::start().await;
    let mut namespace = cluster::namespace("shop");
    namespace["metadata"]["labels"][evermesh_injector::INJECTION] = "enabled".into();
    let account_of_shop = default_account("shop");
    let node = json!({
        "apiVersion": "appmesh.k8s.aws/v1beta2",
        "kind": "VirtualNode",
        "metadata": { "name": "web", "namespace": "shop" },
        "spec": { "podSelector": { "matchLabels": { "app": "web" } } },
    });
    // The webhook waits until it knows of the node, which is created at once before the pod.
    for object in [
        &namespace,
        &account_of_shop,
        &cluster::mesh(),
        &node,
        &pod("web", "web"),
    ] {
        cluster.create(object).await.unwrap();
    }
    let stored = cluster.get("pod", "web").await;
    assert_eq!(names(&stored, "containers"), ["app"]);
    assert_eq!(names(&stored, "initContainers"), ["proxyinit", "envoy"]);
    let envoy = &stored["spec"]["initContainers"][1];
    assert_eq!(envoy["restartPolicy"], "Always");
    assert_eq!(envoy["lifecycle"]["preStop"]["sleep"]["seconds"], 20);
    let config = envoy["args"][1].as_str().unwrap();
    assert!(
        config.contains(r#""id":"mesh/shop/virtualNode/web_shop""#),
        "{config}"
    );

    let error = cluster.create(&pod("lost", "other")).await.unwrap_err();
    for words in ["mpod.appmesh.k8s.aws", "VirtualNode `web`", WRONG_LABEL] {
        assert!(error.contains(words), "{words} in {error}");
    }
    rejections_are_events(&cluster).await;
    pod_of_an_unknown_namespace_is_rejected(&cluster).await;
    let mut elsewhere = pod("free", "other");
    elsewhere["metadata"]["namespace"] = "default".into();
    cluster.apply(&default_account("default")).await.unwrap();
    cluster.create(&elsewhere).await.unwrap();
}
