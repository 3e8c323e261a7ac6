//! Target `annotations`: annotations and labels of pods, in every form that the injector gives to a pod.
//!
//! The input has one annotation per line, `NAME=VALUE`; a name without `/` gets App Mesh's prefix. A name that begins with
//! `label:` is that of a label.

use std::sync::LazyLock;

use evermesh_ingest::{Inputs, admission::ClusterSnapshot, object::parse};
use evermesh_injector::{
    Decision, InjectorSettings, PatchError,
    bootstrap::{StatsD, Tracing},
    decide, patch,
    settings::{MalformedAnnotation, SidecarOrder, WithoutMember},
};
use serde_json::{Value, json};

use crate::{FuzzTarget, injected_pod::patched, mutation::InputFormat};

pub(crate) const TARGET: FuzzTarget = FuzzTarget {
    name: "annotations",
    format: InputFormat::Lines,
    run,
    seeds,
};

const NAMESPACE: &str = "shop";

const SURROUNDINGS: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {appmesh.k8s.aws/sidecarInjectorWebhook: enabled}}
---
apiVersion: appmesh.k8s.aws/v1beta2
kind: Mesh
metadata: {name: shop, uid: u}
spec: {}
---
apiVersion: appmesh.k8s.aws/v1beta2
kind: VirtualNode
metadata: {name: web, namespace: shop}
spec:
  meshRef: {name: shop, uid: u}
  podSelector: {matchLabels: {app: web}}
  listeners: [{portMapping: {port: 8080, protocol: http}}]
  serviceDiscovery: {awsCloudMap: {namespaceName: apps, serviceName: web}}
---
apiVersion: appmesh.k8s.aws/v1beta2
kind: VirtualGateway
metadata: {name: gate, namespace: shop}
spec:
  meshRef: {name: shop, uid: u}
  podSelector: {matchLabels: {app: gate}}
  listeners: [{portMapping: {port: 8088, protocol: http}}]
";

static SNAPSHOT: LazyLock<ClusterSnapshot> = LazyLock::new(|| snapshot(SURROUNDINGS));
static SETTINGS: LazyLock<[InjectorSettings; 2]> = LazyLock::new(settings);

/// The snapshot that these manifests make.
///
/// # Panics
/// If one of them is not a valid object.
pub(crate) fn snapshot(manifests: &str) -> ClusterSnapshot {
    let documents: Vec<Value> = serde_saphyr::from_multiple(manifests).expect("YAML");
    let mut inputs = Inputs::default();
    for document in documents {
        let parsed = parse(document);
        let object = parsed.object;
        let (reference, object) = object.unwrap_or_else(|| panic!("{:?}", parsed.problems));
        inputs.apply(reference, Some(object));
    }
    ClusterSnapshot::from(&inputs)
}

/// The settings with the fewest, and those with the most additions to a pod.
pub(crate) fn settings() -> [InjectorSettings; 2] {
    let xds = "evermesh.test:18000".parse().expect("an address");
    let plain = InjectorSettings::new(xds, "evermesh-proxy-init:1".to_owned());
    let mut full = InjectorSettings {
        without_member: WithoutMember::Skip,
        malformed: MalformedAnnotation::Warn,
        order: SidecarOrder::Container,
        region: "eu-west-1".to_owned(),
        sds_socket: Some("/run/sds.sock".to_owned()),
        tracing: Some(Tracing::XRay {
            port: 2000,
            sampling_rate: 0.05,
        }),
        stats_tags: true,
        statsd: Some(StatsD::Socket("/run/statsd.sock".to_owned())),
        fs_group: true,
        cloud_map_gate: true,
        ..plain.clone()
    };
    full.control_plane.authority = Some("authority".to_owned());
    [plain, full]
}

