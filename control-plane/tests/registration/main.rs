//! Pods on a real API server and instances in a real Cloud Map server: what becomes of ones in the other.
//!
//! There is no kubelet: the tests say how far each pod has come.
#![allow(clippy::unwrap_used)] // what fails here fails a test

mod scene;

use aws_sdk_servicediscovery::types::{HealthStatus, RecordType, RoutingPolicy};
use evermesh_testkit::kubernetes::PodState::{ContainersReady, Started};
use scene::{FINALIZER, Scene, a_round, attributes, endpoints, eventually, node};

#[tokio::test]
async fn a_pod_is_registered_while_its_containers_are_ready() {
    let scene = Scene::build().await;
    let _control_plane = scene.start_registering().await;
    scene
        .api
        .apply(&node("v1", "shop.local", "color"))
        .await
        .unwrap();
    scene.pod("a", "v1", "10.0.0.1", Started).await;
    scene.gate_becomes("a", "False ContainersNotReady").await;
    assert!(scene.instances("color").await.is_empty());

    scene.set_pod("a", "10.0.0.1", ContainersReady).await;
    scene.gate_becomes("a", "True Registered").await;
    let instances = scene.instances("color").await;
    let found: Vec<_> = instances["10.0.0.1"].clone().into_iter().collect();
    assert_eq!(found, attributes("a", "v1", "10.0.0.1"));

    let service = scene.service("color").await.unwrap();
    let virtual_node = scene.get("virtualnode/v1").await;
    let metadata = &virtual_node["metadata"];
    assert_eq!(
        metadata["annotations"]["cloudMapServiceARN"],
        service.arn().unwrap()
    );
    assert_eq!(metadata["uid"], service.creator_request_id().unwrap());
    assert_eq!(metadata["finalizers"], serde_json::json!([FINALIZER]));
    assert!(service.dns_config().is_none(), "of an HTTP namespace");
    assert!(service.health_check_custom_config().is_none());

    // What did not change is not written again: the test fails if an instance is registered twice.
    let before = scene.get("pod/a").await;
    a_round().await;
    scene.holds("color", &["10.0.0.1"]).await;
    let version = |pod: &serde_json::Value| pod["metadata"]["resourceVersion"].clone();
    assert_eq!(version(&before), version(&scene.get("pod/a").await));

    scene.set_pod("a", "10.0.0.1", Started).await;
    scene.holds("color", &[]).await;
    scene.gate_becomes("a", "False ContainersNotReady").await;
    scene.set_pod("a", "10.0.0.1", ContainersReady).await;
    scene.gate_becomes("a", "True Registered").await;

    // It stays, terminating: nobody runs here who would end it.
    scene.delete("pod/a").await;
    scene.holds("color", &[]).await;
    assert!(!scene.is_gone("pod/a").await);
}

