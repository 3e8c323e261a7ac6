//! What `kubectl` shows of objects.

use std::{process::Command, time::Duration};

use serde_json::Value;

use crate::{
    Scene, eventually,
    proxy::{Answers, Proxy},
    route,
};

/// The object as the API holds it.
async fn get(scene: &Scene, kind: &str, name: &str) -> Value {
    let arguments = ["get", kind, name, "--namespace", "shop", "--output", "json"];
    serde_json::from_str(&scene.api.kubectl(&arguments).await.unwrap()).unwrap()
}

async fn condition(scene: &Scene, kind: &str, name: &str, wanted: &str) -> Value {
    let object = get(scene, kind, name).await;
    let conditions = object["status"]["conditions"].as_array();
    let found = conditions
        .into_iter()
        .flatten()
        .find(|it| it["type"] == wanted);
    let mut found = found.cloned().unwrap_or_default();
    found["current"] =
        (object["status"]["observedGeneration"] == object["metadata"]["generation"]).into();
    found
}

/// Waits until a condition of the Route, of the newest generation, has this status and reason; returns its message.
async fn becomes(scene: &Scene, wanted: &str, status: &str, reason: &str) -> String {
    let mut last = Value::Null;
    eventually(&format!("{wanted}={status} for {reason}"), async || {
        last = condition(scene, "routes.evermesh.dev", "color", wanted).await;
        last["status"] == status && last["reason"] == reason && last["current"] == true
    })
    .await;
    last["message"].as_str().unwrap().to_owned()
}

fn signal(scene: &mut Scene, signal: &str) {
    let process = scene.gateway.process().id().to_string();
    let sent = Command::new("kill").args([signal, &process]).status();
    assert!(sent.unwrap().success());
}

async fn shows_first_what_is_asked_first(scene: &Scene) {
    let arguments = ["get", "virtualservices,routes.evermesh.dev", "-n", "shop"];
    let table = scene.api.kubectl(&arguments).await.unwrap();
    let words = |line: &str| -> Vec<String> {
        let words = line.split_whitespace();
        words.map(ToOwned::to_owned).take(4).collect()
    };
    let lines: Vec<Vec<String>> = table.lines().map(words).collect();
    let service = "virtualservice.appmesh.k8s.aws/color";
    assert!(
        lines.contains(&words("NAME HOST PROVIDER PROGRAMMED")),
        "{table}"
    );
    assert!(
        lines.contains(&words(&format!("{service} color.shop color True"))),
        "{table}"
    );
    assert!(
        lines.contains(&words("NAME ROUTER WEIGHTS PROGRAMMED")),
        "{table}"
    );
    let weights = "route.evermesh.dev/color color color-v1=100,color-v2=0 True";
    assert!(lines.contains(&words(weights)), "{table}");
}

