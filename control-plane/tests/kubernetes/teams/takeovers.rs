//! A namespace of the mesh and one outside of it try to take the requests of the namespace `shop`, with the webhooks and
//! without them.

use serde_json::Value;

use super::{version, version_becomes};
use crate::{common::eventually, fixture::GatewayFixture};

/// Two namespaces that want the requests, and a node and a router of the first one. The node is the second version.
fn attackers(port: u16) -> String {
    format!(
        "apiVersion: v1
kind: Namespace
metadata: {{name: aaa, labels: {{mesh: shop}}}}
---
apiVersion: v1
kind: Namespace
metadata: {{name: outside}}
---
apiVersion: appmesh.k8s.aws/v1beta2
kind: VirtualNode
metadata: {{name: sink, namespace: aaa}}
spec:
  listeners: [{{portMapping: {{port: {port}, protocol: http}}}}]
  serviceDiscovery: {{dns: {{hostname: 127.0.0.1}}}}
---
apiVersion: appmesh.k8s.aws/v1beta2
kind: VirtualRouter
metadata: {{name: own, namespace: aaa}}
spec: {{listeners: [{{portMapping: {{port: 80, protocol: http}}}}]}}
---
apiVersion: appmesh.k8s.aws/v1beta2
kind: VirtualService
metadata: {{name: sink, namespace: aaa}}
spec: {{provider: {{virtualNode: {{virtualNodeRef: {{name: sink}}}}}}}}
"
    )
}

/// An object that claims what an object of `shop` has.
struct Attempt {
    kind: &'static str,
    namespace: &'static str,
    name: &'static str,
    spec: &'static str,
    /// The reason of the rejection, and of the condition without webhooks.
    reason: &'static str,
}

const ATTEMPTS: [Attempt; 7] = [
    Attempt {
        kind: "Route",
        namespace: "aaa",
        name: "taken",
        spec: "{virtualRouterRef: {name: color, namespace: shop}, priority: 0, httpRoute: {match: {prefix: /}, action: {weightedTargets: [{virtualNodeRef: {name: sink}, weight: 1}]}}}",
        reason: "NotAllowed",
    },
    Attempt {
        kind: "Route",
        namespace: "outside",
        name: "taken",
        spec: "{virtualRouterRef: {name: color, namespace: shop}, httpRoute: {match: {prefix: /taken}, action: {weightedTargets: [{virtualNodeRef: {name: sink, namespace: aaa}, weight: 1}]}}}",
        reason: "MeshMismatch",
    },
    Attempt {
        kind: "VirtualNode",
        namespace: "aaa",
        name: "taken",
        spec: "{awsName: color-v1_shop, backends: []}",
        reason: "DuplicateName",
    },
    Attempt {
        kind: "VirtualService",
        namespace: "aaa",
        name: "taken",
        spec: "{awsName: COLOR.shop, provider: {virtualNode: {virtualNodeRef: {name: sink}}}}",
        reason: "DuplicateHostname",
    },
    Attempt {
        kind: "VirtualRouter",
        namespace: "aaa",
        name: "taken",
        spec: "{awsName: color_shop, routes: [{name: all, httpRoute: {match: {prefix: /}, action: {weightedTargets: [{virtualNodeRef: {name: sink}, weight: 1}]}}}]}",
        reason: "DuplicateName",
    },
    Attempt {
        kind: "VirtualGateway",
        namespace: "aaa",
        name: "taken",
        spec: "{awsName: gate_shop, listeners: [{portMapping: {port: 80, protocol: http}}]}",
        reason: "DuplicateName",
    },
    Attempt {
        kind: "GatewayRoute",
        namespace: "aaa",
        name: "taken",
        spec: "{awsName: all_shop, httpRoute: {match: {prefix: /taken}, action: {target: {virtualService: {virtualServiceRef: {name: sink}}}}}}",
        reason: "DuplicateName",
    },
];

