//! Teams that share a router: RBAC lets each team change its own Route, the chart's policy only its weights, and no
//! namespace takes requests of another.

mod takeovers;

use std::{fmt::Write as _, fs, path::PathBuf};

use evermesh_testkit::{chart::Chart, kubernetes::ApiServer, tools};

use crate::{common::eventually, fixture::GatewayFixture};

/// One router, whose inline route belongs to the platform, and a Route for each team.
fn shared_router() -> String {
    let mut yaml = "apiVersion: appmesh.k8s.aws/v1beta2
kind: VirtualRouter
metadata: {name: color, namespace: shop}
spec:
  listeners: [{portMapping: {port: 80, protocol: http}}]
  routes:
  - name: rest
    httpRoute:
      match: {prefix: /}
      action: {weightedTargets: [{virtualNodeRef: {name: color-v1}, weight: 1}]}
"
    .to_owned();
    for team in ["red", "blue"] {
        write!(
            yaml,
            "---
{}---
apiVersion: v1
kind: ServiceAccount
metadata: {{name: {team}, namespace: shop}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {{name: {team}, namespace: shop}}
rules:
- {{apiGroups: [evermesh.dev], resources: [routes], resourceNames: [{team}], verbs: [get, patch]}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {{name: {team}, namespace: shop}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: Role, name: {team}}}
subjects: [{{kind: ServiceAccount, name: {team}, namespace: shop}}]
",
            route_of(team, [100, 0])
        )
        .unwrap();
    }
    yaml
}

fn route_of(team: &str, weights: [u32; 2]) -> String {
    format!(
        "apiVersion: evermesh.dev/v1alpha1
kind: Route
metadata: {{name: {team}, namespace: shop}}
spec:
  virtualRouterRef: {{name: color}}
  httpRoute:
    match: {{prefix: /{team}}}
    action:
      weightedTargets:
      - {{virtualNodeRef: {{name: color-v1}}, weight: {}}}
      - {{virtualNodeRef: {{name: color-v2}}, weight: {}}}
",
        weights[0], weights[1]
    )
}

/// A merge patch of a Route's weights.
fn weights(first: u32, second: u32) -> String {
    format!(
        r#"{{"spec":{{"httpRoute":{{"action":{{"weightedTargets":[{{"virtualNodeRef":{{"name":"color-v1"}},"weight":{first}}},{{"virtualNodeRef":{{"name":"color-v2"}},"weight":{second}}}]}}}}}}}}"#
    )
}

/// A team with its own service account.
struct Team<'a> {
    fixture: &'a GatewayFixture,
    kubeconfig: PathBuf,
}

impl<'a> Team<'a> {
    async fn new(fixture: &'a GatewayFixture, name: &str) -> Self {
        let account = fixture.api.service_account_kubeconfig("shop", name);
        let kubeconfig = account.await.unwrap();
        Self {
            fixture,
            kubeconfig,
        }
    }

    async fn kubectl(&self, arguments: &[&str]) -> Result<String, String> {
        let arguments = [arguments, &["--namespace=shop"]].concat();
        let done = self.fixture.api.kubectl_as(&self.kubeconfig, &arguments);
        done.await.map_err(|error| error.to_string())
    }

    async fn patch(&self, what: &str, patch: &str) -> Result<String, String> {
        self.kubectl(&["patch", what, "--type=merge", "--patch", patch])
            .await
    }

    /// Checks that the API server rejects the patch.
    async fn may_not_patch(&self, what: &str, patch: &str) {
        let error = self.patch(what, patch).await.unwrap_err();
        assert!(error.contains("is forbidden"), "{what}: {error}");
    }
}

/// The version that answers at this path.
async fn version(fixture: &GatewayFixture, path: &str) -> String {
    fixture.address().get(path).await.unwrap()
}

/// Waits until this version answers at this path.
async fn version_becomes(fixture: &GatewayFixture, path: &str, expected: &str) {
    eventually(&format!("{path} at {expected}"), async || {
        version(fixture, path).await == expected
    })
    .await;
}

