//! Authentication of proxies by tokens of their pods, which the API server verifies with the chart's permissions.

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair},
};
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use evermesh_local_cluster::canary::route;
use evermesh_testkit::{
    chart::Chart,
    control_plane::ControlPlane,
    kubernetes::ApiServer,
    xds::{self, DeltaStream},
};
use futures::FutureExt as _;
use rustls::pki_types::{PrivatePkcs8KeyDer, pem::PemObject};
use serde_json::{Value, json};
use tonic::{Code, Status, transport::Channel};

use crate::{
    common::eventually,
    fixture::{Cluster, USER, mesh, start_app},
};

const GATE: &str = "mesh/shop/virtualGateway/gate_shop";
const COLOR: &str = "mesh/shop/virtualNode/color-v1_shop";

/// Opens a stream as this node, with this authorization.
async fn open_stream(
    control_plane: &ControlPlane,
    node: &str,
    authorization: Option<&str>,
) -> Result<DeltaStream, Status> {
    let address = format!("http://{}", control_plane.xds());
    let channel = Channel::from_shared(address).unwrap();
    xds::open_stream(channel.connect().await.unwrap(), node, authorization).await
}

/// Status of a stream that a client with this token opens as this node.
async fn status_of_stream(control_plane: &ControlPlane, node: &str, token: &str) -> Code {
    let authorization = format!("Bearer {token}");
    let opened = open_stream(control_plane, node, Some(&authorization)).await;
    opened.err().map_or(Code::Ok, |status| status.code())
}

async fn create_pod(api: &ApiServer, name: &str, app: &str) {
    let pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "shop", "labels": {"app": app}},
        "spec": {"containers": [{"name": "app", "image": "app"}]},
    });
    api.apply(&pod.to_string()).await.unwrap();
}

/// Creates a token of the service account `default`.
async fn token(api: &ApiServer, arguments: &[&str]) -> String {
    let create = ["create", "token", "default", "--namespace=shop"];
    let arguments = [&create[..], arguments].concat();
    api.kubectl(&arguments).await.unwrap().trim().to_owned()
}

/// Creates the token that the kubelet would project into a pod.
pub(crate) async fn token_of(api: &ApiServer, pod: &str) -> String {
    let bound = [
        "--audience=evermesh",
        "--bound-object-kind=Pod",
        "--bound-object-name",
        pod,
    ];
    token(api, &bound).await
}

/// A token with the same claims, signed with the API server's key, that expired an hour ago.
fn expired(api: &ApiServer, token: &str) -> String {
    let (header, rest) = token.split_once('.').unwrap();
    let claims = rest.split_once('.').unwrap().0;
    let mut claims: Value =
        serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(claims).unwrap()).unwrap();
    for claim in ["exp", "iat", "nbf"] {
        let earlier = claims[claim].as_u64().unwrap() - 2 * 3600;
        claims[claim] = earlier.into();
    }
    let claims = BASE64_URL_SAFE_NO_PAD.encode(claims.to_string());
    let signed = format!("{header}.{claims}");
    let key = PrivatePkcs8KeyDer::from_pem_file(api.service_account_key()).unwrap();
    let key =
        EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, key.secret_pkcs8_der()).unwrap();
    let signature = key.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
    format!("{signed}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature))
}

async fn cluster_with(authentication: &str) -> (Cluster, ControlPlane) {
    let set = format!("xds.authentication={authentication}");
    let chart = Chart::render_open(&["--set", &set]).unwrap();
    let cluster = Cluster::install(ApiServer::start().await.unwrap(), &chart).await;
    let control_plane = cluster.start_replica().await;
    cluster.wait_for_webhooks().await;
    cluster.api.create_namespace("shop").await.unwrap();
    let versions = [start_app("v1"), start_app("v2")];
    cluster.api.apply(&mesh(18_088, versions)).await.unwrap();
    cluster.api.apply(&route([100, 0])).await.unwrap();
    create_pod(&cluster.api, "gate-1", "gate").await;
    create_pod(&cluster.api, "color-1", "color").await;
    (cluster, control_plane)
}

async fn deleted_pod_loses_its_stream_and_its_tokens(
    api: &ApiServer,
    control_plane: &ControlPlane,
) {
    create_pod(api, "gate-2", "gate").await;
    let other = token_of(api, "gate-2").await;
    let unused = token_of(api, "gate-2").await;
    assert_eq!(
        status_of_stream(control_plane, GATE, &other).await,
        Code::Ok
    );
    let authorization = format!("Bearer {other}");
    let opened = open_stream(control_plane, GATE, Some(&authorization)).await;
    let mut stream = opened.unwrap();
    let delete = [
        "delete",
        "pod",
        "gate-2",
        "-n=shop",
        "--force",
        "--grace-period=0",
    ];
    api.kubectl(&delete).await.unwrap();
    eventually("the end of the stream of the deleted pod", async || {
        let message = stream.responses.message().now_or_never();
        message.is_some_and(|it| it.is_err_and(|end| end.code() == Code::PermissionDenied))
    })
    .await;
    eventually("the rejection of the deleted pod", async || {
        status_of_stream(control_plane, GATE, &other).await == Code::PermissionDenied
    })
    .await;
    // Another pod of the same name does not make the token valid again.
    create_pod(api, "gate-2", "gate").await;
    assert_eq!(
        status_of_stream(control_plane, GATE, &other).await,
        Code::PermissionDenied
    );
    assert_eq!(
        status_of_stream(control_plane, GATE, &unused).await,
        Code::Unauthenticated
    );
}

