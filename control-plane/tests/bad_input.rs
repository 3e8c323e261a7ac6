//! Wrong files in the folder of manifests: the program reports file, object, field and reason, and still serves the rest
//! of the mesh and the last good version of the wrong object.
//!
//! Needs the program `evermesh`, which `cargo test` builds for this test.

#![allow(clippy::unwrap_used)] // a panic fails the test

mod common;

use std::{fs, path::Path};

use common::eventually;
use evermesh_testkit::{control_plane::ControlPlane, tools};
use serde_json::Value;

const GOOD: &str = "
apiVersion: appmesh.k8s.aws/v1beta2
kind: Mesh
metadata: {name: m}
spec: {namespaceSelector: {}}
---
apiVersion: appmesh.k8s.aws/v1beta2
kind: VirtualNode
metadata: {name: front, namespace: shop}
spec:
  listeners: [{portMapping: {port: 8080, protocol: http}}]
  serviceDiscovery: {dns: {hostname: front.shop}}
  backends: [{virtualService: {virtualServiceRef: {name: color}}}]
---
apiVersion: appmesh.k8s.aws/v1beta2
kind: VirtualService
metadata: {name: color, namespace: shop}
spec:
  awsName: color.shop
  provider: {virtualRouter: {virtualRouterRef: {name: color}}}
";

/// A valid router, which each case changes in one place.
const ROUTER: &str = "
apiVersion: appmesh.k8s.aws/v1beta2
kind: VirtualRouter
metadata: {name: color, namespace: shop}
spec:
  listeners: [{portMapping: {port: 8080, protocol: http}}]
  routes:
    - name: all
      httpRoute:
        match: {prefix: /}
        action: {weightedTargets: [{virtualNodeRef: {name: front}, weight: 1}]}
";

const PROXY: &str = "/debug/resources?proxy=mesh/m/virtualNode/front_shop";

/// A wrong file and the problem that is reported.
struct Case {
    file: &'static str,
    content: Vec<u8>,
    reason: &'static str,
    /// Empty if the object is not known.
    object: &'static str,
    /// Empty if the problem concerns the whole object or file.
    field: &'static str,
}

fn case(
    file: &'static str,
    content: impl Into<Vec<u8>>,
    reason: &'static str,
    object: &'static str,
    field: &'static str,
) -> Case {
    Case {
        file,
        content: content.into(),
        reason,
        object,
        field,
    }
}

fn cases() -> Vec<Case> {
    let router = "VirtualRouter/shop/color";
    let bomb = (1..9).fold(
        "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned(),
        |bomb, level| {
            let alias = format!("*a{}, ", level - 1).repeat(10);
            format!("{bomb}a{level}: &a{level} [{alias}]\n")
        },
    );
    vec![
        case(
            "router.yaml",
            ROUTER.replace("port: 8080", "port: eighty"),
            "InvalidValue",
            router,
            "spec.listeners[0].portMapping.port",
        ),
        case(
            "router.yaml",
            ROUTER.replace("weight: 1", "weight: 101"),
            "InvalidValue",
            router,
            "spec.routes[0].httpRoute.action.weightedTargets[0].weight",
        ),
        case(
            "router.yaml",
            ROUTER.replace(
                "  routes:",
                "  routes:\n    - {name: all, tcpRoute: {action: {weightedTargets: []}}}",
            ),
            "",
            router,
            "spec.routes",
        ),
        case(
            "router.yaml",
            &ROUTER[..ROUTER.len() - 30],
            "InvalidYaml",
            "",
            "",
        ),
        case(
            "service.yaml",
            "apiVersion: appmesh.k8s.aws/v1beta2\nkind: VirtualService\nmetadata: {name: other, namespace: shop}\nspec: {awsName: color.shop}\n",
            "DuplicateHostname",
            "VirtualService/shop/other",
            "spec.awsName",
        ),
        case(
            "dangling.yaml",
            "apiVersion: appmesh.k8s.aws/v1beta2\nkind: VirtualService\nmetadata: {name: d, namespace: shop}\nspec: {provider: {virtualNode: {virtualNodeRef: {name: missing}}}}\n",
            "ReferenceNotFound",
            "VirtualService/shop/d",
            "spec.provider.virtualNode",
        ),
        case("zz-same.yaml", ROUTER, "DuplicateObject", "", ""),
        case(
            "kind.yaml",
            "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d, namespace: shop}\n",
            "UnknownKind",
            "",
            "",
        ),
        case(
            "garbage.yaml",
            b"{[&*!|".repeat(10 * 1024 * 1024 / 6),
            "InvalidYaml",
            "",
            "",
        ),
        case(
            "binary.yaml",
            b"kind: \xff\xfe".to_vec(),
            "InvalidYaml",
            "",
            "",
        ),
        case("bomb.yaml", bomb, "TooLarge", "", ""),
    ]
}