fn run(input: &[u8]) {
    let Ok(text) = str::from_utf8(input) else {
        return;
    };
    for app in ["web", "gate"] {
        let mut pod = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": { "namespace": NAMESPACE, "labels": { "app": app }, "annotations": {} },
            "spec": { "containers": [{ "name": "app", "image": "app:1" }, { "name": "envoy", "image": "envoy:1" }] },
        });
        if app == "web" {
            pod["spec"]["containers"].as_array_mut().map(Vec::pop);
        }
        for (name, value) in text.lines().filter_map(|line| line.split_once('=')) {
            if let Some(label) = name.strip_prefix("label:") {
                pod["metadata"]["labels"][label] = value.into();
            } else if name.contains('/') {
                pod["metadata"]["annotations"][name] = value.into();
            } else {
                pod["metadata"]["annotations"][format!("appmesh.k8s.aws/{name}")] = value.into();
            }
        }
        for settings in &*SETTINGS {
            is_injected_once(&pod, settings);
        }
    }
}

fn is_injected_once(pod: &Value, settings: &InjectorSettings) {
    let member = match decide(pod, NAMESPACE, &SNAPSHOT, settings.without_member) {
        Decision::Inject(member) => member,
        Decision::Skip(_) => return,
        Decision::Reject(rejected) => return assert_ne!(rejected.message, ""),
        Decision::Unready(message) => panic!("the namespace is known: {message}"),
    };
    match patch(pod, &member, settings) {
        Ok(made) => {
            let after = patched(pod, &made.patch);
            let again = patch(&after, &member, settings).expect("a patch of a patched pod");
            assert_eq!(json!(again.patch), json!([]), "a second patch of {after}");
            has_a_readable_bootstrap(&after);
        }
        Err(PatchError::Rejected(rejected)) => {
            assert_eq!(settings.malformed, MalformedAnnotation::Refuse, "{pod}");
            let message = rejected.message;
            assert!(
                message.contains("annotation `appmesh.k8s.aws/"),
                "{message}"
            );
        }
        Err(PatchError::Bootstrap(error)) => panic!("{error}: {pod}"),
    }
}

/// Checks that Envoy gets a bootstrap in JSON, once the kubelet has replaced `$$` by `$`.
fn has_a_readable_bootstrap(pod: &Value) {
    let lists = ["containers", "initContainers"];
    let containers = lists.iter().filter_map(|list| pod["spec"][list].as_array());
    let mut envoys = containers.flatten().filter(|it| it["name"] == "envoy");
    let envoy = envoys.next().unwrap_or_else(|| panic!("no Envoy in {pod}"));
    let arguments = envoy["args"].as_array().into_iter().flatten();
    let mut arguments = arguments.filter_map(Value::as_str);
    let bootstrap = arguments.find(|it| it.starts_with("{\"admin\""));
    let bootstrap = bootstrap.unwrap_or_else(|| panic!("no bootstrap in {envoy}"));
    let read = serde_json::from_str::<Value>(&bootstrap.replace("$$", "$"));
    read.unwrap_or_else(|error| panic!("{error}: {bootstrap}"));
}

fn seeds() -> Vec<Vec<u8>> {
    let seeds = [
        "ports=8080,9090\negressIgnoredIPs=10.0.0.1,fd00::/8\negressIgnoredPorts=22,25",
        "cpuRequest=10m\nmemoryRequest=32Mi\ncpuLimit=1e3\nmemoryLimit=.5",
        "sidecarEnv=A=b,C=d\nsidecarEnvJson=[{\"E\":\"f,g\"},{\"XRAY_SAMPLING_RATE\":\"0.1\"}]",
        "sidecarEnv=ENVOY_CONCURRENCY=3,ENVOY_LOG_LEVEL=debug,A=$(B)",
        "secretMounts=certs:/certs,more:/more\nvolumeMounts=data:/data",
        "xrayAgentConfigMount=config:/config\nsds=disabled\nipv6=disabled",
        "appmeshCNI=enabled\nports=",
        "label:eks.amazonaws.com/fargate-profile=fp\nappmeshCNI=disabled",
        "virtualGatewaySkipImageOverride=enabled",
        "sidecarInjectorWebhook=disabled\nlabel:app=other",
        "mesh=other\npreview=enabled\nvirtualNode=web",
    ];
    seeds.iter().map(|seed| seed.as_bytes().to_vec()).collect()
}