#[tokio::test]
async fn a_status_is_true_only_when_the_proxies_say_so() {
    let mut scene = Scene::build().await;
    let message = becomes(&scene, "Programmed", "True", "Programmed").await;
    assert_eq!(message, "1/1 proxies have accepted it");
    becomes(&scene, "RouteActive", "True", "Accepted").await;
    let arguments = [
        "wait",
        "--for=condition=VirtualNodeActive",
        "virtualnode/color-v1",
        "--namespace=shop",
        "--timeout=30s",
    ];
    scene.api.kubectl(&arguments).await.unwrap();
    let node = get(&scene, "virtualnode", "color-v1").await;
    let arn = "arn:aws:appmesh:us-east-1:000000000000:mesh/shop/virtualNode/color-v1_shop";
    assert_eq!(node["status"]["virtualNodeARN"], arn);

    shows_first_what_is_asked_first(&scene).await;

    // A proxy that is silent.
    signal(&mut scene, "-STOP");
    scene.api.apply(&route([50, 50])).await.unwrap();
    let message = becomes(&scene, "Programmed", "False", "Pending").await;
    assert!(
        message.starts_with("0/1 proxies have accepted it, waiting since 20"),
        "{message}"
    );
    let weights = becomes(&scene, "WeightsAcked", "True", "Acked").await;
    assert_eq!(weights, "color-v1=100,color-v2=0", "still the last ones");
    signal(&mut scene, "-CONT");
    becomes(&scene, "Programmed", "True", "Programmed").await;
    let weights = becomes(&scene, "WeightsAcked", "True", "Acked").await;
    assert_eq!(weights, "color-v1=50,color-v2=50");

    // A proxy that refuses: a class of characters that only Envoy knows not to be one.
    let class = r"match: {path: {regex: '/[\p{None}]'}}";
    let refused = route([50, 50]).replace("match: {prefix: /}", class);
    scene.api.apply(&refused).await.unwrap();
    let message = becomes(&scene, "Programmed", "False", "Rejected").await;
    assert!(
        message.contains("invalid character class range"),
        "{message}"
    );
    assert!(
        message.contains("mesh/shop/virtualGateway/gate_shop"),
        "{message}"
    );
    assert_eq!(
        scene.address().get("/").await.unwrap().len(),
        "v1".len(),
        "the last good one is in force"
    );
    scene.api.apply(&route([50, 50])).await.unwrap();
    becomes(&scene, "Programmed", "True", "Programmed").await;

    // A mistake that no proxy gets to see.
    let dangling = route([50, 50]).replace("color-v2", "color-v3");
    scene.api.apply(&dangling).await.unwrap();
    let message = becomes(&scene, "RouteActive", "False", "ReferenceNotFound").await;
    assert!(
        message.contains("spec.httpRoute.action.weightedTargets[1]"),
        "{message}"
    );
    becomes(&scene, "Programmed", "False", "ReferenceNotFound").await;
    scene.api.apply(&route([50, 50])).await.unwrap();
    becomes(&scene, "RouteActive", "True", "Accepted").await;
    becomes(&scene, "Programmed", "True", "Programmed").await;

    // What went wrong was told.
    let arguments = [
        "events",
        "--for=routes.evermesh.dev/color",
        "--namespace=shop",
    ];
    let events = scene.api.kubectl(&arguments).await.unwrap();
    for told in [
        ["Warning", "Rejected"],
        ["Warning", "ReferenceNotFound"],
        ["Normal", "Accepted"],
    ] {
        let is_told = |line: &str| told.iter().all(|word| line.contains(word));
        assert!(events.lines().any(is_told), "{told:?} in {events}");
    }

    // What does not change is not written.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let before = get(&scene, "routes.evermesh.dev", "color").await;
    tokio::time::sleep(Duration::from_secs(8)).await;
    let after = get(&scene, "routes.evermesh.dev", "color").await;
    assert_eq!(
        before["metadata"]["resourceVersion"],
        after["metadata"]["resourceVersion"]
    );
    assert_eq!(scene.forbidden(), [""; 0]);
}

#[tokio::test]
async fn what_the_old_controller_left_behind_can_be_deleted() {
    let scene = Scene::build().await;
    let finalizers = r#"{"metadata":{"finalizers":["finalizers.appmesh.k8s.aws/aws-appmesh-resources","finalizers.appmesh.k8s.aws/aws-cloudmap-resources","finalizers.appmesh.k8s.aws/mesh-members","finalizers.appmesh.k8s.aws/virtualgateway-members"]}}"#;
    let objects = [
        "mesh/shop",
        "virtualgateway/gate",
        "gatewayroute/all",
        "virtualservice/color",
        "virtualrouter/color",
        "virtualnode/color-v1",
        "virtualnode/color-v2",
    ];
    for object in objects {
        let arguments = [
            "patch",
            object,
            "--namespace=shop",
            "--type=merge",
            "--patch",
            finalizers,
        ];
        scene.api.kubectl(&arguments).await.unwrap();
    }
    for object in objects {
        let arguments = ["delete", object, "--namespace=shop", "--timeout=30s"];
        scene.api.kubectl(&arguments).await.unwrap();
    }
    assert_eq!(scene.forbidden(), [""; 0]);
}