#[tokio::test]
async fn team_shifts_the_weights_of_its_own_route_only() {
    let fixture = GatewayFixture::build().await;
    fixture.api.apply(&shared_router()).await.unwrap();
    let old = ["delete", "routes.evermesh.dev", "color", "--namespace=shop"];
    fixture.api.kubectl(&old).await.unwrap();
    let red = Team::new(&fixture, "red").await;
    let blue = Team::new(&fixture, "blue").await;
    eventually("the permissions of red", async || {
        red.kubectl(&["get", "routes.evermesh.dev", "red"])
            .await
            .is_ok()
    })
    .await;
    for team in ["red", "blue"] {
        eventually("the status of a team's route", async || {
            let route = [
                "get",
                "routes.evermesh.dev",
                team,
                "--namespace=shop",
                "--output=json",
            ];
            let route = fixture.api.kubectl(&route).await.unwrap();
            route.contains("proxies have accepted the object")
        })
        .await;
    }
    for path in ["/", "/red", "/blue"] {
        assert_eq!(version(&fixture, path).await, "v1");
    }

    // One team uses `kubectl apply`, the other one `kubectl patch`.
    let dir = tools::scratch("team").unwrap();
    let file = dir.path().join("red.yaml");
    for (shift, expected) in [([0, 100], "v2"), ([100, 0], "v1"), ([0, 100], "v2")] {
        fs::write(&file, route_of("red", shift)).unwrap();
        let file = file.to_str().unwrap();
        red.kubectl(&["apply", "--filename", file]).await.unwrap();
        version_becomes(&fixture, "/red", expected).await;
        assert_eq!(version(&fixture, "/blue").await, "v1");
    }
    let shifted = blue.patch("routes.evermesh.dev/blue", &weights(0, 1)).await;
    shifted.unwrap();
    version_becomes(&fixture, "/blue", "v2").await;

    // Neither team can change anything else.
    red.may_not_patch("routes.evermesh.dev/blue", &weights(1, 0))
        .await;
    blue.may_not_patch("routes.evermesh.dev/red", &weights(1, 0))
        .await;
    for team in [&red, &blue] {
        team.may_not_patch("virtualrouter/color", r#"{"spec":{"routes":[]}}"#)
            .await;
        team.may_not_patch("virtualnode/color-v1", r#"{"spec":{"listeners":[]}}"#)
            .await;
        let third = dir.path().join("third.yaml");
        fs::write(&third, route_of("third", [0, 100])).unwrap();
        let create = ["create", "--filename", third.to_str().unwrap()];
        let error = team.kubectl(&create).await.unwrap_err();
        assert!(error.contains("is forbidden"), "{error}");
    }
    assert_eq!(version(&fixture, "/").await, "v1");
    assert_eq!(fixture.forbidden(), [""; 0]);
}

/// A role that allows everything with Routes.
const ALL_OF_ROUTES: &str = "---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: routes, namespace: shop}
rules:
- {apiGroups: [evermesh.dev], resources: [routes], verbs: ['*']}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: routes, namespace: shop}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: routes}
subjects: [{kind: ServiceAccount, name: red, namespace: shop}]
";

