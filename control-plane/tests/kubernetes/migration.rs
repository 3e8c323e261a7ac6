//! Migration: Evermesh in a cluster whose objects the App Mesh controller managed before.

use std::fs;

use evermesh_testkit::{
    chart::Chart, http::Address, kubernetes::ApiServer, port::ReservedPort, tools,
};
use serde_json::{Value, json};

use crate::{
    common::eventually,
    fixture::{Cluster, USER, lock_gateway, mesh, start_app, start_gateway},
};

/// The finalizer that the old controller added to every object.
const FINALIZER: &str = "finalizers.appmesh.k8s.aws/aws-appmesh-resources";

/// The CRDs of the App Mesh controller's chart: without Route, and without the columns that Evermesh adds.
fn old_crds() -> String {
    let folder = tools::workspace().unwrap().join("crds/yaml");
    let mut definitions = Vec::new();
    for file in fs::read_dir(folder).unwrap() {
        let text = fs::read_to_string(file.unwrap().path()).unwrap();
        let mut definition: Value = serde_saphyr::from_str(&text).unwrap();
        if definition["spec"]["group"] != "appmesh.k8s.aws" {
            continue;
        }
        let version = &mut definition["spec"]["versions"][0];
        if let Some(Value::Array(columns)) = version.get_mut("additionalPrinterColumns") {
            columns.retain(|column| column["name"] == "ARN" || column["name"] == "AGE");
        }
        definitions.push(definition.to_string());
    }
    assert_eq!(definitions.len(), 7);
    definitions.join("\n---\n")
}

/// The name of a kind in ARNs and statuses: `virtualNode` for `VirtualNode`.
fn lower_camel(kind: &str) -> String {
    kind[..1].to_lowercase() + &kind[1..]
}

/// An object with the fields that the old controller and its webhooks added.
fn with_old_fields(mut object: Value, uids: &[String]) -> Value {
    let kind = object["kind"].as_str().unwrap().to_owned();
    let name = object["metadata"]["name"].as_str().unwrap().to_owned();
    let mut finalizers = vec![FINALIZER];
    let aws_name = match kind.as_str() {
        "Mesh" => name,
        "VirtualService" => format!("{name}.shop"),
        _ => format!("{name}_shop"),
    };
    object["spec"]["awsName"] = aws_name.into();
    match kind.as_str() {
        "Mesh" => finalizers.push("finalizers.appmesh.k8s.aws/mesh-members"),
        "VirtualGateway" => finalizers.push("finalizers.appmesh.k8s.aws/virtualgateway-members"),
        "VirtualNode" => object["metadata"]["annotations"] = json!({"cloudMapServiceARN": "arn"}),
        "GatewayRoute" => {
            let gateway = json!({"name": "gate", "namespace": "shop", "uid": uids[1]});
            object["spec"]["virtualGatewayRef"] = gateway;
        }
        "VirtualRouter" => {
            let target = json!({"virtualNodeRef": {"name": "color-v1"}, "weight": 1});
            object["spec"]["routes"] = json!([{"name": "all", "httpRoute": {
                "match": {"prefix": "/"},
                "action": {"weightedTargets": [target]},
            }}]);
        }
        _ => {}
    }
    if kind != "Mesh" {
        object["spec"]["meshRef"] = json!({"name": "shop", "uid": uids[0]});
    }
    object["metadata"]["finalizers"] = json!(finalizers);
    object
}

/// The status that the old controller wrote.
fn old_status(kind: &str, name: &str) -> Value {
    let arn = format!("{}ARN", lower_camel(kind));
    json!({"status": {
        arn: format!("arn:aws:appmesh:eu-west-1:111122223333:mesh/shop/{}/{name}_shop", lower_camel(kind)),
        "conditions": [{
            "type": format!("{kind}Active"),
            "status": "True",
            "lastTransitionTime": "2024-03-01T12:00:00Z",
        }],
        "observedGeneration": 1,
    }})
}

