//! Who may be which proxy: tokens of pods, verified by the API server under the chart's rights.

use std::time::Duration;

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair},
};
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use evermesh_testkit::{
    chart::Chart,
    control_plane::ControlPlane,
    kubernetes::ApiServer,
    xds::{self, DeltaStream},
};
use rustls::pki_types::{PrivatePkcs8KeyDer, pem::PemObject};
use serde_json::{Value, json};
use tokio::time::timeout;
use tonic::{Code, Status, transport::Channel};

use crate::{
    eventually, route,
    scene::{Cluster, USER, app, mesh},
};

const GATE: &str = "mesh/shop/virtualGateway/gate_shop";
const COLOR: &str = "mesh/shop/virtualNode/color-v1_shop";

/// Asks as this node, with this authorization.
async fn ask(
    control_plane: &ControlPlane,
    node: &str,
    authorization: Option<&str>,
) -> Result<DeltaStream, Status> {
    let address = format!("http://{}", control_plane.xds());
    let channel = Channel::from_shared(address).unwrap();
    xds::open_stream(channel.connect().await.unwrap(), node, authorization).await
}

/// What somebody with this token hears who wants to be this node.
async fn heard(control_plane: &ControlPlane, node: &str, token: &str) -> Code {
    let authorization = format!("Bearer {token}");
    let asked = ask(control_plane, node, Some(&authorization)).await;
    asked.err().map_or(Code::Ok, |status| status.code())
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

/// A token of the account `default`.
async fn token(api: &ApiServer, arguments: &[&str]) -> String {
    let create = ["create", "token", "default", "--namespace=shop"];
    let arguments = [&create[..], arguments].concat();
    api.kubectl(&arguments).await.unwrap().trim().to_owned()
}

/// The token that is projected into a pod.
async fn token_of(api: &ApiServer, pod: &str) -> String {
    let bound = [
        "--audience=evermesh",
        "--bound-object-kind=Pod",
        "--bound-object-name",
        pod,
    ];
    token(api, &bound).await
}

/// The same token as it is an hour after it has ended, signed by the API server's own key.
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
    let chart = Chart::render(&["--set", &set]).unwrap();
    let cluster = Cluster::of(ApiServer::start().await.unwrap(), &chart).await;
    let control_plane = cluster.start_replica().await;
    cluster.admits().await;
    cluster.api.create_namespace("shop").await.unwrap();
    let versions = [app("v1"), app("v2")];
    cluster.api.apply(&mesh(18_088, versions)).await.unwrap();
    cluster.api.apply(&route([100, 0])).await.unwrap();
    create_pod(&cluster.api, "gate-1", "gate").await;
    create_pod(&cluster.api, "color-1", "color").await;
    (cluster, control_plane)
}

#[tokio::test]
async fn a_pod_is_served_what_selects_it_and_nothing_else() {
    let (mut cluster, control_plane) = cluster_with("kubernetes").await;
    let api = &cluster.api;
    let [gate, color] = [
        token_of(api, "gate-1").await,
        token_of(api, "color-1").await,
    ];
    assert_eq!(heard(&control_plane, GATE, &gate).await, Code::Ok);
    assert_eq!(heard(&control_plane, COLOR, &color).await, Code::Ok);
    for (node, token) in [(COLOR, &gate), (GATE, &color)] {
        let code = heard(&control_plane, node, token).await;
        assert_eq!(code, Code::PermissionDenied, "{node}");
    }

    let signature = "AWS4-HMAC-SHA256 Credential=AKIA/20260101/eu-west-1/appmesh/aws4_request";
    for authorization in [None, Some(signature), Some("Bearer nonsense")] {
        let asked = ask(&control_plane, GATE, authorization).await;
        let status = asked.err().unwrap();
        assert_eq!(status.code(), Code::Unauthenticated, "{authorization:?}");
        assert!(!status.message().contains("gate"), "{status}");
    }
    let of_another_audience = ["--bound-object-kind=Pod", "--bound-object-name=gate-1"];
    for (what, token) in [
        ("another audience", token(api, &of_another_audience).await),
        ("no pod", token(api, &["--audience=evermesh"]).await),
        ("expired", expired(api, &gate)),
    ] {
        let code = heard(&control_plane, GATE, &token).await;
        assert_eq!(code, Code::Unauthenticated, "{what}");
    }

    let log = control_plane.log();
    assert!(log.contains("refused a proxy"), "{log}");
    assert!(!log.contains(&gate), "a token is no matter for a log");

    create_pod(api, "gate-2", "gate").await;
    let other = token_of(api, "gate-2").await;
    let unseen = token_of(api, "gate-2").await;
    assert_eq!(heard(&control_plane, GATE, &other).await, Code::Ok);
    let delete = [
        "delete",
        "pod",
        "gate-2",
        "-n=shop",
        "--force",
        "--grace-period=0",
    ];
    api.kubectl(&delete).await.unwrap();
    eventually("the pod is gone", async || {
        heard(&control_plane, GATE, &other).await == Code::PermissionDenied
    })
    .await;
    // Neither is another pod of that name meant.
    create_pod(api, "gate-2", "gate").await;
    assert_eq!(
        heard(&control_plane, GATE, &other).await,
        Code::PermissionDenied
    );
    assert_eq!(
        heard(&control_plane, GATE, &unseen).await,
        Code::Unauthenticated
    );

    // Later, an API server that has only just started knows nobody's rights yet.
    assert_eq!(api.forbidden(USER).unwrap(), Vec::<String>::new());

    let unknown = token_of(api, "gate-2").await;
    let authorization = format!("Bearer {gate}");
    let mut stream = ask(&control_plane, GATE, Some(&authorization))
        .await
        .ok()
        .unwrap();
    cluster.api.kill_api_server();
    assert_eq!(heard(&control_plane, GATE, &gate).await, Code::Ok);
    let code = heard(&control_plane, COLOR, &gate).await;
    assert_eq!(code, Code::PermissionDenied);
    let code = heard(&control_plane, GATE, &unknown).await;
    assert_eq!(code, Code::Unavailable);
    let quiet = Duration::from_millis(200);
    timeout(quiet, stream.responses.message())
        .await
        .unwrap_err();
    cluster.api.restart_api_server().await.unwrap();
    eventually("the API server is asked again", async || {
        heard(&control_plane, GATE, &unknown).await == Code::Ok
    })
    .await;

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
async fn while_it_is_permissive_a_token_is_verified_if_there_is_one() {
    let (cluster, control_plane) = cluster_with("kubernetes-permissive").await;
    let gate = token_of(&cluster.api, "gate-1").await;
    assert_eq!(heard(&control_plane, GATE, &gate).await, Code::Ok);
    let code = heard(&control_plane, COLOR, &gate).await;
    assert_eq!(code, Code::PermissionDenied);
    let signature = "AWS4-HMAC-SHA256 Credential=AKIA";
    for authorization in [None, Some(signature)] {
        let asked = ask(&control_plane, COLOR, authorization).await;
        assert!(asked.is_ok(), "{authorization:?}");
    }
}
