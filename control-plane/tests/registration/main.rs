//! Registration of pods in Cloud Map, with a real API server and a Cloud Map server.
//!
//! No kubelet runs, so the tests set the state of each pod.

#![allow(clippy::unwrap_used)] // a panic fails the test

#[path = "../common/cloud_map_relay.rs"]
mod cloud_map_relay;
#[path = "../common/mod.rs"]
mod common;
mod fixture;

use aws_sdk_servicediscovery::types::{HealthStatus, RecordType, RoutingPolicy};
use common::eventually;
use evermesh_testkit::kubernetes::PodState::{ContainersReady, Started};
use fixture::{FINALIZER, Fixture, MESH, attributes, endpoints, node};

#[tokio::test]
async fn pod_is_registered_while_its_containers_are_ready() {
    let fixture = Fixture::build().await;
    let _control_plane = fixture.start_registering().await;
    fixture
        .api
        .apply(&node("v1", "shop.local", "color"))
        .await
        .unwrap();
    fixture.create_pod("a", "v1", "10.0.0.1", Started).await;
    fixture.gate_becomes("a", "False ContainersNotReady").await;
    assert!(fixture.instances("color").await.is_empty());

    fixture.set_pod("a", "10.0.0.1", ContainersReady).await;
    fixture.gate_becomes("a", "True Registered").await;
    let instances = fixture.instances("color").await;
    let found: Vec<_> = instances["10.0.0.1"].clone().into_iter().collect();
    assert_eq!(found, attributes("a", "v1", "10.0.0.1"));

    let service = fixture.service("color").await.unwrap();
    let virtual_node = fixture.get("virtualnode/v1").await;
    let metadata = &virtual_node["metadata"];
    assert_eq!(
        metadata["annotations"]["cloudMapServiceARN"],
        service.arn().unwrap()
    );
    assert_eq!(metadata["uid"], service.creator_request_id().unwrap());
    assert_eq!(metadata["finalizers"], serde_json::json!([FINALIZER]));
    assert!(
        service.dns_config().is_none(),
        "an HTTP namespace has no DNS records"
    );
    assert!(service.health_check_custom_config().is_none());

    // Another pod starts a round of the whole service, which writes nothing for the first pod.
    let before = fixture.get("pod/a").await;
    fixture
        .create_pod("b", "v1", "10.0.0.2", ContainersReady)
        .await;
    fixture.gate_becomes("b", "True Registered").await;
    fixture
        .instances_become("color", &["10.0.0.1", "10.0.0.2"])
        .await;
    assert_eq!(fixture.registrations("10.0.0.1"), 1);
    let version = |pod: &serde_json::Value| pod["metadata"]["resourceVersion"].clone();
    assert_eq!(version(&before), version(&fixture.get("pod/a").await));
    fixture.set_pod("b", "10.0.0.2", Started).await;

    fixture.set_pod("a", "10.0.0.1", Started).await;
    fixture.instances_become("color", &[]).await;
    fixture.gate_becomes("a", "False ContainersNotReady").await;
    fixture.set_pod("a", "10.0.0.1", ContainersReady).await;
    fixture.gate_becomes("a", "True Registered").await;

    // Without a kubelet the pod stays and is terminating.
    fixture.delete("pod/a").await;
    fixture.instances_become("color", &[]).await;
    assert!(!fixture.is_gone("pod/a").await);
}