#[tokio::test]
async fn every_proxy_counts_on_whichever_replica() {
    let scene = Scene::build().await;
    becomes(&scene, "Programmed", "True", "Programmed").await;
    let other = scene.start_replica().await;
    let mut weight = 0;
    let mut shift = async || {
        weight += 10;
        scene
            .api
            .apply(&route([100 - weight, weight]))
            .await
            .unwrap();
    };
    let counts = async |wanted: &str| {
        eventually(wanted, async || {
            let found = condition(&scene, "routes.evermesh.dev", "color", "Programmed").await;
            found["message"]
                .as_str()
                .unwrap_or_default()
                .contains(wanted)
        })
        .await;
    };
    for address in [scene.control_plane.xds(), other.xds()] {
        let gateway = "mesh/shop/virtualGateway/gate_shop";
        let proxy = Proxy::connect(address, gateway, &scene.route_names().await).await;
        counts("2/2 proxies have accepted it").await;

        proxy.answer(Answers::Never);
        shift().await;
        becomes(&scene, "Programmed", "False", "Pending").await;
        // Whom the status is written before, it counts a few seconds later.
        counts("1/2 proxies have accepted it").await;
        becomes(&scene, "Programmed", "False", "Pending").await;
        proxy.answer(Answers::Acks);
        becomes(&scene, "Programmed", "True", "Programmed").await;

        proxy.answer(Answers::Refuses("out of paint".to_owned()));
        shift().await;
        let message = becomes(&scene, "Programmed", "False", "Rejected").await;
        assert!(message.starts_with("1 of 2 proxies"), "{message}");
        assert!(message.ends_with("out of paint"), "{message}");
        proxy.answer(Answers::Acks);
        shift().await;
        let message = becomes(&scene, "Programmed", "True", "Programmed").await;
        assert!(message.starts_with("2/2 proxies"), "{message}");
        drop(proxy);
        counts("1/1 proxies have accepted it").await;
    }
    assert_eq!(scene.forbidden(), [""; 0]);
}

/// Nothing becomes true while a replica lives that the leader does not hear: what its proxies have is not known.
#[tokio::test]
async fn an_unheard_replica_holds_back_what_is_new() {
    let scene = Scene::build().await;
    becomes(&scene, "Programmed", "True", "Programmed").await;
    let lease = [
        "leases.coordination.k8s.io",
        "evermesh",
        "-n=appmesh-system",
    ];
    let lives = async |count: u32| {
        let shown = format!("replica.evermesh.dev/lost=evermesh-lost {count}");
        let annotate = [
            "annotate",
            "--overwrite",
            lease[0],
            lease[1],
            lease[2],
            &shown,
        ];
        scene.api.kubectl(&annotate).await.unwrap();
    };
    lives(0).await;
    // The leader renews its Lease, and reads it, every second.
    tokio::time::sleep(Duration::from_secs(2)).await;
    scene.api.apply(&route([0, 100])).await.unwrap();
    for count in 1..8 {
        becomes(&scene, "Programmed", "False", "Pending").await;
        lives(count).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let message = becomes(&scene, "Programmed", "False", "Pending").await;
    let words = "1/1 proxies have accepted it; replica evermesh-lost, there less than 30 s ago, has not told";
    assert!(message.starts_with(words), "{message}");
    assert_eq!(scene.answer().await, "v2", "served all the same");

    // It ends, and the Lease no longer knows it.
    becomes(&scene, "Programmed", "True", "Programmed").await;
    let get = ["get", lease[0], lease[1], lease[2], "--output=yaml"];
    let held = scene.api.kubectl(&get).await.unwrap();
    assert!(!held.contains("evermesh-lost"), "{held}");
    assert_eq!(scene.forbidden(), [""; 0]);
}

/// Nor while proxies of a leader that stopped have yet to find another one: nobody is left who knew them.
#[tokio::test]
async fn proxies_that_have_yet_to_come_back_count() {
    let mut scene = Scene::build().await;
    becomes(&scene, "Programmed", "True", "Programmed").await;
    scene.control_plane.stop().await.unwrap();
    let next = scene.start_replica().await;
    scene.api.apply(&route([0, 100])).await.unwrap();
    let message = becomes(&scene, "Programmed", "False", "Pending").await;
    let words = "0/0 proxies have accepted it; replica ";
    assert!(message.starts_with(words), "{message}");
    assert_eq!(scene.answer().await, "v1");

    scene.xds.switch(&[next.xds()]);
    let message = becomes(&scene, "Programmed", "True", "Programmed").await;
    assert_eq!(message, "1/1 proxies have accepted it");
    assert_eq!(scene.answer().await, "v2");
    assert_eq!(scene.forbidden(), [""; 0]);
}
