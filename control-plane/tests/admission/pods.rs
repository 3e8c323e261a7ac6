//! Pods: that the API server takes what they become, under which level of Pod Security, and asks us about them.

use std::{collections::BTreeMap, fs, path::PathBuf};

use evermesh_testkit::{kubernetes::ApiServer, tools};
use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, PostParams},
};
use serde_json::{Value, json};

use crate::cluster::{self, Cluster};

/// The case of a pod that lacks a volume until another webhook adds it.
const LATER: &str = "annotation/volume-mounts-of-another-webhook";

/// Every golden pod as it was patched, by the name of its case.
fn golden_pods() -> BTreeMap<String, Value> {
    let root = tools::workspace()
        .unwrap()
        .join("sidecar-injector/tests/testdata");
    let folders = |path: PathBuf| fs::read_dir(path).unwrap().map(|it| it.unwrap().path());
    let mut pods = BTreeMap::new();
    for case in folders(root.clone()).flat_map(folders) {
        let text = fs::read_to_string(case.join("out.snap")).unwrap();
        let (_, out) = text[4..].split_once("\n---\n").unwrap();
        let out: Value = serde_saphyr::from_str(out).unwrap();
        if out["pod"].is_object() {
            let name = case.strip_prefix(&root).unwrap();
            pods.insert(name.display().to_string(), out["pod"].clone());
        }
    }
    assert!(pods.len() > 60, "{}", pods.len());
    pods
}

async fn api_server() -> (ApiServer, Client) {
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

/// Creates a pod for show; the refusal, if it is refused.
async fn refusal(client: &Client, namespace: &str, pod: &Value) -> Option<String> {
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

/// What `restricted` wants of containers that are not ours.
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
async fn the_api_server_takes_every_patched_pod() {
    let (_api, client) = api_server().await;
    for (case, mut pod) in golden_pods() {
        if case == LATER {
            let refused = refusal(&client, "privileged", &pod).await.unwrap();
            let words = r#"volumeMounts[1].name: Not found: "certs""#;
            assert!(refused.contains(words), "{refused}");
            let volumes = pod["spec"]["volumes"].as_array_mut().unwrap();
            volumes.push(json!({ "name": "certs", "emptyDir": {} }));
        }
        assert_eq!(refusal(&client, "privileged", &pod).await, None, "{case}");
        let text = pod["spec"].to_string();
        // What Pod Security forbids, ours or the pod's own.
        let intercepted = text.contains("NET_ADMIN");
        let beyond = text.contains("hostPath") || text.contains("hostNetwork");
        let at_baseline = refusal(&client, "baseline", &pod).await;
        assert_eq!(
            at_baseline.is_some(),
            intercepted || beyond,
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
        let at_restricted = refusal(&client, "restricted", &pod).await;
        // A gateway's container keeps the context that its owner gave it.
        let is_refused = at_restricted.is_some() && !is_gateway;
        assert_eq!(
            is_refused,
            beyond && !is_gateway,
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

/// Without it the namespace takes no pods.
fn account(namespace: &str) -> Value {
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

/// Events about refusals, as `OBJECT: REASON`, with how often each was.
async fn refusals_told(cluster: &Cluster) -> BTreeMap<String, u64> {
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
        assert!(note.contains("the label `app` is `other`"), "{note}");
        let times = event["series"]["count"].as_u64().unwrap_or(1);
        (format!("{kind}/{name}: {}", word(&event["reason"])), times)
    });
    events.collect()
}

/// A pod of a namespace that is on its way to the webhooks is not let through, and its author hears why.
async fn unseen_is_refused(cluster: &Cluster) {
    let mut namespace = cluster::namespace(cluster::UNSEEN);
    namespace["metadata"]["labels"][evermesh_injector::INJECTION] = "enabled".into();
    let mut early = pod("early", "web");
    early["metadata"]["namespace"] = cluster::UNSEEN.into();
    let account = account(cluster::UNSEEN);
    for object in [&namespace, &account] {
        cluster.create(object).await.unwrap();
    }
    let refusal = cluster.create(&early).await.unwrap_err();
    for words in [
        "(ServiceUnavailable)",
        "denied the request: it is not known here yet what the label `appmesh.k8s.aws/sidecarInjectorWebhook` of the namespace `unseen` says",
    ] {
        assert!(refusal.contains(words), "{refusal}");
    }
}

/// A refused pod leaves an event about what wants it; one for show leaves none.
async fn refusals_are_told(cluster: &Cluster) {
    let mut owned = pod("owned", "other");
    owned["metadata"]["ownerReferences"] = json!([{
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "name": "web-1",
        "uid": "7a4f1e0c",
        "controller": true,
    }]);
    cluster.dry_run(&pod("shown", "other")).await.unwrap_err();
    for _ in 0..2 {
        cluster.create(&owned).await.unwrap_err();
    }
    let expected = BTreeMap::from([
        ("Pod/lost: SidecarRefused".to_owned(), 1),
        ("ReplicaSet/web-1: SidecarRefused".to_owned(), 2),
    ]);
    cluster
        .eventually("the refusals in events", async || {
            (refusals_told(cluster).await == expected).then_some(())
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn makes_pods_members() {
    let cluster = Cluster::start().await;
    let mut namespace = cluster::namespace("shop");
    namespace["metadata"]["labels"][evermesh_injector::INJECTION] = "enabled".into();
    let account_of_shop = account("shop");
    let node = json!({
        "apiVersion": "appmesh.k8s.aws/v1beta2",
        "kind": "VirtualNode",
        "metadata": { "name": "web", "namespace": "shop" },
        "spec": { "podSelector": { "matchLabels": { "app": "web" } } },
    });
    // The pod at once after its node: the webhook waits for the news.
    for object in [
        &namespace,
        &account_of_shop,
        &cluster::mesh(),
        &node,
        &pod("web", "web"),
    ] {
        cluster.create(object).await.unwrap();
    }
    let kept = cluster.get("pod", "web").await;
    assert_eq!(names(&kept, "containers"), ["app"]);
    assert_eq!(names(&kept, "initContainers"), ["proxyinit", "envoy"]);
    let envoy = &kept["spec"]["initContainers"][1];
    assert_eq!(envoy["restartPolicy"], "Always");
    assert_eq!(envoy["lifecycle"]["preStop"]["sleep"]["seconds"], 20);
    let config = envoy["args"][1].as_str().unwrap();
    assert!(
        config.contains(r#""id":"mesh/shop/virtualNode/web_shop""#),
        "{config}"
    );

    let refusal = cluster.create(&pod("lost", "other")).await.unwrap_err();
    for words in [
        "mpod.appmesh.k8s.aws",
        "VirtualNode `web`: the label `app` is `other` and must be `web`",
    ] {
        assert!(refusal.contains(words), "{refusal}");
    }
    refusals_are_told(&cluster).await;
    unseen_is_refused(&cluster).await;
    let mut elsewhere = pod("free", "other");
    elsewhere["metadata"]["namespace"] = "default".into();
    cluster.apply(&account("default")).await.unwrap();
    cluster.create(&elsewhere).await.unwrap();
}