#[tokio::test]
async fn wrong_files_are_reported_and_the_rest_is_served() {
    let config = tools::scratch("bad-input").unwrap();
    fs::write(config.path().join("good.yaml"), GOOD).unwrap();
    fs::write(config.path().join("router.yaml"), ROUTER).unwrap();
    let mut control_plane = ControlPlane::start(config.path(), &[]).unwrap();
    control_plane.ready().await.unwrap();
    let served = control_plane.admin().get(PROXY).await.unwrap();
    assert!(
        served.contains("cds_egress_m_front_shop_http_8080"),
        "{served}"
    );
    assert_eq!(problems(&control_plane).await, Vec::<Value>::new());

    for case in cases() {
        let file = config.path().join(case.file);
        fs::write(&file, &case.content).unwrap();
        problems_become(&control_plane, |problems| {
            problems.iter().any(|problem| is_about(problem, &case))
        })
        .await;
        assert_eq!(
            control_plane.admin().get(PROXY).await.unwrap(),
            served,
            "{} changed what is served",
            case.file
        );
        restore(&file);
        problems_become(&control_plane, <[Value]>::is_empty).await;
    }

    // A route whose weights are all zero answers 503, and a problem says so.
    fs::write(
        config.path().join("router.yaml"),
        ROUTER.replace("weight: 1", "weight: 0"),
    )
    .unwrap();
    let reported = problems_become(&control_plane, |problems| !problems.is_empty()).await;
    assert_eq!(reported[0]["reason"], "AllWeightsZero", "{reported:?}");
    assert!(
        control_plane
            .admin()
            .get(PROXY)
            .await
            .unwrap()
            .contains("503")
    );
    restore(&config.path().join("router.yaml"));
    problems_become(&control_plane, <[Value]>::is_empty).await;

    let away = config.path().with_extension("away");
    fs::rename(config.path(), &away).unwrap();
    let reported = problems_become(&control_plane, |problems| !problems.is_empty()).await;
    assert_eq!(reported[0]["reason"], "Unreadable", "{reported:?}");
    assert_eq!(control_plane.admin().get(PROXY).await.unwrap(), served);
    fs::rename(&away, config.path()).unwrap();
    problems_become(&control_plane, <[Value]>::is_empty).await;
    control_plane.admin().get("/readyz").await.unwrap();
}

/// Whether a problem has the file, the object, the field and the reason of a case.
fn is_about(problem: &Value, case: &Case) -> bool {
    let text = |field: &str| problem[field].as_str().unwrap_or_default().to_owned();
    text("origin").starts_with(case.file)
        && text("reason").starts_with(case.reason)
        && text("object").starts_with(case.object)
        && text("field").starts_with(case.field)
        && !text("message").is_empty()
}

/// Undoes the change of a case.
fn restore(file: &Path) {
    if file.ends_with("router.yaml") {
        fs::write(file, ROUTER).unwrap();
    } else {
        fs::remove_file(file).unwrap();
    }
}

async fn problems(control_plane: &ControlPlane) -> Vec<Value> {
    let text = control_plane.admin().get("/debug/problems").await.unwrap();
    serde_json::from_str(&text).unwrap()
}

/// Waits until `condition` holds for the problems, and returns them.
async fn problems_become(
    control_plane: &ControlPlane,
    condition: impl Fn(&[Value]) -> bool,
) -> Vec<Value> {
    let mut last = Vec::new();
    eventually("the expected problems", async || {
        last = problems(control_plane).await;
        condition(&last)
    })
    .await;
    last
}