impl Attempt {
    fn manifest(&self) -> String {
        let version = match self.kind {
            "Route" => "evermesh.dev/v1alpha1",
            _ => "appmesh.k8s.aws/v1beta2",
        };
        let Self {
            kind,
            namespace,
            name,
            spec,
            ..
        } = self;
        format!(
            "apiVersion: {version}\nkind: {kind}\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {spec}\n"
        )
    }

    /// Waits until the status says that the object is not served.
    async fn is_refused(&self, fixture: &GatewayFixture) {
        let Self {
            kind,
            namespace,
            name,
            reason,
            ..
        } = self;
        has_condition(fixture, kind, namespace, name, reason).await;
    }
}

/// Waits until the object's status has a condition with this reason.
async fn has_condition(
    fixture: &GatewayFixture,
    kind: &str,
    namespace: &str,
    name: &str,
    reason: &str,
) {
    let object = format!("{}/{name}", kind.to_lowercase());
    eventually(&format!("{kind} {name} with {reason}"), async || {
        let object = fixture.api.get(&object, namespace).await.unwrap().unwrap();
        let conditions = object["status"]["conditions"].as_array();
        conditions
            .into_iter()
            .flatten()
            .any(|it| it["status"] == "False" && it["reason"] == reason)
    })
    .await;
}

