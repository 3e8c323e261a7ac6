//! Admission as a real API server asks for it: what is filled, what is refused, what pods become, and the
//! certificates that it trusts.

#![allow(clippy::unwrap_used)] // what fails here fails a test

#[path = "admission/cluster.rs"]
mod cluster;
#[path = "admission/pods.rs"]
mod pods;

use std::{
    collections::BTreeSet,
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use cluster::{Clock, Cluster, MESH};
use evermesh_testkit::tools;
use serde_json::{Value, json};

const DAY: Duration = Duration::from_hours(24);

fn object(kind: &str, name: &str, spec: &Value) -> Value {
    json!({
        "apiVersion": "appmesh.k8s.aws/v1beta2",
        "kind": kind,
        "metadata": { "name": name, "namespace": "shop" },
        "spec": spec,
    })
}

/// What Flagger writes: a trailing dot, no awsName, no meshRef, lists in an order of its own.
fn of_flagger() -> Vec<Value> {
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
async fn fills_what_flagger_leaves_out_and_nothing_else() {
    let cluster = Cluster::start().await;
    // The members come as soon as the API server has their mesh.
    cluster.create(&cluster::namespace("shop")).await.unwrap();
    cluster.create(&cluster::mesh()).await.unwrap();
    let uid = cluster.get("mesh", MESH).await["metadata"]["uid"].clone();
    for written in of_flagger() {
        cluster.create(&written).await.unwrap();
        let kind = written["kind"].as_str().unwrap();
        let name = written["metadata"]["name"].as_str().unwrap();
        let mut kept = cluster.get(kind, name).await;
        let spec = kept["spec"].as_object_mut().unwrap();
        let separator = if kind == "VirtualService" { '.' } else { '_' };
        let aws_name = format!("{name}{separator}shop");
        assert_eq!(spec.remove("awsName"), Some(aws_name.into()));
        assert_eq!(
            spec.remove("meshRef"),
            Some(json!({ "name": MESH, "uid": uid }))
        );
        assert_eq!(kept["spec"].to_string(), written["spec"].to_string());
        let metadata = &kept["metadata"];
        assert_eq!(metadata["annotations"], Value::Null);
        assert_eq!(metadata["labels"], Value::Null);
    }
    // A weight shift: the whole object, as it was read, with other weights.
    let mut router = cluster.get("virtualrouter", "podinfo").await;
    let targets = router.pointer_mut("/spec/routes/0/httpRoute/action/weightedTargets");
    *targets.unwrap() = json!([
        { "virtualNodeRef": { "name": "podinfo-canary" }, "weight": 5 },
        { "virtualNodeRef": { "name": "podinfo-primary" }, "weight": 95 },
    ]);
    cluster.replace(&router).await.unwrap();
    let kept = cluster.get("virtualrouter", "podinfo").await;
    assert_eq!(kept["spec"], router["spec"]);
}

#[allow(clippy::too_many_lines)] // a table
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refuses_what_app_mesh_refused() {
    let cluster = Cluster::start().await;
    for object in [cluster::namespace("shop"), cluster::mesh()] {
        cluster.create(&object).await.unwrap();
    }
    let refused = async |object: &Value, words: &str| {
        let refusal = cluster.create(object).await.unwrap_err();
        assert!(refusal.contains(words), "{refusal}");
        assert!(refusal.contains("denied the request"), "{refusal}");
    };
    let port = json!({ "portMapping": { "port": 80, "protocol": "http" } });
    let reference = json!({ "name": MESH, "uid": "any" });
    let service = json!({ "virtualServiceRef": { "name": "s" } });
    let backend = json!({ "virtualService": service });
    let pools = json!({ "http": { "maxConnections": 1 }, "http2": { "maxRequests": 1 } });
    let dns = json!({ "dns": { "hostname": "a." } });
    let pooled = json!({ "portMapping": port["portMapping"], "connectionPool": pools });
    let route = |name: &str, matches: Value| {
        let action =
            json!({ "weightedTargets": [{ "virtualNodeRef": { "name": "v" }, "weight": 1 }] });
        json!({ "name": name, "httpRoute": { "match": matches, "action": action } })
    };
    let gateway_route = json!({ "httpRoute": { "match": { "prefix": "/" }, "action": { "target": { "virtualService": service } } } });
    for (kind, spec, words) in [
        (
            "VirtualNode",
            json!({ "meshRef": reference }),
            "spec.meshRef: is filled in",
        ),
        (
            "VirtualNode",
            json!({ "listeners": [port] }),
            "spec.serviceDiscovery: a node with listeners",
        ),
        (
            "VirtualNode",
            json!({ "backends": [backend, backend] }),
            "spec.backends[1]: the virtual service is listed before",
        ),
        (
            "VirtualNode",
            json!({ "listeners": [pooled], "serviceDiscovery": dns }),
            "spec.listeners[0].connectionPool: several kinds",
        ),
        (
            "VirtualRouter",
            json!({ "routes": [route("a", json!({ "prefix": "/" })), route("a", json!({ "prefix": "/b" }))] }),
            "spec.routes[1].name: there is a route `a` before it",
        ),
        (
            "VirtualRouter",
            json!({ "routes": [route("a", json!({}))] }),
            "spec.routes[0].httpRoute.match: neither prefix nor path",
        ),
        (
            "VirtualGateway",
            json!({ "listeners": [pooled] }),
            "spec.listeners[0].connectionPool: several kinds",
        ),
        (
            "VirtualService",
            json!({ "meshRef": reference }),
            "spec.meshRef: is filled in",
        ),
        (
            "BackendGroup",
            json!({ "meshRef": reference }),
            "spec.meshRef: is filled in",
        ),
        (
            "GatewayRoute",
            gateway_route.clone(),
            "spec.virtualGatewayRef: no virtual gateway of the mesh",
        ),
    ] {
        refused(&object(kind, "x", &spec), words).await;
    }
    let listens = json!({ "listeners": [port], "namespaceSelector": {} });
    cluster
        .create(&object("VirtualGateway", "gate", &listens))
        .await
        .unwrap();
    cluster
        .create(&object("GatewayRoute", "x", &gateway_route))
        .await
        .unwrap();
    let kept = cluster.get("gatewayroute", "x").await;
    assert_eq!(kept["spec"]["virtualGatewayRef"]["name"], "gate");
    let mut no_match = gateway_route.clone();
    no_match["httpRoute"]["match"] = json!({});
    refused(
        &object("GatewayRoute", "y", &no_match),
        "spec.httpRoute.match: set at least one of",
    )
    .await;
    let mut expression = object(
        "Route",
        "x",
        &route("", json!({ "path": { "regex": "/(" } })),
    );
    expression["apiVersion"] = "evermesh.dev/v1alpha1".into();
    expression["spec"]["virtualRouterRef"] = json!({ "name": "r" });
    expression["spec"].as_object_mut().unwrap().remove("name");
    refused(
        &expression,
        "spec.httpRoute.match.path.regex: `/(` is not a regular expression",
    )
    .await;
    expression["spec"]["httpRoute"]["match"] = json!({ "path": { "regex": "/a+" } });
    cluster.create(&expression).await.unwrap();

    let mut elsewhere = object("VirtualNode", "x", &json!({}));
    elsewhere["metadata"]["namespace"] = "default".into();
    refused(&elsewhere, "no mesh selects the namespace `default`").await;
    let mut second = cluster::mesh();
    second["metadata"]["name"] = "second".into();
    cluster.create(&second).await.unwrap();
    cluster.known("second").await;
    refused(
        &object("VirtualNode", "x", &json!({})),
        "all select the namespace `shop`",
    )
    .await;
    cluster
        .kubectl(&["delete", "mesh", "second"])
        .await
        .unwrap();
    cluster.unknown("second").await;

    let map = json!({ "awsCloudMap": { "namespaceName": "ns", "serviceName": "s" } });
    cluster
        .create(&object(
            "VirtualNode",
            "x",
            &json!({ "serviceDiscovery": map }),
        ))
        .await
        .unwrap();
    for (path, value) in [
        ("/spec/awsName", json!("other")),
        ("/spec/meshRef/uid", json!("other")),
        (
            "/spec/serviceDiscovery/awsCloudMap/serviceName",
            json!("other"),
        ),
    ] {
        let patch = json!([{ "op": "replace", "path": path, "value": value }]).to_string();
        let refusal = cluster.patch("virtualnode", "x", &patch).await.unwrap_err();
        assert!(refusal.contains("cannot be changed from"), "{refusal}");
    }
    let patch = json!([{ "op": "add", "path": "/spec/backends", "value": [backend] }]).to_string();
    cluster.patch("virtualnode", "x", &patch).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_another_controller_left_behind_can_go() {
    const FINALIZER: &str = "finalizers.appmesh.k8s.aws/aws-appmesh-resources";
    let cluster = Cluster::without_webhooks().await;
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
    let refusal = cluster.patch("virtualnode", "x", change).await.unwrap_err();
    assert!(refusal.contains("a node with listeners needs"), "{refusal}");
    for (kind, name) in [("virtualnode", "x"), ("mesh", MESH)] {
        let delete = ["delete", kind, name, "--namespace=shop", "--wait=false"];
        cluster.kubectl(&delete).await.unwrap();
    }
    cluster.terminating(MESH).await;
    let late = object("VirtualNode", "late", &json!({}));
    let refusal = cluster.create(&late).await.unwrap_err();
    assert!(
        refusal.contains("is being deleted and takes no new members"),
        "{refusal}"
    );
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
async fn takes_every_example() {
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
        for document in &documents {
            let applied = cluster.apply(document).await;
            applied.unwrap_or_else(|refusal| panic!("{}: {refusal}", folder.display()));
        }
        for mesh in documents
            .iter()
            .filter(|document| document["kind"] == "Mesh")
        {
            let name = mesh["metadata"]["name"].as_str().unwrap();
            cluster.kubectl(&["delete", "mesh", name]).await.unwrap();
            cluster.unknown(name).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_fails_while_certificates_are_renewed() {
    let clock = Clock::default();
    clock.set_back(7 * 365 * DAY);
    let cluster = Cluster::with_clock(&clock).await;
    let other_replica = cluster.start_replica(&clock).await;
    cluster
        .secret_is(|secret| secret["tls.crt"].is_string())
        .await;
    // The first certificate is of long ago; from the next on each is valid.
    clock.set_back(DAY + DAY / 8);
    cluster.touch_secret().await;
    cluster
        .secret_is(|secret| secret["next-authority.crt"].is_string())
        .await;
    for object in [cluster::namespace("shop"), cluster::mesh()] {
        cluster.create_soon(&object).await;
    }
    cluster.bundles_are_right().await;

    let stop = Arc::new(AtomicBool::new(false));
    let asked = AtomicUsize::new(0);
    let asking = async {
        while !stop.load(Ordering::Relaxed) {
            let created = cluster
                .dry_run(&object("VirtualNode", "x", &json!({})))
                .await;
            created.unwrap();
            asked.fetch_add(1, Ordering::Relaxed);
        }
    };
    let renewing = async {
        let last = cluster.secret().await;
        clock.set_back(Duration::ZERO);
        cluster.touch_secret().await;
        cluster
            .secret_is(|secret| secret["authority.crt"] == last["next-authority.crt"])
            .await;
        let used = asked.load(Ordering::Relaxed);
        // Both replicas have taken it up, and somebody spoils the bundles, a moment later.
        cluster.bundles_are_right().await;
        while asked.load(Ordering::Relaxed) < used + 10 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        stop.store(true, Ordering::Relaxed);
    };
    tokio::join!(asking, renewing);
    assert_eq!(
        other_replica.serving().await,
        cluster.serving().await,
        "they share it"
    );

    cluster.spoil_bundles().await;
    cluster.bundles_are_right().await;
    cluster
        .kubectl(&["delete", "secret", "evermesh-webhook"])
        .await
        .unwrap();
    cluster
        .secret_is(|secret| secret["tls.crt"].is_string())
        .await;
    cluster.bundles_are_right().await;
    cluster
        .create_soon(&object("VirtualNode", "x", &json!({})))
        .await;
}
