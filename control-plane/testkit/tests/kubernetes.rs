//! The Kubernetes API is a real one: it takes the mesh's kinds, judges by CEL and RBAC, calls webhooks and survives a
//! crash.

use std::{
    cell::Cell,
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use evermesh_testkit::{
    kubernetes::{self, ApiServer, PodState},
    tools,
};
use tokio::net::TcpListener;

/// A route whose `httpRoute` matches what `matched` says, in YAML's flow form.
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
async fn the_api_takes_an_example_judges_it_and_keeps_it_over_a_crash() {
    let mut api = ApiServer::start().await.unwrap();
    api.install_crds().await.unwrap();
    // Its namespace is in its second file.
    api.create_namespace("demo").await.unwrap();
    api.apply_path(&tools::workspace().unwrap().join("examples/canary"))
        .await
        .unwrap();

    api.apply(&route("{prefix: /}")).await.unwrap();
    let refusal = api.apply(&route("{prefix: color}")).await.unwrap_err();
    let refusal = refusal.to_string();
    assert!(
        refusal.contains("start match.prefix with a slash"),
        "{refusal}"
    );

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
    // The client from before finds it again.
    let version = client.apiserver_version().await.unwrap();
    assert!(version.git_version.starts_with("v1.36."), "{version:?}");
}

#[tokio::test]
async fn a_service_account_may_do_what_rbac_says() {
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
    let refusal = client.request_text(config_maps()).await.unwrap_err();
    let kube::Error::Api(refusal) = refusal else {
        panic!("{refusal}")
    };
    assert_eq!(refusal.code, 403);
    assert!(
        refusal
            .message
            .contains("system:serviceaccount:demo:default"),
        "{refusal:?}"
    );

    for arguments in [
        "create role reader --verb=list --resource=configmaps -n demo",
        "create rolebinding reader --role=reader --serviceaccount=demo:default -n demo",
    ] {
        api.kubectl(&arguments.split(' ').collect::<Vec<_>>())
            .await
            .unwrap();
    }
    // The API server takes a moment to notice.
    let deadline = Instant::now() + Duration::from_secs(10);
    while let Err(refusal) = client.request_text(config_maps()).await {
        assert!(Instant::now() < deadline, "{refusal}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_pod_is_what_a_test_makes_of_it() {
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
async fn webhooks_are_called_on_loopback() {
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
    // It hangs up on whoever calls.
    let called = Cell::new(false);
    let hang_up = async {
        loop {
            webhook.accept().await.unwrap();
            called.set(true);
        }
    };
    let create = async {
        // The API server takes a moment to notice a new configuration.
        for attempt in 0.. {
            let name = format!("config-{attempt}");
            let create = ["create", "configmap", &name, "-n=demo"];
            if let Err(error) = api.kubectl(&create).await {
                return error.to_string();
            }
            assert!(attempt < 50, "nobody asked the webhook");
        }
        unreachable!()
    };
    let error = tokio::select! {
        error = create => error,
        () = hang_up => unreachable!(),
    };
    assert!(
        error.contains(r#"failed calling webhook "judge.example.org""#),
        "{error}"
    );
    assert!(called.get(), "{error}");
}
