//! Examples on a Kubernetes cluster: the commands of their pages apply them, and every object becomes active.

use std::{fs, path::PathBuf};

use evermesh_testkit::{chart::Chart, kubernetes::ApiServer, tools};

use crate::fixture::Cluster;

/// The command in the README of each example, in the folder that contains `examples`.
const APPLY: &str = "    kubectl apply -f ";

/// The namespace of the example with a Secret. The chart lets Evermesh read Secrets there.
const SECRETS: &str = "acm-certificates";

/// Kinds with the condition that is true when the object and everything that it refers to are valid.
const CONDITIONS: [(&str, &str); 8] = [
    ("meshes", "MeshActive"),
    ("virtualnodes", "VirtualNodeActive"),
    ("virtualservices", "VirtualServiceActive"),
    ("virtualrouters", "VirtualRouterActive"),
    ("virtualgateways", "VirtualGatewayActive"),
    ("gatewayroutes", "GatewayRouteActive"),
    ("routes.evermesh.dev", "RouteActive"),
    ("routes.evermesh.dev", "Programmed"),
];

/// The READMEs of all examples.
fn readmes() -> Vec<PathBuf> {
    let root = tools::workspace().unwrap().join("examples");
    let folders = root.read_dir().unwrap().map(|entry| entry.unwrap().path());
    let mut readmes: Vec<PathBuf> = folders
        .map(|folder| folder.join("README.md"))
        .filter(|readme| readme.exists())
        .collect();
    readmes.sort();
    readmes
}

#[tokio::test]
async fn every_object_of_every_example_becomes_active() {
    let api = ApiServer::start().await.unwrap();
    api.create_namespace(SECRETS).await.unwrap();
    let secrets = format!("secretNamespaces={{{SECRETS}}}");
    let chart = Chart::render(&["--set", &secrets]).unwrap();
    let cluster = Cluster::install(api, &chart).await;
    let _replica = cluster.start_replica().await;
    cluster.wait_for_webhooks().await;
    let root = tools::workspace().unwrap();
    for readme in readmes() {
        let text = fs::read_to_string(&readme).unwrap();
        let command = text.lines().find_map(|line| line.strip_prefix(APPLY));
        let command = command.unwrap_or_else(|| panic!("{} has no `{APPLY}`", readme.display()));
        let mut apply = vec!["apply".to_owned()];
        for path in command.split(" -f ") {
            let path = root.join(path.trim());
            apply.push(format!("--filename={}", path.display()));
        }
        let apply: Vec<&str> = apply.iter().map(String::as_str).collect();
        cluster.api.kubectl(&apply).await.unwrap();
    }
    for (kind, condition) in CONDITIONS {
        let condition = format!("--for=condition={condition}");
        let wait = ["wait", kind, "--all", "--all-namespaces", "--timeout=120s"];
        let wait = [&wait[..], &[&condition]].concat();
        cluster.api.kubectl(&wait).await.unwrap();
    }
}