#[tokio::test]
async fn where_health_can_be_told_every_pod_is_registered() {
    let scene = Scene::build().await;
    let create = scene.cloud_map.create_private_dns_namespace();
    create.name("dns.local").vpc("vpc").send().await.unwrap();
    let flags = [
        "--cloud-map-custom-health-check",
        "--cloud-map-dns-ttl",
        "60",
    ];
    let flags = [&["--cloud-map-registration"], &flags[..]].concat();
    let _control_plane = scene.start(&flags).await;
    scene
        .api
        .apply(&node("v1", "dns.local", "color"))
        .await
        .unwrap();
    scene.pod("a", "v1", "10.0.0.1", Started).await;
    scene.holds("color", &["10.0.0.1"]).await;
    let service = scene.service("color").await.unwrap();
    let dns = service.dns_config().unwrap();
    assert_eq!(dns.routing_policy(), Some(&RoutingPolicy::Multivalue));
    let [record] = dns.dns_records() else {
        panic!("{dns:?}")
    };
    assert_eq!((record.r#type(), record.ttl()), (&RecordType::A, 60));
    assert!(service.health_check_custom_config().is_some());
    let instances = scene.instances("color").await;
    assert_eq!(instances["10.0.0.1"]["AWS_INIT_HEALTH_STATUS"], "UNHEALTHY");

    let becomes = async |wanted: HealthStatus| {
        eventually(wanted.as_str(), async || {
            scene.health("color", "10.0.0.1").await.as_ref() == Some(&wanted)
        })
        .await;
    };
    becomes(HealthStatus::Unhealthy).await;
    scene.gate_becomes("a", "False ContainersNotReady").await;
    scene.set_pod("a", "10.0.0.1", ContainersReady).await;
    becomes(HealthStatus::Healthy).await;
    scene.gate_becomes("a", "True Registered").await;
    scene.set_pod("a", "10.0.0.1", Started).await;
    becomes(HealthStatus::Unhealthy).await;
    scene.gate_becomes("a", "False ContainersNotReady").await;
    // A change of health is no new registration, whatever the first health was.
    scene.holds("color", &["10.0.0.1"]).await;
}

#[tokio::test]
async fn a_pod_is_served_before_cloud_map_has_it_and_drains_while_it_still_does() {
    let scene = Scene::build().await;
    let slow = ["--endpoint-slices", "--cloud-map-interval", "1m"];
    let control_plane = scene.start(&slow).await;
    let node = node("v1", "shop.local", "color");
    scene.api.apply(&node).await.unwrap();
    scene.pod("a", "v1", "10.0.0.1", ContainersReady).await;
    let becomes = async |wanted: &str| {
        eventually(wanted, async || endpoints(&control_plane).await == wanted).await;
    };
    becomes("10.0.0.1 Healthy eu-west-1b").await;
    assert_eq!(scene.gate("a").await.0, " ", "nobody registers here");
    scene.set_pod("a", "10.0.0.1", Started).await;
    becomes("").await;
    scene.set_pod("a", "10.0.0.1", ContainersReady).await;
    becomes("10.0.0.1 Healthy eu-west-1b").await;
    // It stays, terminating: nobody runs here who would end it.
    scene.delete("pod/a").await;
    becomes("10.0.0.1 Draining eu-west-1b").await;
}

#[tokio::test]
async fn a_service_goes_with_the_last_node_that_it_was_made_for() {
    let mut scene = Scene::build().await;
    scene
        .moto
        .create_service("shop.local", "made-before")
        .await
        .unwrap();
    let _control_plane = scene.start_registering().await;
    for name in ["v1", "v2"] {
        scene
            .api
            .apply(&node(name, "shop.local", "color"))
            .await
            .unwrap();
    }
    scene
        .api
        .apply(&node("v3", "shop.local", "made-before"))
        .await
        .unwrap();
    scene.pod("a", "v1", "10.0.0.1", ContainersReady).await;
    scene.pod("b", "v2", "10.0.0.2", ContainersReady).await;
    scene.pod("c", "v3", "10.0.0.3", ContainersReady).await;
    scene.holds("color", &["10.0.0.1", "10.0.0.2"]).await;
    scene.holds("made-before", &["10.0.0.3"]).await;

    scene.delete("virtualnode/v1").await;
    scene.holds("color", &["10.0.0.2"]).await;
    eventually("the end of v1", async || {
        scene.is_gone("virtualnode/v1").await
    })
    .await;
    a_round().await;
    scene.holds("color", &["10.0.0.2"]).await;

    // It was made for v1, which v2 outlived.
    scene.delete("virtualnode/v2").await;
    eventually("the end of v2", async || {
        scene.is_gone("virtualnode/v2").await
    })
    .await;
    assert!(scene.service("color").await.is_none());

    scene.delete("virtualnode/v3").await;
    eventually("the end of v3", async || {
        scene.is_gone("virtualnode/v3").await
    })
    .await;
    scene.holds("made-before", &[]).await;
    assert!(scene.service("made-before").await.is_some());
}

#[tokio::test]
async fn what_the_old_controller_registered_is_taken_over() {
    let scene = Scene::build().await;
    scene
        .api
        .apply(&node("v1", "shop.local", "color"))
        .await
        .unwrap();
    scene.pod("a", "v1", "10.0.0.1", ContainersReady).await;
    let uid = scene.get("virtualnode/v1").await["metadata"]["uid"].clone();
    let namespaces = scene.cloud_map.list_namespaces().send().await.unwrap();
    let create = scene.cloud_map.create_service().name("color");
    let create = create.namespace_id(namespaces.namespaces()[0].id().unwrap());
    let create = create.creator_request_id(uid.as_str().unwrap());
    create.send().await.unwrap();
    for (pod, ip) in [("a", "10.0.0.1"), ("gone", "10.0.0.2")] {
        let attributes = attributes(pod, "v1", ip);
        let attributes: Vec<_> = attributes
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        scene.register("color", ip, &attributes).await;
    }
    let of_node = |mesh, virtual_node| {
        vec![
            ("appmesh.k8s.aws/mesh", mesh),
            ("appmesh.k8s.aws/virtualNode", virtual_node),
        ]
    };
    for (id, attributes) in [
        ("another-mesh", of_node("another", "v1_shop")),
        ("another-node", of_node("shop", "v9_shop")),
        ("task", vec![("AWS_INSTANCE_IPV4", "10.9.9.9")]),
    ] {
        scene.register("color", id, &attributes).await;
    }
    // Those of others stay, whatever becomes of ours.
    let holds = async |ours: &[&str]| {
        let others = ["another-mesh", "another-node", "task"];
        scene.holds("color", &[ours, &others].concat()).await;
    };
    let finalizers = format!(
        r#"{{"metadata":{{"finalizers":["finalizers.appmesh.k8s.aws/aws-appmesh-resources","{FINALIZER}"]}}}}"#
    );
    let patch = [
        "patch",
        "virtualnode/v1",
        "--type=merge",
        "--patch",
        &finalizers,
    ];
    scene.kubectl(&patch).await;

    let mut control_plane = scene.start_registering().await;
    holds(&["10.0.0.1"]).await;
    scene.gate_becomes("a", "True Registered").await;
    control_plane.restart().unwrap();
    control_plane.ready().await.unwrap();
    scene.pod("b", "v1", "10.0.0.3", ContainersReady).await;
    holds(&["10.0.0.1", "10.0.0.3"]).await;

    // A service that others use stays with what is theirs.
    scene.delete("virtualnode/v1").await;
    eventually("the end of v1", async || {
        scene.is_gone("virtualnode/v1").await
    })
    .await;
    holds(&[]).await;
}

#[tokio::test]
async fn an_outage_loses_nothing_and_closes_no_gate() {
    let mut scene = Scene::build().await;
    let _control_plane = scene.start_registering().await;
    scene
        .api
        .apply(&node("v1", "shop.local", "color"))
        .await
        .unwrap();
    for (pod, ip) in [("a", "10.0.0.1"), ("b", "10.0.0.2")] {
        scene.pod(pod, "v1", ip, ContainersReady).await;
        scene.gate_becomes(pod, "True Registered").await;
    }
    scene.moto.stop();
    scene.pod("c", "v1", "10.0.0.3", ContainersReady).await;
    scene.delete("pod/b").await;
    scene.gate_becomes("c", "False CloudMapUnavailable").await;
    assert_eq!(scene.gate("a").await.0, "True Registered");
    scene.delete("virtualnode/v1").await;
    a_round().await;
    assert!(
        !scene.is_gone("virtualnode/v1").await,
        "its instances are not known to be gone"
    );

    // What comes back remembers the namespace alone.
    scene.moto.restart().await.unwrap();
    eventually("the end of v1", async || {
        scene.is_gone("virtualnode/v1").await
    })
    .await;
    scene
        .api
        .apply(&node("v1", "shop.local", "color"))
        .await
        .unwrap();
    scene.holds("color", &["10.0.0.1", "10.0.0.3"]).await;
    scene.gate_becomes("c", "True Registered").await;
    scene.moto.restart().await.unwrap();
    scene.holds("color", &["10.0.0.1", "10.0.0.3"]).await;
    assert_eq!(scene.gate("a").await.0, "True Registered");
}

#[tokio::test]
async fn a_missing_namespace_is_named_and_stops_nobody_else() {
    let mut scene = Scene::build().await;
    let control_plane = scene.start_registering().await;
    for (name, namespace) in [("v1", "nowhere.local"), ("v2", "shop.local")] {
        scene.api.apply(&node(name, namespace, name)).await.unwrap();
    }
    scene.pod("a", "v1", "10.0.0.1", ContainersReady).await;
    scene.pod("b", "v2", "10.0.0.2", ContainersReady).await;
    scene.gate_becomes("b", "True Registered").await;
    scene.gate_becomes("a", "False CloudMapUnavailable").await;
    let (_, message) = scene.gate("a").await;
    assert!(message.contains("no namespace nowhere.local"), "{message}");
    let log = control_plane.log();
    let is_told =
        |line: &str| line.contains("VirtualNode/shop/v1") && line.contains("nowhere.local");
    assert!(log.lines().any(is_told), "{log}");
    eventually("the node says so", async || {
        let node = scene.get("virtualnode/v1").await;
        let conditions = node["status"]["conditions"]
            .as_array()
            .into_iter()
            .flatten();
        let mut messages = conditions.filter_map(|it| it["message"].as_str());
        messages.any(|message| message.contains("no namespace nowhere.local"))
    })
    .await;

    scene
        .moto
        .create_http_namespace("nowhere.local")
        .await
        .unwrap();
    scene.gate_becomes("a", "True Registered").await;
    scene.holds("v1", &["10.0.0.1"]).await;
}

#[tokio::test]
async fn a_finalizer_is_kept_only_where_there_is_something_to_end() {
    let scene = Scene::build().await;
    let finalizers = format!(r#"{{"metadata":{{"finalizers":["{FINALIZER}"]}}}}"#);
    let patch = ["--type=merge", "--patch", &finalizers];
    let dns = "apiVersion: appmesh.k8s.aws/v1beta2
kind: VirtualNode
metadata: {name: dns, namespace: shop}
spec: {podSelector: {}, serviceDiscovery: {dns: {hostname: a}}}
";
    let is_deleted = async |name: &str| {
        let object = format!("virtualnode/{name}");
        scene
            .kubectl(&[&["patch", &object], &patch[..]].concat())
            .await;
        scene.delete(&object).await;
        eventually(name, async || scene.is_gone(&object).await).await;
    };
    scene.api.apply(dns).await.unwrap();
    let control_plane = scene.start_registering().await;
    is_deleted("dns").await;
    // The mesh goes first: what its nodes were called there is all that is left.
    scene
        .api
        .apply(&node("v1", "shop.local", "color"))
        .await
        .unwrap();
    scene.pod("a", "v1", "10.0.0.1", ContainersReady).await;
    scene.holds("color", &["10.0.0.1"]).await;
    scene.delete("mesh/shop").await;
    eventually("the end of the mesh", async || {
        scene.is_gone("mesh/shop").await
    })
    .await;
    is_deleted("v1").await;
    assert!(scene.service("color").await.is_none());
    drop(control_plane);

    let _control_plane = scene.start(&[]).await;
    scene
        .api
        .apply(&node("v2", "shop.local", "color"))
        .await
        .unwrap();
    scene.pod("b", "v2", "10.0.0.2", ContainersReady).await;
    a_round().await;
    assert!(
        scene.service("color").await.is_none(),
        "nobody asked for registration"
    );
    is_deleted("v2").await;
}
