//! Each team owns its Route and nothing else, by RBAC alone.

use std::{
    fmt::Write as _,
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use evermesh_testkit::kubernetes::ApiServer;

use crate::{Scene, eventually};

/// How soon traffic follows, once the API server has said yes.
const FOLLOWS: Duration = Duration::from_secs(1);

/// One router, whose inline route is the platform's, and a Route for each team.
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

struct Team<'a> {
    scene: &'a Scene,
    kubeconfig: PathBuf,
}

impl<'a> Team<'a> {
    async fn of(scene: &'a Scene, name: &str) -> Self {
        let account = scene.api.service_account_kubeconfig("shop", name);
        let kubeconfig = account.await.unwrap();
        Self { scene, kubeconfig }
    }

    async fn kubectl(&self, arguments: &[&str]) -> Result<String, String> {
        let arguments = [arguments, &["--namespace=shop"]].concat();
        let done = self.scene.api.kubectl_as(&self.kubeconfig, &arguments);
        done.await.map_err(|error| error.to_string())
    }

    async fn patch(&self, what: &str, patch: &str) -> Result<String, String> {
        self.kubectl(&["patch", what, "--type=merge", "--patch", patch])
            .await
    }

    async fn refused(&self, what: &str, patch: &str) {
        let refusal = self.patch(what, patch).await.unwrap_err();
        assert!(refusal.contains("is forbidden"), "{what}: {refusal}");
    }
}

async fn answer(scene: &Scene, path: &str) -> String {
    scene.address().get(path).await.unwrap()
}

/// Waits until a path is answered by this version, and returns how long; fails when that takes too long.
async fn follows(scene: &Scene, path: &str, version: &str) -> Duration {
    let said_yes = Instant::now();
    eventually(&format!("{path} at {version}"), async || {
        answer(scene, path).await == version
    })
    .await;
    let took = said_yes.elapsed();
    assert!(took < FOLLOWS, "{took:?}");
    took
}

#[tokio::test]
async fn a_team_shifts_its_own_canary_and_no_other() {
    let scene = Scene::build().await;
    scene.api.apply(&shared_router()).await.unwrap();
    let old = ["delete", "routes.evermesh.dev", "color", "--namespace=shop"];
    scene.api.kubectl(&old).await.unwrap();
    let red = Team::of(&scene, "red").await;
    let blue = Team::of(&scene, "blue").await;
    eventually("the rights of red", async || {
        red.kubectl(&["get", "routes.evermesh.dev", "red"])
            .await
            .is_ok()
    })
    .await;
    for team in ["red", "blue"] {
        eventually("a team's route", async || {
            let route = [
                "get",
                "routes.evermesh.dev",
                team,
                "--namespace=shop",
                "--output=json",
            ];
            let route = scene.api.kubectl(&route).await.unwrap();
            route.contains("proxies have accepted it")
        })
        .await;
    }
    for path in ["/", "/red", "/blue"] {
        assert_eq!(answer(&scene, path).await, "v1");
    }

    // One with `kubectl apply` of a file, one with `kubectl patch`.
    let dir = evermesh_testkit::tools::scratch("team").unwrap();
    let file = dir.path().join("red.yaml");
    let mut slowest = Duration::ZERO;
    for (shift, version) in [([0, 100], "v2"), ([100, 0], "v1"), ([0, 100], "v2")] {
        fs::write(&file, route_of("red", shift)).unwrap();
        let file = file.to_str().unwrap();
        red.kubectl(&["apply", "--filename", file]).await.unwrap();
        slowest = slowest.max(follows(&scene, "/red", version).await);
        assert_eq!(answer(&scene, "/blue").await, "v1");
    }
    let shifted = blue.patch("routes.evermesh.dev/blue", &weights(0, 1)).await;
    shifted.unwrap();
    slowest = slowest.max(follows(&scene, "/blue", "v2").await);
    println!("the slowest of 4 shifts had traffic {slowest:?} after the API server's answer");

    // Whatever they might try to reach more with.
    red.refused("routes.evermesh.dev/blue", &weights(1, 0))
        .await;
    blue.refused("routes.evermesh.dev/red", &weights(1, 0))
        .await;
    for team in [&red, &blue] {
        team.refused("virtualrouter/color", r#"{"spec":{"routes":[]}}"#)
            .await;
        team.refused("virtualnode/color-v1", r#"{"spec":{"listeners":[]}}"#)
            .await;
        let third = dir.path().join("third.yaml");
        fs::write(&third, route_of("third", [0, 100])).unwrap();
        let create = ["create", "--filename", third.to_str().unwrap()];
        let refusal = team.kubectl(&create).await.unwrap_err();
        assert!(refusal.contains("is forbidden"), "{refusal}");
    }
    assert_eq!(answer(&scene, "/").await, "v1");
    assert_eq!(scene.forbidden(), [""; 0]);
}

/// Whether a user of the namespace may do something, by `kubectl auth can-i`.
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
async fn the_roles_of_kubernetes_hold_for_the_mesh() {
    let chart = evermesh_testkit::chart::Chart::render(&[]).unwrap();
    let api = ApiServer::start().await.unwrap();
    let nobody = "127.0.0.1:1".parse().unwrap();
    chart.install(&api, nobody).await.unwrap();
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
        "before"
    );
    api.aggregate_roles().await.unwrap();
    eventually("the rights of an administrator", async || {
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
        // What only Evermesh says, and what belongs to the whole cluster.
        (
            "patch routes.evermesh.dev --subresource=status --namespace=shop",
            [false; 3],
        ),
        ("patch meshes.appmesh.k8s.aws -A", [false; 3]),
        ("get secrets --namespace=appmesh-system", [false; 3]),
        // They are Kubernetes' own roles and not ours alone.
        ("create rolebindings", [false, false, true]),
    ] {
        let mut said = Vec::new();
        for user in ["viewer", "editer", "adminer"] {
            said.push(may(&api, user, question).await);
        }
        assert_eq!(said, expected, "{question}");
    }
}