#[tokio::test]
async fn weight_shifters_change_weights_and_nothing_else() {
    let groups = "weightShifters.groups={shifters,system:serviceaccounts:shop}";
    let chart = Chart::render_open(&["--set", groups]).unwrap();
    let fixture = GatewayFixture::build_with(&chart).await;
    let manifests = shared_router() + ALL_OF_ROUTES;
    fixture.api.apply(&manifests).await.unwrap();
    let red = Team::new(&fixture, "red").await;
    let route = "routes.evermesh.dev/red";
    let refusal = "weight shifters may";
    eventually("the policy of the chart", async || {
        let label = r#"{"metadata":{"labels":{"a":"b"}}}"#;
        let patch = [
            "patch",
            route,
            "--dry-run=server",
            "--type=merge",
            "--patch",
            label,
        ];
        red.kubectl(&patch)
            .await
            .is_err_and(|error| error.contains(refusal))
    })
    .await;

    let target = |node: &str, more: &str| {
        format!(
            r#"{{"spec":{{"httpRoute":{{"action":{{"weightedTargets":[{{"virtualNodeRef":{{"name":"color-v1"}},"weight":1}},{{"virtualNodeRef":{{"name":"{node}"}},"weight":1{more}}}]}}}}}}}}"#
        )
    };
    let other_variant = r#"{"spec":{"httpRoute":null,"http2Route":{"match":{"prefix":"/red"},"action":{"weightedTargets":[{"virtualNodeRef":{"name":"color-v1"},"weight":100},{"virtualNodeRef":{"name":"color-v2"},"weight":0}]}}}}"#;
    for patch in [
        r#"{"spec":{"httpRoute":{"match":{"prefix":"/"}}}}"#,
        r#"{"spec":{"httpRoute":{"match":{"headers":[{"name":"a"}]}}}}"#,
        r#"{"spec":{"httpRoute":{"timeout":{"idle":{"unit":"s","value":1}}}}}"#,
        r#"{"spec":{"httpRoute":{"retryPolicy":{"maxRetries":1,"perRetryTimeout":{"unit":"s","value":1},"httpRetryEvents":["server-error"]}}}}"#,
        r#"{"spec":{"priority":0}}"#,
        other_variant,
        &target("color-v3", ""),
        &target("color-v2", r#","port":1"#),
        r#"{"spec":{"httpRoute":{"action":{"weightedTargets":[{"virtualNodeRef":{"name":"color-v1"},"weight":100}]}}}}"#,
        r#"{"metadata":{"finalizers":["example.com/a"]}}"#,
    ] {
        let error = red.patch(route, patch).await.unwrap_err();
        assert!(error.contains(refusal), "{patch}: {error}");
    }
    let router = r#"{"spec":{"virtualRouterRef":{"name":"other"}}}"#;
    let error = red.patch(route, router).await.unwrap_err();
    assert!(error.contains("denied"), "{error}");
    let error = red.kubectl(&["delete", route]).await.unwrap_err();
    assert!(error.contains(refusal), "{error}");
    let dir = tools::scratch("team").unwrap();
    let third = dir.path().join("third.yaml");
    fs::write(&third, route_of("third", [0, 100])).unwrap();
    let create = ["create", "--filename", third.to_str().unwrap()];
    let error = red.kubectl(&create).await.unwrap_err();
    assert!(error.contains(refusal), "{error}");

    red.patch(route, &weights(0, 100)).await.unwrap();
    version_becomes(&fixture, "/red", "v2").await;
    let file = dir.path().join("red.yaml");
    fs::write(&file, route_of("red", [100, 0])).unwrap();
    let apply = ["apply", "--filename", file.to_str().unwrap()];
    red.kubectl(&apply).await.unwrap();
    version_becomes(&fixture, "/red", "v1").await;
    // The policy is for members of the groups only.
    let owner = [
        "patch",
        route,
        "--namespace=shop",
        "--type=merge",
        r#"--patch={"spec":{"priority":7}}"#,
    ];
    fixture.api.kubectl(&owner).await.unwrap();
}

/// The answer of `kubectl auth can-i` for a user, in the namespace `shop` unless the question has a flag.
async fn may(api: &ApiServer, user: &str, question: &str) -> bool {
    let user = format!("--as={user}");
    let mut arguments = vec!["auth", "can-i", &user];
    arguments.extend(question.split(' '));
    if !question.contains(" -") {
        arguments.push("--namespace=shop");
    }
    let mut kubectl = api.kubectl_command().unwrap();
    let output = kubectl.args(&arguments).output().await.unwrap();
    String::from_utf8_lossy(&output.stdout).trim() == "yes"
}

#[tokio::test]
async fn default_roles_of_kubernetes_include_the_mesh() {
    let chart = Chart::render(&[]).unwrap();
    let api = ApiServer::start().await.unwrap();
    let no_webhook = "127.0.0.1:1".parse().unwrap();
    chart.install(&api, no_webhook).await.unwrap();
    api.create_namespace("shop").await.unwrap();
    for role in ["view", "edit", "admin"] {
        let user = format!("--user={role}er");
        let role = format!("--clusterrole={role}");
        let bind = [
            "create",
            "rolebinding",
            &user[7..],
            &role,
            &user,
            "--namespace=shop",
        ];
        api.kubectl(&bind).await.unwrap();
    }
    assert!(
        !may(&api, "viewer", "get routes.evermesh.dev").await,
        "the roles are not aggregated yet"
    );
    api.aggregate_roles().await.unwrap();
    eventually("the permissions of an administrator", async || {
        may(&api, "adminer", "patch routes.evermesh.dev").await
    })
    .await;
    for (question, expected) in [
        ("get routes.evermesh.dev", [true, true, true]),
        ("watch virtualnodes.appmesh.k8s.aws", [true, true, true]),
        ("list backendgroups.appmesh.k8s.aws", [true, true, true]),
        ("patch routes.evermesh.dev", [false, true, true]),
        ("create virtualrouters.appmesh.k8s.aws", [false, true, true]),
        ("delete gatewayroutes.appmesh.k8s.aws", [false, true, true]),
        // Only Evermesh writes statuses, and no namespace owns cluster-scoped objects and other namespaces.
        (
            "patch routes.evermesh.dev --subresource=status --namespace=shop",
            [false; 3],
        ),
        ("patch meshes.appmesh.k8s.aws -A", [false; 3]),
        ("get secrets --namespace=appmesh-system", [false; 3]),
        // The roles keep the permissions that Kubernetes gives them.
        ("create rolebindings", [false, false, true]),
    ] {
        let mut answers = Vec::new();
        for user in ["viewer", "editer", "adminer"] {
            answers.push(may(&api, user, question).await);
        }
        assert_eq!(answers, expected, "{question}");
    }
}