/// Waits until a new object is younger than the Route of `shop`. Creation times have whole seconds.
async fn is_older_than_new_objects(fixture: &GatewayFixture) {
    let created = |object: &Value| {
        object["metadata"]["creationTimestamp"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let route = fixture.api.get("route/color", "shop").await.unwrap();
    let newest = created(&route.unwrap());
    let probe = [
        "create",
        "namespace",
        "probe",
        "--dry-run=server",
        "--output=json",
    ];
    eventually("a younger object", async || {
        let probe = fixture.api.kubectl(&probe).await.unwrap();
        created(&serde_json::from_str(&probe).unwrap()) > newest
    })
    .await;
}

/// The port of the second version.
async fn second_port(fixture: &GatewayFixture) -> u16 {
    let node = fixture.api.get("virtualnode/color-v2", "shop").await;
    let node = node.unwrap().unwrap();
    let port = node["spec"]["listeners"][0]["portMapping"]["port"].as_u64();
    port.unwrap().try_into().unwrap()
}

#[tokio::test]
async fn no_namespace_takes_requests_of_another() {
    let fixture = GatewayFixture::build().await;
    is_older_than_new_objects(&fixture).await;
    let port = second_port(&fixture).await;
    fixture.api.apply(&attackers(port)).await.unwrap();

    // The webhooks reject what takes a name or a router.
    for attempt in &ATTEMPTS {
        let error = fixture.api.apply(&attempt.manifest()).await.unwrap_err();
        let error = format!("{error:#}");
        assert!(
            error.contains(&format!("({})", attempt.reason)),
            "{}: {error}",
            attempt.kind
        );
    }
    // A route that its own router takes cannot move.
    let own = ATTEMPTS[0]
        .manifest()
        .replace("{name: color, namespace: shop}", "{name: own}");
    fixture.api.apply(&own).await.unwrap();
    let moved = [
        "patch",
        "routes.evermesh.dev",
        "taken",
        "--namespace=aaa",
        "--type=merge",
        r#"--patch={"spec":{"virtualRouterRef":{"name":"color","namespace":"shop"}}}"#,
    ];
    let error = format!("{:#}", fixture.api.kubectl(&moved).await.unwrap_err());
    assert!(error.contains("cannot be changed"), "{error}");
    let delete = ["delete", "routes.evermesh.dev", "taken", "--namespace=aaa"];
    fixture.api.kubectl(&delete).await.unwrap();

    // The gateway admits the namespace, but the older route has the requests.
    let same = ATTEMPTS[6].manifest();
    let same = same
        .replace("awsName: all_shop, ", "")
        .replace("/taken", "/");
    fixture
        .api
        .apply(&same.replace("name: taken", "name: aaa"))
        .await
        .unwrap();
    let other = same
        .replace("name: taken", "name: other")
        .replace("prefix: /", "prefix: /other");
    fixture.api.apply(&other).await.unwrap();
    version_becomes(&fixture, "/other", "v2").await;
    assert_eq!(version(&fixture, "/").await, "v1");

    // Without webhooks the same objects exist, and are not served.
    for kind in ["mutating", "validating"] {
        let configuration = format!("{kind}webhookconfigurations");
        let name = format!("appmesh-controller-{kind}-webhook-configuration");
        fixture
            .api
            .kubectl(&["delete", &configuration, &name])
            .await
            .unwrap();
    }
    for attempt in &ATTEMPTS {
        eventually("an API server without webhooks", async || {
            fixture.api.apply(&attempt.manifest()).await.is_ok()
        })
        .await;
    }
    for attempt in &ATTEMPTS {
        attempt.is_refused(&fixture).await;
    }
    for path in ["/", "/taken"] {
        assert_eq!(version(&fixture, path).await, "v1");
    }

    // The owner of the router lets the namespace in.
    let allow = [
        "annotate",
        "virtualrouters",
        "color",
        "--namespace=shop",
        "evermesh.dev/allowed-routes=kubernetes.io/metadata.name=aaa",
    ];
    fixture.api.kubectl(&allow).await.unwrap();
    version_becomes(&fixture, "/", "v2").await;
    let withdraw = [
        "annotate",
        "virtualrouters",
        "color",
        "--namespace=shop",
        "evermesh.dev/allowed-routes-",
    ];
    fixture.api.kubectl(&withdraw).await.unwrap();
    version_becomes(&fixture, "/", "v1").await;
}

#[tokio::test]
async fn route_serves_only_what_its_router_delegates() {
    let fixture = GatewayFixture::build().await;
    let delegate = [
        "annotate",
        "virtualrouters",
        "color",
        "--namespace=shop",
        "evermesh.dev/delegated-routes=color: / priority 10\nred: /red",
    ];
    fixture.api.kubectl(&delegate).await.unwrap();
    let route = |name: &str, rest: &str| {
        let action = "action: {weightedTargets: [{virtualNodeRef: {name: color-v2}, weight: 1}]}";
        format!(
            "apiVersion: evermesh.dev/v1alpha1\nkind: Route\nmetadata: {{name: {name}, namespace: shop}}\nspec: {{virtualRouterRef: {{name: color}}, {}}}\n",
            rest.replace("ACTION", action)
        )
    };
    for (name, rest) in [
        ("red", "httpRoute: {match: {prefix: /}, ACTION}"),
        (
            "red",
            "httpRoute: {match: {path: {regex: '/red.*'}}, ACTION}",
        ),
        (
            "red",
            "priority: 0, httpRoute: {match: {prefix: /red}, ACTION}",
        ),
        ("blue", "httpRoute: {match: {prefix: /red}, ACTION}"),
    ] {
        let error = fixture.api.apply(&route(name, rest)).await.unwrap_err();
        let error = format!("{error:#}");
        assert!(error.contains("(NotAllowed)"), "{error}");
    }
    let inside = route("red", "httpRoute: {match: {prefix: /red}, ACTION}");
    fixture.api.apply(&inside).await.unwrap();
    version_becomes(&fixture, "/red", "v2").await;
    assert_eq!(version(&fixture, "/").await, "v1");
    // A smaller grant takes effect on a Route that exists.
    let less = [
        &delegate[..4],
        &[
            "--overwrite",
            "evermesh.dev/delegated-routes=color: /\nred: /red/x",
        ],
    ]
    .concat();
    fixture.api.kubectl(&less).await.unwrap();
    has_condition(&fixture, "Route", "shop", "red", "NotAllowed").await;
    version_becomes(&fixture, "/red", "v1").await;
}
