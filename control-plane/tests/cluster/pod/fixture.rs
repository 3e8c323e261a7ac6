//! A namespace with a member that has forty listeners, two pods outside the mesh, and two pods with a TLS listener.

use std::{net::Ipv4Addr, ops::RangeInclusive};

use evermesh_local_cluster::{TestCluster, images};
use evermesh_testkit::load::LoadStats;
use rcgen::generate_simple_self_signed;
use serde_json::{Value, json};

/// The ports of the member's listeners.
pub(super) const PORTS: RangeInclusive<u16> = 8001..=8040;

/// A port of the member's application without a listener.
pub(super) const UNLISTED: u16 = 8041;

/// The port of the other applications; the pods with a sidecar have a listener for it.
pub(super) const PORT: u16 = 8080;

/// The second port of the other applications. It has no listener, and the member's calls to it bypass Envoy.
pub(super) const SIDE_PORT: u16 = 8081;

/// Path of the token for Evermesh in containers.
pub(super) const TOKEN: &str = "/var/run/secrets/mine/token";

/// The namespace `pods` with its pods.
pub(super) struct PodFixture<'a> {
    pub(super) cluster: &'a TestCluster,
    /// A pod outside the mesh. The member's calls to its address bypass Envoy.
    pub(super) ignored: Ipv4Addr,
    /// Another pod outside the mesh.
    pub(super) outside: Ipv4Addr,
}

impl<'a> PodFixture<'a> {
    /// Creates the pods and waits until all of them except `strict` are ready.
    pub(super) async fn build(cluster: &'a TestCluster) -> Self {
        cluster.clear("pods").await.unwrap();
        let kubectl = cluster.kubectl();
        kubectl.apply(&mesh("DROP_ALL")).await.unwrap();
        kubectl.apply(&nodes("STRICT")).await.unwrap();
        kubectl.apply(&certificate()).await.unwrap();

        let no_sidecar = json!({"appmesh.k8s.aws/sidecarInjectorWebhook": "disabled"});
        for name in ["ignored", "outside"] {
            let app = container("app", &[PORT, SIDE_PORT]);
            create(cluster, name, "none", &no_sidecar, &[app]).await;
        }
        let tls = json!({"appmesh.k8s.aws/secretMounts": "certificate:/certificate"});
        for (name, port) in [("strict", PORT), ("strict-aside", SIDE_PORT)] {
            let mut app = container("app", &[PORT, SIDE_PORT]);
            app["readinessProbe"] = probe(port);
            create(cluster, name, "strict", &tls, &[app]).await;
        }
        wait_until_ready(cluster, &["pod/ignored", "pod/outside"]).await;
        let [ignored, outside] = [ip(cluster, "ignored").await, ip(cluster, "outside").await];

        let exempt = json!({
            "appmesh.k8s.aws/egressIgnoredIPs": ignored.to_string(),
            "appmesh.k8s.aws/egressIgnoredPorts": SIDE_PORT.to_string(),
        });
        let ports: Vec<u16> = PORTS.chain([UNLISTED]).collect();
        let mut app = container("app", &ports);
        app["startupProbe"] = probe(*PORTS.start());
        app["readinessProbe"] = probe(UNLISTED);
        let mut bypass = container("bypass", &[PORT]);
        bypass["securityContext"] = json!({"runAsUser": 1337});
        create(cluster, "member", "member", &exempt, &[app, bypass]).await;
        wait_until_ready(cluster, &["pod/member", "pod/strict-aside"]).await;
        Self {
            cluster,
            ignored,
            outside,
        }
    }
}

impl PodFixture<'_> {
    /// The response of a pod to a request from outside the cluster.
    pub(super) async fn get(&self, pod: &str, port: u16) -> String {
        self.cluster.get("pods", pod, port, "/").await.unwrap()
    }

    /// The value of a counter of the member's Envoy.
    pub(super) async fn counter(&self, name: &str) -> u64 {
        let name = format!("^{name}$");
        self.cluster
            .counter_sum("pods", "member", &name)
            .await
            .unwrap()
    }

    /// Number of requests that the member's Envoy has forwarded to this port of the application.
    pub(super) async fn requests(&self, port: u16) -> u64 {
        let cluster = format!("cluster.cds_ingress_pods_member_pods_http_{port}");
        self.counter(&format!("{cluster}.upstream_rq_total")).await
    }

    /// Whether a pod has the condition Ready.
    pub(super) async fn is_ready(&self, pod: &str) -> bool {
        let condition = "{.status.conditions[?(@.type==\"Ready\")].status}";
        let output = format!("--output=jsonpath={condition}");
        let get = ["get", "pod", pod, "--namespace=pods", &output];
        self.cluster.kubectl().run(&get).await.unwrap() == "True"
    }

    /// Runs `evermesh-test-app` in a container; returns its output.
    pub(super) async fn run(&self, pod: &str, container: &str, arguments: &[&str]) -> String {
        let exec = ["exec", "--namespace=pods", pod, "--container", container];
        let program = ["--", "evermesh-test-app"];
        let command = [&exec[..], &program, arguments].concat();
        self.cluster.kubectl().run(&command).await.unwrap()
    }

    /// Sends ten requests from a container of the member; returns their statistics.
    pub(super) async fn call(&self, container: &str, ip: Ipv4Addr, port: u16) -> LoadStats {
        let address = format!("{ip}:{port}");
        let load = ["load", "--connect", &address, "--host", "pods"];
        let load = [&load[..], &["--rate=10", "--seconds=1"]].concat();
        let printed = self.run("member", container, &load).await;
        serde_json::from_str(printed.lines().last().unwrap()).unwrap()
    }
}

