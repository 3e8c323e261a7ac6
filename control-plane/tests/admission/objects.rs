//! The mesh's objects: which fields the webhooks fill in, and which objects they reject.

use std::{collections::BTreeSet, fs};

use evermesh_testkit::tools;
use serde_json::{Value, json};

use crate::{
    cluster::{self, Clock, Cluster, MESH},
    object,
};

/// Objects as Flagger creates them: a hostname that ends with a dot, neither awsName nor meshRef, and lists in Flagger's
/// own order.
fn flagger_objects() -> Vec<Value> {
    let weighted = json!([
        { "virtualNodeRef": { "name": "podinfo-canary" }, "weight": 0 },
        { "virtualNodeRef": { "name": "podinfo-primary" }, "weight": 100 },
    ]);
    let mut objects: Vec<Value> = ["primary", "canary"]
        .into_iter()
        .map(|suffix| {
            let name = format!("podinfo-{suffix}");
            let spec = json!({
                "podSelector": { "matchLabels": { "app": name } },
                "listeners": [{
                    "portMapping": { "port": 9898, "protocol": "grpc" },
                    "timeout": { "http": { "perRequest": { "unit": "ms", "value": 15000 } } },
                }],
                "serviceDiscovery": { "dns": { "hostname": format!("{name}.shop.svc.cluster.local.") } },
                "backends": [{ "virtualService": { "virtualServiceRef": { "name": "backend" } } }],
            });
            object("VirtualNode", &name, &spec)
        })
        .collect();
    objects.push(object(
        "VirtualRouter",
        "podinfo",
        &json!({
            "listeners": [{ "portMapping": { "port": 9898, "protocol": "grpc" } }],
            "routes": [{
                "name": "podinfo",
                "httpRoute": {
                    "match": { "prefix": "/" },
                    "action": { "weightedTargets": weighted },
                    "retryPolicy": {
                        "maxRetries": 3,
                        "perRetryTimeout": { "unit": "ms", "value": 5000 },
                        "httpRetryEvents": ["gateway-error", "client-error", "stream-error"],
                    },
                },
            }],
        }),
    ));
    let provider = json!({ "virtualRouter": { "virtualRouterRef": { "name": "podinfo" } } });
    objects.push(object(
        "VirtualService",
        "podinfo",
        &json!({ "provider": provider }),
    ));
    objects
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn missing_fields_of_flaggers_objects_are_filled_in_and_nothing_else_changes() {
    let cluster = Cluster::start().await;
    // The first member is created at once after its mesh.
    cluster.create(&cluster::namespace("shop")).await.unwrap();
    cluster.create(&cluster::mesh()).await.unwrap();
    let uid = cluster.get("mesh", MESH).await["metadata"]["uid"].clone();
    for written in flagger_objects() {
        cluster.create(&written).await.unwrap();
        let kind = written["kind"].as_str().unwrap();
        let name = written["metadata"]["name"].as_str().unwrap();
        let mut stored = cluster.get(kind, name).await;
        let spec = stored["spec"].as_object_mut().unwrap();
        let separator = if kind == "VirtualService" { '.' } else { '_' };
        let aws_name = format!("{name}{separator}shop");
        assert_eq!(spec.remove("awsName"), Some(aws_name.into()));
        assert_eq!(
            spec.remove("meshRef"),
            Some(json!({ "name": MESH, "uid": uid }))
        );
        assert_eq!(stored["spec"].to_string(), written["spec"].to_string());
        let metadata = &stored["metadata"];
        assert_eq!(metadata["annotations"], Value::Null);
        assert_eq!(metadata["labels"], Value::Null);
    }
    // Flagger shifts weights by writing back the whole object that it read.
    let mut router = cluster.get("virtualrouter", "podinfo").await;
    let targets = router.pointer_mut("/spec/routes/0/httpRoute/action/weightedTargets");
    *targets.unwrap() = json!([
        { "virtualNodeRef": { "name": "podinfo-canary" }, "weight": 5 },
        { "virtualNodeRef": { "name": "podinfo-primary" }, "weight": 95 },
    ]);
    cluster.replace(&router).await.unwrap();
    let stored = cluster.get("virtualrouter", "podinfo").await;
    assert_eq!(stored["spec"], router["spec"]);
}

/// Checks that a webhook rejects the object with a message that contains `words`.
async fn is_rejected(cluster: &Cluster, object: &Value, words: &str) {
    let error = cluster.create(object).await.unwrap_err();
    assert!(error.contains(words), "{words} in {error}");
    assert!(error.contains("denied the request"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn objects_that_app_mesh_rejected_are_rejected() {
    let cluster = Cluster::start().await;
    for object in [cluster::namespace("shop"), cluster::mesh()] {
        cluster.create(&object).await.unwrap();
    }
    wrong_specs_are_rejected(&cluster).await;
    gateway_route_needs_a_gateway_and_a_match(&cluster).await;
    invalid_regex_is_rejected(&cluster).await;
    namespace_needs_exactly_one_mesh(&cluster).await;
    identity_of_a_node_cannot_be_changed(&cluster).await;
}

async fn wrong_specs_are_rejected(cluster: &Cluster) {
    let port = json!({ "portMapping": { "port": 80, "protocol": "http" } });
    let reference = json!({ "name": MESH, "uid": "any" });
    let pools = json!({ "http": { "maxConnections": 1 }, "http2": { "maxRequests": 1 } });
    let dns = json!({ "dns": { "hostname": "a." } });
    let pooled = json!({ "portMapping": port["portMapping"], "connectionPool": pools });
    let route = |matched: Value| {
        let action =
            json!({ "weightedTargets": [{ "virtualNodeRef": { "name": "v" }, "weight": 1 }] });
        json!({ "name": "a", "httpRoute": { "match": matched, "action": action } })
    };
    for (kind, spec, field) in [
        (
            "VirtualNode",
            json!({ "meshRef": reference }),
            "spec.meshRef: ",
        ),
        (
            "VirtualNode",
            json!({ "listeners": [port] }),
            "spec.serviceDiscovery: ",
        ),
        (
            "VirtualNode",
            json!({ "backends": [backend(), backend()] }),
            "spec.backends[1]: ",
        ),
        (
            "VirtualNode",
            json!({ "listeners": [pooled], "serviceDiscovery": dns }),
            "spec.listeners[0].connectionPool: ",
        ),
        (
            "VirtualRouter",
            json!({ "routes": [route(json!({ "prefix": "/" })), route(json!({ "prefix": "/b" }))] }),
            "spec.routes[1].name: ",
        ),
        (
            "VirtualRouter",
            json!({ "routes": [route(json!({}))] }),
            "spec.routes[0].httpRoute.match: ",
        ),
        (
            "VirtualGateway",
            json!({ "listeners": [pooled] }),
            "spec.listeners[0].connectionPool: ",
        ),
        (
            "VirtualService",
            json!({ "meshRef": reference }),
            "spec.meshRef: ",
        ),
        (
            "BackendGroup",
            json!({ "meshRef": reference }),
            "spec.meshRef: ",
        ),
    ] {
        is_rejected(cluster, &object(kind, "x", &spec), field).await;
    }
}

fn backend() -> Value {
    json!({ "virtualService": { "virtualServiceRef": { "name": "s" } } })
}

async fn gateway_route_needs_a_gateway_and_a_match(cluster: &Cluster) {
    let gateway_route = json!({ "httpRoute": {
        "match": { "prefix": "/" },
        "action": { "target": backend() },
    } });
    let valid = object("GatewayRoute", "x", &gateway_route);
    is_rejected(cluster, &valid, "spec.virtualGatewayRef: ").await;
    let port = json!({ "portMapping": { "port": 80, "protocol": "http" } });
    let gateway = json!({ "listeners": [port], "namespaceSelector": {} });
    let gateway = object("VirtualGateway", "gate", &gateway);
    cluster.create(&gateway).await.unwrap();
    cluster.create(&valid).await.unwrap();
    let stored = cluster.get("gatewayroute", "x").await;
    assert_eq!(stored["spec"]["virtualGatewayRef"]["name"], "gate");

    let mut no_match = gateway_route;
    no_match["httpRoute"]["match"] = json!({});
    let no_match = object("GatewayRoute", "y", &no_match);
    is_rejected(cluster, &no_match, "spec.httpRoute.match: ").await;
}

async fn invalid_regex_is_rejected(cluster: &Cluster) {
    let action = json!({ "weightedTargets": [{ "virtualNodeRef": { "name": "v" }, "weight": 1 }] });
    let spec = json!({
        "virtualRouterRef": { "name": "r" },
        "httpRoute": { "match": { "path": { "regex": "/(" } }, "action": action },
    });
    let mut route = object("Route", "x", &spec);
    route["apiVersion"] = "evermesh.dev/v1alpha1".into();
    is_rejected(cluster, &route, "spec.httpRoute.match.path.regex: ").await;
    route["spec"]["httpRoute"]["match"] = json!({ "path": { "regex": "/a+" } });
    cluster.create(&route).await.unwrap();
}

async fn namespace_needs_exactly_one_mesh(cluster: &Cluster) {
    let mut elsewhere = object("VirtualNode", "x", &json!({}));
    elsewhere["metadata"]["namespace"] = "default".into();
    is_rejected(cluster, &elsewhere, "(MeshNotFound)").await;
    let mut second = cluster::mesh();
    second["metadata"]["name"] = "second".into();
    cluster.create(&second).await.unwrap();
    cluster.mesh_is_known("second").await;
    let node = object("VirtualNode", "x", &json!({}));
    is_rejected(cluster, &node, "(MeshAmbiguous)").await;
    cluster
        .kubectl(&["delete", "mesh", "second"])
        .await
        .unwrap();
    cluster.mesh_is_gone("second").await;
}

async fn identity_of_a_node_cannot_be_changed(cluster: &Cluster) {
    let map = json!({ "awsCloudMap": { "namespaceName": "ns", "serviceName": "s" } });
    let node = object("VirtualNode", "x", &json!({ "serviceDiscovery": map }));
    cluster.create(&node).await.unwrap();
    for path in [
        "/spec/awsName",
        "/spec/meshRef/uid",
        "/spec/serviceDiscovery/awsCloudMap/serviceName",
    ] {
        let patch = json!([{ "op": "replace", "path": path, "value": "other" }]).to_string();
        let error = cluster.patch("virtualnode", "x", &patch).await.unwrap_err();
        assert!(error.contains("(Immutable)"), "{path}: {error}");
    }
    let patch =
        json!([{ "op": "add", "path": "/spec/backends", "value": [backend()] }]).to_string();
    cluster.patch("virtualnode", "x", &patch).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn objects_of_another_controller_can_be_labelled_and_deleted() {
    const FINALIZER: &str = "finalizers.appmesh.k8s.aws/aws-appmesh-resources";
    let cluster = Cluster::without_webhooks(&Clock::default()).await;
    cluster.create(&cluster::namespace("shop")).await.unwrap();
    let port = json!({ "portMapping": { "port": 80, "protocol": "http" } });
    let mut node = object(
        "VirtualNode",
        "x",
        &json!({ "awsName": "x", "listeners": [port] }),
    );
    let mut mesh = cluster::mesh();
    for object in [&mut node, &mut mesh] {
        object["metadata"]["finalizers"] = json!([FINALIZER]);
        cluster.create(object).await.unwrap();
    }
    cluster.install_webhooks().await;
    let labelled = cluster
        .kubectl(&["label", "virtualnode", "x", "--namespace=shop", "a=b"])
        .await;
    labelled.unwrap();
    let change = r#"[{"op": "add", "path": "/spec/backends", "value": []}]"#;
    let error = cluster.patch("virtualnode", "x", change).await.unwrap_err();
    assert!(error.contains("spec.serviceDiscovery: "), "{error}");
    for (kind, name) in [("virtualnode", "x"), ("mesh", MESH)] {
        let delete = ["delete", kind, name, "--namespace=shop", "--wait=false"];
        cluster.kubectl(&delete).await.unwrap();
    }
    cluster.mesh_is_terminating(MESH).await;
    let late = object("VirtualNode", "late", &json!({}));
    is_rejected(&cluster, &late, "is being deleted").await;
    let remove = r#"[{"op": "remove", "path": "/metadata/finalizers"}]"#;
    for (kind, name) in [("virtualnode", "x"), ("mesh", MESH)] {
        cluster.patch(kind, name, remove).await.unwrap();
        let gone = cluster
            .kubectl(&["get", kind, name, "--namespace=shop"])
            .await;
        assert!(gone.unwrap_err().contains("not found"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_example_is_admitted() {
    const FIRST: [&str; 3] = ["Namespace", "Mesh", "VirtualGateway"];
    let cluster = Cluster::start().await;
    let examples = tools::workspace().unwrap().join("examples");
    for folder in fs::read_dir(examples).unwrap() {
        let folder = folder.unwrap().path();
        let Ok(files) = fs::read_dir(&folder) else {
            continue;
        };
        let mut documents: Vec<Value> = files
            .map(|file| file.unwrap().path())
            .filter(|path| path.extension().is_some_and(|it| it == "yaml"))
            .flat_map(|path| {
                let text = fs::read_to_string(path).unwrap();
                serde_saphyr::from_multiple::<Value>(&text).unwrap()
            })
            .collect();
        documents.sort_by_key(|document| {
            FIRST
                .iter()
                .position(|kind| document["kind"] == *kind)
                .unwrap_or(FIRST.len())
        });
        let namespaces: BTreeSet<_> = documents
            .iter()
            .filter_map(|document| document["metadata"]["namespace"].as_str())
            .collect();
        for namespace in namespaces {
            cluster.apply(&cluster::namespace(namespace)).await.unwrap();
        }
        let applied = cluster.apply_all(&documents).await;
        applied.unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        for mesh in documents
            .iter()
            .filter(|document| document["kind"] == "Mesh")
        {
            let name = mesh["metadata"]["name"].as_str().unwrap();
            cluster.kubectl(&["delete", "mesh", name]).await.unwrap();
            cluster.mesh_is_gone(name).await;
        }
    }
}