#[tokio::test]
async fn token_of_a_pod_is_valid_for_its_own_node_only() {
    let (mut cluster, control_plane) = cluster_with("kubernetes").await;
    let api = &cluster.api;
    let [gate, color] = [
        token_of(api, "gate-1").await,
        token_of(api, "color-1").await,
    ];
    assert_eq!(
        status_of_stream(&control_plane, GATE, &gate).await,
        Code::Ok
    );
    assert_eq!(
        status_of_stream(&control_plane, COLOR, &color).await,
        Code::Ok
    );
    for (node, token) in [(COLOR, &gate), (GATE, &color)] {
        let code = status_of_stream(&control_plane, node, token).await;
        assert_eq!(code, Code::PermissionDenied, "{node}");
    }

    let signature = "AWS4-HMAC-SHA256 Credential=AKIA/20260101/eu-west-1/appmesh/aws4_request";
    for authorization in [None, Some(signature), Some("Bearer nonsense")] {
        let opened = open_stream(&control_plane, GATE, authorization).await;
        let status = opened.err().unwrap();
        assert_eq!(status.code(), Code::Unauthenticated, "{authorization:?}");
        assert!(!status.message().contains("gate"), "{status}");
    }
    let of_another_audience = ["--bound-object-kind=Pod", "--bound-object-name=gate-1"];
    for (what, token) in [
        ("another audience", token(api, &of_another_audience).await),
        ("no pod", token(api, &["--audience=evermesh"]).await),
        ("expired", expired(api, &gate)),
    ] {
        let code = status_of_stream(&control_plane, GATE, &token).await;
        assert_eq!(code, Code::Unauthenticated, "{what}");
    }

    let log = control_plane.log();
    assert!(log.contains("rejected an xDS stream"), "{log}");
    assert!(!log.contains(&gate), "the log does not contain tokens");

    deleted_pod_loses_its_stream_and_its_tokens(api, &control_plane).await;

    // Checked before the API server restarts, because for a moment after its start RBAC denies everything.
    assert_eq!(api.forbidden(USER).unwrap(), Vec::<String>::new());

    let unused = token_of(api, "gate-2").await;
    let authorization = format!("Bearer {gate}");
    let mut stream = open_stream(&control_plane, GATE, Some(&authorization))
        .await
        .unwrap();
    cluster.api.kill_api_server();
    // A token that was verified before stays valid; another one cannot be verified.
    let code = status_of_stream(&control_plane, GATE, &gate).await;
    assert_eq!(code, Code::Ok);
    let code = status_of_stream(&control_plane, COLOR, &gate).await;
    assert_eq!(code, Code::PermissionDenied);
    let code = status_of_stream(&control_plane, GATE, &unused).await;
    assert_eq!(code, Code::Unavailable);
    cluster.api.restart_api_server().await.unwrap();
    eventually("verification of the other token", async || {
        status_of_stream(&control_plane, GATE, &unused).await == Code::Ok
    })
    .await;
    let message = stream.responses.message().now_or_never();
    assert!(message.is_none(), "the open stream goes on: {message:?}");

    let metrics = control_plane.metrics().await.unwrap();
    for outcome in [
        "token",
        "no_credentials",
        "bad_credentials",
        "wrong_proxy",
        "unchecked",
    ] {
        let count = format!("evermesh_xds_authentications_total{{outcome=\"{outcome}\"}}");
        assert!(metrics.contains(&count), "{outcome}");
    }
}

#[tokio::test]
async fn permissive_mode_verifies_tokens_and_accepts_proxies_without_one() {
    let (cluster, control_plane) = cluster_with("kubernetes-permissive").await;
    let ready = control_plane.admin().get("/readyz").await.unwrap();
    let flag = "--xds-authentication=kubernetes-permissive";
    assert!(ready.contains(flag), "{ready}");
    let gate = token_of(&cluster.api, "gate-1").await;
    assert_eq!(
        status_of_stream(&control_plane, GATE, &gate).await,
        Code::Ok
    );
    let code = status_of_stream(&control_plane, COLOR, &gate).await;
    assert_eq!(code, Code::PermissionDenied);
    let signature = "AWS4-HMAC-SHA256 Credential=AKIA";
    for authorization in [None, Some(signature)] {
        let opened = open_stream(&control_plane, COLOR, authorization).await;
        assert!(opened.is_ok(), "{authorization:?}");
    }
}