/// Manifests of the namespace and its mesh, with this egress filter.
pub(super) fn mesh(egress: &str) -> String {
    format!(
        "apiVersion: v1
kind: Namespace
metadata:
  name: pods
  labels: {{mesh: pods, appmesh.k8s.aws/sidecarInjectorWebhook: enabled}}
---
apiVersion: appmesh.k8s.aws/v1beta2
kind: Mesh
metadata: {{name: pods}}
spec:
  namespaceSelector: {{matchLabels: {{mesh: pods}}}}
  egressFilter: {{type: {egress}}}
"
    )
}

/// Manifests of the member's node, and of a node whose listener has this TLS mode.
pub(super) fn nodes(mode: &str) -> String {
    let plain = |port: u16| json!({"portMapping": {"port": port, "protocol": "http"}});
    let mut secured = plain(PORT);
    secured["tls"] = json!({
        "mode": mode,
        "certificate": {"file": {
            "certificateChain": "/certificate/tls.crt",
            "privateKey": "/certificate/tls.key",
        }},
    });
    let nodes = [
        ("member", PORTS.map(plain).collect()),
        ("strict", vec![secured]),
    ];
    let objects = nodes.map(|(name, listeners)| {
        json!({
            "apiVersion": "appmesh.k8s.aws/v1beta2",
            "kind": "VirtualNode",
            "metadata": {"name": name, "namespace": "pods"},
            "spec": {
                "podSelector": {"matchLabels": {"node": name}},
                "listeners": listeners,
                "serviceDiscovery": {"dns": {"hostname": format!("{name}.pods.svc")}},
            },
        })
        .to_string()
    });
    objects.join("\n---\n")
}

/// The Secret with the certificate of the TLS listener.
fn certificate() -> String {
    let made = generate_simple_self_signed(["strict.pods.svc".to_owned()]).unwrap();
    json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "certificate", "namespace": "pods"},
        "stringData": {"tls.crt": made.cert.pem(), "tls.key": made.signing_key.serialize_pem()},
    })
    .to_string()
}

/// A container that answers with its pod's name at these ports, and mounts a token for Evermesh.
fn container(name: &str, ports: &[u16]) -> Value {
    let listen = ports.iter().map(|port| format!("--listen=0.0.0.0:{port}"));
    let arguments = ["http", "--name=$(POD)"].map(str::to_owned);
    json!({
        "name": name,
        "image": images::reference("evermesh-test-app").unwrap(),
        "args": arguments.into_iter().chain(listen).collect::<Vec<_>>(),
        "env": [{"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
        "volumeMounts": [{"name": "mine", "mountPath": "/var/run/secrets/mine"}],
    })
}

fn probe(port: u16) -> Value {
    json!({"httpGet": {"path": "/", "port": port}, "periodSeconds": 1})
}

/// Creates a pod of this node.
async fn create(
    cluster: &TestCluster,
    name: &str,
    node: &str,
    annotations: &Value,
    containers: &[Value],
) {
    let token = json!({"serviceAccountToken": {"audience": "evermesh", "path": "token"}});
    let pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": "pods",
            "labels": {"node": node},
            "annotations": annotations,
        },
        "spec": {
            "containers": containers,
            "volumes": [{"name": "mine", "projected": {"sources": [token]}}],
        },
    });
    cluster.kubectl().apply(&pod.to_string()).await.unwrap();
}

async fn wait_until_ready(cluster: &TestCluster, pods: &[&str]) {
    let wait = ["wait", "--for=condition=Ready", "--timeout=120s"];
    let wait = [&wait[..], &["--namespace=pods"], pods].concat();
    cluster.kubectl().run(&wait).await.unwrap();
}

async fn ip(cluster: &TestCluster, pod: &str) -> Ipv4Addr {
    let get = ["get", "pod", pod, "--namespace=pods"];
    let get = [&get[..], &["--output=jsonpath={.status.podIP}"]].concat();
    let ip = cluster.kubectl().run(&get).await.unwrap();
    ip.parse().unwrap()
}