pub(crate) async fn get(api: &ApiServer, object: &str) -> Value {
    api.get(object, "shop").await.unwrap().unwrap()
}

/// Creates the CRDs and objects as the old controller left them; returns the mesh's objects as `kind/name`.
pub(crate) async fn create_old_objects(
    api: &ApiServer,
    gateway: u16,
    versions: [u16; 2],
) -> Vec<String> {
    api.apply(&old_crds()).await.unwrap();
    api.wait_for_crds().await.unwrap();
    let mut uids = Vec::new();
    let mut names = Vec::new();
    let objects: Vec<Value> = serde_saphyr::from_multiple(&mesh(gateway, versions)).unwrap();
    for object in objects {
        if object["kind"] == "Namespace" {
            api.apply(&object.to_string()).await.unwrap();
            continue;
        }
        let kind = object["kind"].as_str().unwrap().to_owned();
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        let stored = with_old_fields(object, &uids);
        api.apply(&stored.to_string()).await.unwrap();
        let object = format!("{}/{name}", kind.to_lowercase());
        let uid = get(api, &object).await["metadata"]["uid"].clone();
        uids.push(uid.as_str().unwrap().to_owned());
        let status = old_status(&kind, &name).to_string();
        let patch = ["patch", &object, "--namespace=shop", "--subresource=status"];
        let patch = [&patch[..], &["--type=merge", "--patch", &status]].concat();
        api.kubectl(&patch).await.unwrap();
        names.push(object);
    }
    names
}

#[tokio::test]
async fn objects_of_the_old_controller_are_served_and_can_be_deleted() {
    let port = ReservedPort::reserve().unwrap();
    let api = ApiServer::start().await.unwrap();
    let versions = [start_app("v1"), start_app("v2")];
    let objects = create_old_objects(&api, port.address().port(), versions).await;
    assert_eq!(objects.len(), 7, "{objects:?}");

    let cluster = Cluster::install(api, &Chart::render_open(&[]).unwrap()).await;
    let control_plane = cluster.start_replica().await;
    cluster.wait_for_webhooks().await;
    let _gateway_ports = lock_gateway().await;
    let gateway = start_gateway(control_plane.xds()).await;
    let address = Address::Tcp(port.address());
    eventually("a response through the gateway", async || {
        address.get("/").await.is_ok_and(|body| body == "v1")
    })
    .await;
    let api = &cluster.api;
    for object in &objects {
        eventually("a status by Evermesh", async || {
            let status = get(api, object).await["status"].take();
            let conditions = status["conditions"].to_string();
            let arns = status.to_string();
            conditions.contains("\"reason\":\"Accepted\"") && !arns.contains("111122223333")
        })
        .await;
    }
    // The chart has replaced the CRDs.
    let columns = api.kubectl(&["get", "virtualservices", "-n=shop"]).await;
    let columns = columns.unwrap();
    assert!(columns.contains("PROGRAMMED"), "{columns}");
    // The webhooks also check changes of objects that are older than they are.
    let rename = r#"{"spec":{"awsName":"other"}}"#;
    let rename = [
        "patch",
        "virtualnode/color-v1",
        "-n=shop",
        "--type=merge",
        "-p",
        rename,
    ];
    api.kubectl(&rename).await.unwrap_err();

    // The mesh can be deleted before its members; the old controller would have waited for them.
    for object in &objects {
        let delete = ["delete", object, "--namespace=shop", "--timeout=120s"];
        api.kubectl(&delete).await.unwrap();
    }
    let definitions = ["delete", "crd", "--all", "--timeout=120s"];
    api.kubectl(&definitions).await.unwrap();
    assert_eq!(control_plane.admin().get("/livez").await.unwrap(), "ok\n");
    assert_eq!(api.forbidden(USER).unwrap(), [""; 0]);
    drop(gateway);
}
