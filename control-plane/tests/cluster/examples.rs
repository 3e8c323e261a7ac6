//! Examples with pods: their folders are applied with `kubectl`, and the commands of their READMEs run in the pods and
//! print what the READMEs show.
//!
//! `control-plane/tests/examples_traffic` does the same for every example, on hosts.

use std::{fs, path::Path};

use evermesh_local_cluster::{TestCluster, images, install};
use evermesh_testkit::{
    envoy::EnvoyVersion,
    readme::{self, ReadmeStep},
    tools,
};
use serde_json::{Value, json};

use crate::{
    common::{DEADLINE, eventually},
    say,
};

/// Examples whose hosts are one for each virtual node.
const EXAMPLES: [&str; 3] = ["canary-by-cookie", "grpc", "timeouts-and-retries"];

#[tokio::test]
async fn pages_of_examples_are_right_in_pods() {
    let cluster = TestCluster::obtain(say).await.unwrap();
    install(&cluster, EnvoyVersion::Newest, say).await.unwrap();
    cluster.load(&["evermesh-test-shell"]).await.unwrap();
    let examples = tools::workspace().unwrap().join("examples");
    for example in EXAMPLES {
        say(&format!("kubectl apply -f examples/{example}"));
        let pods = ExamplePods::apply(&cluster, &examples.join(example)).await;
        let text = fs::read_to_string(examples.join(example).join("README.md")).unwrap();
        let steps = readme::steps(&text).unwrap();
        // The addresses of Services work a moment after their pods are ready.
        eventually("the first output", async || {
            steps[0].expects(&pods.run(&steps[0]).await)
        })
        .await;
        for step in &steps[1..] {
            let output = pods.run(step).await;
            assert!(step.expects(&output), "{}: {output}", step.command);
        }
    }
}

/// The pods of an example: an application for each virtual node with listeners, and a shell for each one without.
struct ExamplePods<'a> {
    cluster: &'a TestCluster,
    namespace: String,
}

impl<'a> ExamplePods<'a> {
    async fn apply(cluster: &'a TestCluster, folder: &Path) -> Self {
        let objects = objects(folder);
        let namespace = of_kind(&objects, "Namespace").next().unwrap();
        let namespace = namespace["metadata"]["name"].as_str().unwrap().to_owned();
        cluster.clear(&namespace).await.unwrap();
        let pods = Self { cluster, namespace };
        let folder = format!("--filename={}", folder.display());
        pods.kubectl(&["apply", &folder]).await;
        let nodes: Vec<&str> = of_kind(&objects, "VirtualNode").map(name).collect();
        for node in of_kind(&objects, "VirtualNode") {
            pods.create(&deployment(node)).await;
            if let Some(listeners) = node["spec"]["listeners"].as_array() {
                let ports = listeners.iter().map(|it| &it["portMapping"]["port"]);
                pods.create(&service(name(node), ports, Some(node))).await;
            }
        }
        // The names that callers resolve, where no node has that name.
        for service_name in of_kind(&objects, "VirtualService").map(name) {
            if !nodes.contains(&service_name) {
                pods.create(&service(service_name, [&json!(80)], None))
                    .await;
            }
        }
        for node in nodes {
            cluster
                .wait_for_rollout(&pods.namespace, node, DEADLINE)
                .await
                .unwrap();
        }
        pods
    }

    async fn kubectl(&self, arguments: &[&str]) -> String {
        self.cluster.kubectl().run(arguments).await.unwrap()
    }

    async fn create(&self, object: &Value) {
        let mut object = object.clone();
        object["metadata"]["namespace"] = json!(self.namespace);
        self.cluster
            .kubectl()
            .apply(&object.to_string())
            .await
            .unwrap();
    }

    /// Runs a command in a pod of the host in its prompt, and returns what a terminal would show.
    async fn run(&self, step: &ReadmeStep) -> String {
        let pod = format!("deployment/{}", step.host.as_deref().unwrap());
        // The exit status is that of the last command of the script.
        let script = format!("exec 2>&1\n{}\ntrue", step.command);
        let exec = [
            "exec",
            &pod,
            "--namespace",
            &self.namespace,
            "--container=app",
        ];
        let exec = [&exec[..], &["--", "bash", "-c", &script]].concat();
        self.kubectl(&exec).await
    }
}

/// The objects of all files of a folder.
fn objects(folder: &Path) -> Vec<Value> {
    let files = folder
        .read_dir()
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let manifests = files.filter(|path| path.extension().is_some_and(|it| it == "yaml"));
    let texts = manifests.map(|path| fs::read_to_string(path).unwrap());
    texts
        .flat_map(|text| serde_saphyr::from_multiple::<Value>(&text).unwrap())
        .collect()
}

fn of_kind<'a>(objects: &'a [Value], kind: &str) -> impl Iterator<Item = &'a Value> {
    objects.iter().filter(move |object| object["kind"] == kind)
}

fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap()
}

/// A Deployment whose pods the node selects.
fn deployment(node: &Value) -> Value {
    let labels = &node["spec"]["podSelector"]["matchLabels"];
    let container = match node["spec"]["listeners"][0]["portMapping"]["port"].as_u64() {
        Some(port) => json!({
            "name": "app",
            "image": images::reference("evermesh-test-app").unwrap(),
            "args": ["http", "--name", name(node), "--listen", format!("0.0.0.0:{port}")],
        }),
        None => json!({
            "name": "app",
            "image": images::reference("evermesh-test-shell").unwrap(),
        }),
    };
    json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name(node)},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [container]}},
        },
    })
}

/// A Service of the pods of a node, or one that only gives a name an address.
fn service<'a>(
    name: &str,
    ports: impl IntoIterator<Item = &'a Value>,
    node: Option<&Value>,
) -> Value {
    let ports: Vec<Value> = ports
        .into_iter()
        .map(|port| json!({"port": port}))
        .collect();
    let mut service = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {"ports": ports},
    });
    if let Some(node) = node {
        service["spec"]["selector"] = node["spec"]["podSelector"]["matchLabels"].clone();
        // Addresses of the pods, as `responseType: ENDPOINTS` expects.
        service["spec"]["clusterIP"] = json!("None");
    }
    service
}
