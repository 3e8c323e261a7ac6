//! The Kubernetes API of the test kit: CRDs with CEL rules, RBAC, pod statuses, webhooks and a crash.

use std::{cell::Cell, net::Ipv4Addr, time::Duration};

use evermesh_testkit::{
    kubernetes::{self, ApiServer, PodState},
    tools, wait,
};
use tokio::net::TcpListener;

/// Limit for roles and webhook configurations to take effect.
const LIMIT: Duration = Duration::from_secs(30);

/// A Route with this `match`, which is YAML in flow style.
fn route(matched: &str) -> String {
    format!(
        "apiVersion: evermesh.dev/v1alpha1
kind: Route
metadata: {{name: other, namespace: demo}}
spec:
  virtualRouterRef: {{name: color}}
  httpRoute:
    match: {matched}
    action: {{weightedTargets: [{{virtualNodeRef: {{name: color-v1}}, weight: 1}}]}}
"
    )
}

#[tokio::test]
async fn objects_are_validated_and_survive_a_crash_of_the_api_server() {
    let mut api = ApiServer::start().await.unwrap();
    api.install_crds().await.unwrap();
    // The folder is applied file by file, and the namespace is in the second file.
    api.create_namespace("demo").await.unwrap();
    api.apply_path(&tools::workspace().unwrap().join("examples/canary"))
        .await
        .unwrap();

    api.apply(&route("{prefix: /}")).await.unwrap();
    let error = api.apply(&route("{prefix: color}")).await.unwrap_err();
    let error = format!("{error:#}");
    assert!(error.contains("start match.prefix with a slash"), "{error}");

    let routes = ["get", "routes.evermesh.dev", "--all-namespaces", "-o=name"];
    let before = api.kubectl(&routes).await.unwrap();
    assert_eq!(
        before.lines().collect::<Vec<_>>(),
        ["route.evermesh.dev/color", "route.evermesh.dev/other"]
    );
    let client = api.client().await.unwrap();
    let url = api.url();
    api.kill_api_server();
    api.kubectl(&routes).await.unwrap_err();
    client.apiserver_version().await.unwrap_err();
    api.restart_api_server().await.unwrap();
    assert_eq!(api.url(), url);
    assert_eq!(api.kubectl(&routes).await.unwrap(), before);
    // The client connects again.
    let version = client.apiserver_version().await.unwrap();
    assert!(version.git_version.starts_with("v1.36."), "{version:?}");
}

#[tokio::test]
async fn service_account_has_the_rights_of_its_roles() {
    let api = ApiServer::start().await.unwrap();
    api.create_namespace("demo").await.unwrap();
    let kubeconfig = api
        .service_account_kubeconfig("demo", "default")
        .await
        .unwrap();
    let client = kubernetes::client(&kubeconfig).await.unwrap();
    let config_maps = || {
        http::Request::get("/api/v1/namespaces/demo/configmaps")
            .body(Vec::new())
            .unwrap()
    };
    let error = client.request_text(config_maps()).await.unwrap_err();
    let kube::Error::Api(status) = error else {
        panic!("{error}")
    };
    assert_eq!(status.code, 403);
    let account = "system:serviceaccount:demo:default";
    assert!(status.message.contains(account), "{status:?}");

    for arguments in [
        "create role reader --verb=list --resource=configmaps -n demo",
        "create rolebinding reader --role=reader --serviceaccount=demo:default -n demo",
    ] {
        api.kubectl(&arguments.split(' ').collect::<Vec<_>>())
            .await
            .unwrap();
    }
    wait::eventually("the granted right", LIMIT, async || {
        client.request_text(config_maps()).await.is_ok()
    })
    .await;
}

#[tokio::test]
async fn pod_has_the_status_that_a_test_sets() {
    const POD: &str = "
apiVersion: v1
kind: Pod
metadata: {name: color, namespace: demo}
spec:
  readinessGates: [{conditionType: example.org/gate}]
  containers: [{name: app, image: app}]
";
    const GATE: &str =
        r#"{"status": {"conditions": [{"type": "example.org/gate", "status": "True"}]}}"#;

    let api = ApiServer::start().await.unwrap();
    api.create_namespace("demo").await.unwrap();
    api.apply(POD).await.unwrap();
    let status = async |path: &str| {
        let path = format!("-o=jsonpath={{.status.{path}}}");
        api.kubectl(&["get", "pod", "color", "-n=demo", &path])
            .await
            .unwrap()
    };
    assert_eq!(status("phase").await, "Pending");

    api.kubectl(&[
        "patch",
        "pod",
        "color",
        "-n=demo",
        "--subresource=status",
        "-p",
        GATE,
    ])
    .await
    .unwrap();
    let ip = Ipv4Addr::new(10, 1, 2, 3);
    for (state, containers, pod) in [
        (PodState::Started, "False", "False"),
        (PodState::ContainersReady, "True", "False"),
        (PodState::Ready, "True", "True"),
    ] {
        api.set_pod("demo", "color", ip.into(), state)
            .await
            .unwrap();
        assert_eq!(status("phase").await, "Running");
        assert_eq!(status("podIPs[*].ip").await, "10.1.2.3");
        for (kind, expected) in [
            ("ContainersReady", containers),
            ("Ready", pod),
            ("example.org/gate", "True"),
        ] {
            let path = format!(r#"conditions[?(@.type=="{kind}")].status"#);
            assert_eq!(status(&path).await, expected, "{kind} when {state:?}");
        }
    }
}

#[tokio::test]
async fn webhook_on_loopback_is_called() {
    let api = ApiServer::start().await.unwrap();
    api.create_namespace("demo").await.unwrap();
    let webhook = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    api.apply(&format!(
        "apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingWebhookConfiguration
metadata: {{name: judge}}
webhooks:
- name: judge.example.org
  clientConfig: {{url: 'https://{}/judge'}}
  rules: [{{apiGroups: [''], apiVersions: [v1], operations: [CREATE], resources: [configmaps]}}]
  sideEffects: None
  admissionReviewVersions: [v1]
",
        webhook.local_addr().unwrap()
    ))
    .await
    .unwrap();
    // The webhook closes every connection.
    let called = Cell::new(false);
    let hang_up = async {
        loop {
            webhook.accept().await.unwrap();
            called.set(true);
        }
    };
    let create = async {
        let create = ["create", "configmap", "new", "-n=demo", "--dry-run=server"];
        let mut result = Ok(String::new());
        wait::eventually("a call of the webhook", LIMIT, async || {
            result = api.kubectl(&create).await;
            result.is_err()
        })
        .await;
        result.unwrap_err().to_string()
    };
    let error = tokio::select! {
        error = create => error,
        () = hang_up => unreachable!("the loop does not end"),
    };
    assert!(
        error.contains(r#"failed calling webhook "judge.example.org""#),
        "{error}"
    );
    assert!(called.get(), "{error}");
}