#[tokio::test]
async fn with_custom_health_checks_every_pod_is_registered() {
    let fixture = Fixture::build().await;
    let create = fixture.cloud_map.create_private_dns_namespace();
    create.name("dns.local").vpc("vpc").send().await.unwrap();
    let flags = [
        "--cloud-map-custom-health-check",
        "--cloud-map-dns-ttl",
        "60",
    ];
    let flags = [&["--cloud-map-registration"], &flags[..]].concat();
    let _control_plane = fixture.start(&flags).await;
    fixture
        .api
        .apply(&node("v1", "dns.local", "color"))
        .await
        .unwrap();
    fixture.create_pod("a", "v1", "10.0.0.1", Started).await;
    fixture.instances_become("color", &["10.0.0.1"]).await;
    let service = fixture.service("color").await.unwrap();
    let dns = service.dns_config().unwrap();
    assert_eq!(dns.routing_policy(), Some(&RoutingPolicy::Multivalue));
    let [record] = dns.dns_records() else {
        panic!("{dns:?}")
    };
    assert_eq!((record.r#type(), record.ttl()), (&RecordType::A, 60));
    assert!(service.health_check_custom_config().is_some());
    let instances = fixture.instances("color").await;
    assert_eq!(instances["10.0.0.1"]["AWS_INIT_HEALTH_STATUS"], "UNHEALTHY");

    let health_becomes = async |wanted: HealthStatus| {
        eventually(wanted.as_str(), async || {
            fixture.health("color", "10.0.0.1").await.as_ref() == Some(&wanted)
        })
        .await;
    };
    health_becomes(HealthStatus::Unhealthy).await;
    fixture.gate_becomes("a", "False ContainersNotReady").await;
    fixture.set_pod("a", "10.0.0.1", ContainersReady).await;
    health_becomes(HealthStatus::Healthy).await;
    fixture.gate_becomes("a", "True Registered").await;
    fixture.set_pod("a", "10.0.0.1", Started).await;
    health_becomes(HealthStatus::Unhealthy).await;
    fixture.gate_becomes("a", "False ContainersNotReady").await;
    // A change of health does not register the instance again.
    fixture.instances_become("color", &["10.0.0.1"]).await;
    assert_eq!(fixture.registrations("10.0.0.1"), 1);
}

#[tokio::test]
async fn endpoints_follow_pods_before_cloud_map_does() {
    let fixture = Fixture::build().await;
    let slow = ["--endpoint-slices", "--cloud-map-interval", "1m"];
    let control_plane = fixture.start(&slow).await;
    let node = node("v1", "shop.local", "color");
    fixture.api.apply(&node).await.unwrap();
    fixture
        .create_pod("a", "v1", "10.0.0.1", ContainersReady)
        .await;
    let endpoints_become = async |wanted: &str| {
        eventually(wanted, async || endpoints(&control_plane).await == wanted).await;
    };
    endpoints_become("10.0.0.1 Healthy eu-west-1b").await;
    assert_eq!(fixture.gate("a").await.0, " ", "registration is off");
    fixture.set_pod("a", "10.0.0.1", Started).await;
    endpoints_become("").await;
    fixture.set_pod("a", "10.0.0.1", ContainersReady).await;
    endpoints_become("10.0.0.1 Healthy eu-west-1b").await;
    // Without a kubelet the pod stays and is terminating.
    fixture.delete("pod/a").await;
    endpoints_become("10.0.0.1 Draining eu-west-1b").await;
}

#[tokio::test]
async fn created_service_is_deleted_with_its_last_node() {
    let mut fixture = Fixture::build().await;
    fixture
        .moto
        .create_service("shop.local", "existing")
        .await
        .unwrap();
    let _control_plane = fixture.start_registering().await;
    for name in ["v1", "v2"] {
        fixture
            .api
            .apply(&node(name, "shop.local", "color"))
            .await
            .unwrap();
    }
    fixture
        .api
        .apply(&node("v3", "shop.local", "existing"))
        .await
        .unwrap();
    fixture
        .create_pod("a", "v1", "10.0.0.1", ContainersReady)
        .await;
    fixture
        .create_pod("b", "v2", "10.0.0.2", ContainersReady)
        .await;
    fixture
        .create_pod("c", "v3", "10.0.0.3", ContainersReady)
        .await;
    fixture
        .instances_become("color", &["10.0.0.1", "10.0.0.2"])
        .await;
    fixture.instances_become("existing", &["10.0.0.3"]).await;

    fixture.delete("virtualnode/v1").await;
    fixture.instances_become("color", &["10.0.0.2"]).await;
    fixture.until_gone("virtualnode/v1").await;
    fixture
        .create_pod("d", "v2", "10.0.0.4", ContainersReady)
        .await;
    fixture
        .instances_become("color", &["10.0.0.2", "10.0.0.4"])
        .await;

    // The service was created for v1; v2 is its last node.
    fixture.delete("virtualnode/v2").await;
    fixture.until_gone("virtualnode/v2").await;
    assert!(fixture.service("color").await.is_none());

    fixture.delete("virtualnode/v3").await;
    fixture.until_gone("virtualnode/v3").await;
    fixture.instances_become("existing", &[]).await;
    assert!(fixture.service("existing").await.is_some());
}

#[tokio::test]
async fn node_with_another_service_leaves_the_former_one() {
    let fixture = Fixture::build().await;
    let control_plane = fixture.start_registering().await;
    let apply = async |service: &str| {
        // Without admission, which rejects such a change.
        let node = node("v1", "shop.local", service);
        fixture.api.apply(&node).await.unwrap();
    };
    apply("color").await;
    fixture
        .create_pod("a", "v1", "10.0.0.1", ContainersReady)
        .await;
    fixture.instances_become("color", &["10.0.0.1"]).await;

    apply("paint").await;
    fixture.instances_become("paint", &["10.0.0.1"]).await;
    fixture.instances_become("color", &[]).await;
    let annotated = async |service: &str| {
        let node = fixture.get("virtualnode/v1").await;
        let service = fixture.service(service).await.unwrap();
        node["metadata"]["annotations"]["cloudMapServiceARN"] == service.arn().unwrap()
    };
    eventually("the ARN of the new service", async || {
        annotated("paint").await
    })
    .await;

    // An instance that is not a pod of this cluster stays and is named.
    drop(control_plane);
    let owner = [
        ("AWS_INSTANCE_IPV4", "10.9.0.1"),
        ("appmesh.k8s.aws/mesh", "shop"),
        ("appmesh.k8s.aws/virtualNode", "v1_shop"),
    ];
    fixture.register("paint", "10.9.0.1", &owner).await;
    apply("color").await;
    let _control_plane = fixture.start_registering().await;
    fixture.instances_become("color", &["10.0.0.1"]).await;
    fixture.instances_become("paint", &["10.9.0.1"]).await;
    eventually("the problem of the node", async || {
        let node = fixture.get("virtualnode/v1").await;
        let status = node["status"].to_string();
        status.contains("instances `10.9.0.1` of this node remain")
    })
    .await;
    assert!(annotated("paint").await);

    let node = node("v1", "shop.local", "color");
    let (node, _) = node.split_once("    awsCloudMap:").unwrap();
    let node = format!("{node}    dns: {{hostname: v1.example}}\n");
    fixture.api.apply(&node).await.unwrap();
    fixture.instances_become("color", &[]).await;
    fixture.instances_become("paint", &["10.9.0.1"]).await;
}

#[tokio::test]
async fn instances_of_the_old_controller_are_taken_over() {
    let fixture = Fixture::build().await;
    fixture
        .api
        .apply(&node("v1", "shop.local", "color"))
        .await
        .unwrap();
    fixture
        .create_pod("a", "v1", "10.0.0.1", ContainersReady)
        .await;
    let uid = fixture.get("virtualnode/v1").await["metadata"]["uid"].clone();
    let namespaces = fixture.cloud_map.list_namespaces().send().await.unwrap();
    let create = fixture.cloud_map.create_service().name("color");
    let create = create.namespace_id(namespaces.namespaces()[0].id().unwrap());
    let create = create.creator_request_id(uid.as_str().unwrap());
    create.send().await.unwrap();
    for (pod, ip) in [("a", "10.0.0.1"), ("gone", "10.0.0.2")] {
        let attributes = attributes(pod, "v1", ip);
        let attributes: Vec<_> = attributes
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        fixture.register("color", ip, &attributes).await;
    }
    let attributes_of = |mesh, virtual_node| {
        vec![
            ("appmesh.k8s.aws/mesh", mesh),
            ("appmesh.k8s.aws/virtualNode", virtual_node),
        ]
    };
    for (id, attributes) in [
        ("another-mesh", attributes_of("another", "v1_shop")),
        ("another-node", attributes_of("shop", "v9_shop")),
        ("task", vec![("AWS_INSTANCE_IPV4", "10.9.9.9")]),
    ] {
        fixture.register("color", id, &attributes).await;
    }
    // Instances that belong to others are never changed.
    let instances_become = async |ours: &[&str]| {
        let others = ["another-mesh", "another-node", "task"];
        fixture
            .instances_become("color", &[ours, &others].concat())
            .await;
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
    fixture.kubectl(&patch).await;

    let mut control_plane = fixture.start_registering().await;
    instances_become(&["10.0.0.1"]).await;
    fixture.gate_becomes("a", "True Registered").await;
    control_plane.restart().unwrap();
    control_plane.ready().await.unwrap();
    fixture
        .create_pod("b", "v1", "10.0.0.3", ContainersReady)
        .await;
    instances_become(&["10.0.0.1", "10.0.0.3"]).await;

    // A service that others use stays, with their instances.
    fixture.delete("virtualnode/v1").await;
    fixture.until_gone("virtualnode/v1").await;
    instances_become(&[]).await;
}

#[tokio::test]
async fn outage_of_cloud_map_removes_nothing_and_closes_no_gate() {
    let mut fixture = Fixture::build().await;
    let _control_plane = fixture.start_registering().await;
    fixture
        .api
        .apply(&node("v1", "shop.local", "color"))
        .await
        .unwrap();
    for (pod, ip) in [("a", "10.0.0.1"), ("b", "10.0.0.2")] {
        fixture.create_pod(pod, "v1", ip, ContainersReady).await;
        fixture.gate_becomes(pod, "True Registered").await;
    }
    fixture.moto.stop();
    fixture
        .create_pod("c", "v1", "10.0.0.3", ContainersReady)
        .await;
    fixture.delete("pod/b").await;
    fixture.gate_becomes("c", "False CloudMapUnavailable").await;
    assert_eq!(fixture.gate("a").await.0, "True Registered");
    fixture.delete("virtualnode/v1").await;
    // A call connects up to three times, so at least one round starts and fails after the deletion.
    let before = fixture.relay.failed_connections();
    eventually("failed rounds", async || {
        fixture.relay.failed_connections() > before + 6
    })
    .await;
    assert!(
        !fixture.is_gone("virtualnode/v1").await,
        "the node waits until its instances are gone"
    );

    // The restarted server has the namespace and nothing else.
    fixture.relay.restart(&mut fixture.moto).await;
    fixture.until_gone("virtualnode/v1").await;
    fixture
        .api
        .apply(&node("v1", "shop.local", "color"))
        .await
        .unwrap();
    fixture
        .instances_become("color", &["10.0.0.1", "10.0.0.3"])
        .await;
    fixture.gate_becomes("c", "True Registered").await;
    fixture.relay.restart(&mut fixture.moto).await;
    fixture
        .instances_become("color", &["10.0.0.1", "10.0.0.3"])
        .await;
    assert_eq!(fixture.gate("a").await.0, "True Registered");
}

#[tokio::test]
async fn missing_namespace_is_reported_and_does_not_stop_others() {
    let mut fixture = Fixture::build().await;
    let control_plane = fixture.start_registering().await;
    for (name, namespace) in [("v1", "nowhere.local"), ("v2", "shop.local")] {
        fixture
            .api
            .apply(&node(name, namespace, name))
            .await
            .unwrap();
    }
    fixture
        .create_pod("a", "v1", "10.0.0.1", ContainersReady)
        .await;
    fixture
        .create_pod("b", "v2", "10.0.0.2", ContainersReady)
        .await;
    fixture.gate_becomes("b", "True Registered").await;
    fixture.gate_becomes("a", "False CloudMapUnavailable").await;
    let (_, message) = fixture.gate("a").await;
    assert!(message.contains("`nowhere.local`"), "{message}");
    let log = control_plane.log();
    let names_both =
        |line: &str| line.contains("VirtualNode/shop/v1") && line.contains("nowhere.local");
    assert!(log.lines().any(names_both), "{log}");
    eventually("the message in the status of the node", async || {
        let node = fixture.get("virtualnode/v1").await;
        let conditions = node["status"]["conditions"]
            .as_array()
            .into_iter()
            .flatten();
        let mut messages = conditions.filter_map(|it| it["message"].as_str());
        messages.any(|message| message.contains("`nowhere.local`"))
    })
    .await;

    fixture
        .moto
        .create_http_namespace("nowhere.local")
        .await
        .unwrap();
    fixture.gate_becomes("a", "True Registered").await;
    fixture.instances_become("v1", &["10.0.0.1"]).await;
}

#[tokio::test]
async fn finalizer_is_removed_when_nothing_is_registered() {
    let fixture = Fixture::build().await;
    let finalizers = format!(r#"{{"metadata":{{"finalizers":["{FINALIZER}"]}}}}"#);
    let patch = ["--type=merge", "--patch", &finalizers];
    let dns = "apiVersion: appmesh.k8s.aws/v1beta2
kind: VirtualNode
metadata: {name: dns, namespace: shop}
spec: {podSelector: {}, serviceDiscovery: {dns: {hostname: a}}}
";
    // Adds the finalizer, deletes the node and waits until it is gone.
    let delete_with_finalizer = async |name: &str| {
        let object = format!("virtualnode/{name}");
        fixture
            .kubectl(&[&["patch", &object], &patch[..]].concat())
            .await;
        fixture.delete(&object).await;
        fixture.until_gone(&object).await;
    };
    fixture.api.apply(dns).await.unwrap();
    let control_plane = fixture.start_registering().await;
    delete_with_finalizer("dns").await;
    // The mesh is deleted first, so that only the status of its nodes has their names in the mesh.
    fixture
        .api
        .apply(&node("v1", "shop.local", "color"))
        .await
        .unwrap();
    fixture
        .create_pod("a", "v1", "10.0.0.1", ContainersReady)
        .await;
    fixture.instances_become("color", &["10.0.0.1"]).await;
    eventually("the name in the mesh in the status", async || {
        fixture.get("virtualnode/v1").await["status"]["virtualNodeARN"].is_string()
    })
    .await;
    fixture.delete("mesh/shop").await;
    eventually("the end of the mesh", async || {
        fixture.is_gone("mesh/shop").await
    })
    .await;
    delete_with_finalizer("v1").await;
    assert!(fixture.service("color").await.is_none());
    drop(control_plane);

    fixture.api.apply(MESH).await.unwrap();
    let _control_plane = fixture.start(&["--cloud-map-interval", "200ms"]).await;
    fixture
        .api
        .apply(&node("v2", "shop.local", "color"))
        .await
        .unwrap();
    fixture
        .create_pod("b", "v2", "10.0.0.2", ContainersReady)
        .await;
    let before = fixture.relay.calls().len();
    eventually("polls of the service", async || {
        fixture.relay.calls().len() > before + 3
    })
    .await;
    let calls = fixture.relay.calls().split_off(before);
    assert!(
        calls.iter().all(|call| call.action.starts_with("Discover")),
        "without --cloud-map-registration nothing is registered: {calls:?}"
    );
    assert!(fixture.service("color").await.is_none());
    delete_with_finalizer("v2").await;
}
