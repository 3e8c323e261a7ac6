//! Random pods that mostly are valid, with annotations that often are not, and the objects and settings around them.

use proptest::{
    collection::vec,
    option::weighted,
    prelude::*,
    sample::{select, subsequence},
};
use serde_json::{Value, json};

use super::annotations::annotations;

/// A pod, and the YAML of the other objects and the settings, with a pod that stands for it.
#[derive(Debug, Clone)]
pub(super) struct PodInput {
    pub(super) pod: Value,
    pub(super) surroundings: String,
}

/// One of these values in YAML.
pub(super) fn one_of(values: &'static [&'static str]) -> BoxedStrategy<Value> {
    let read = |text: &str| serde_saphyr::from_str(text).unwrap();
    select(values).prop_map(read).boxed()
}

/// An object that has each field with this probability, below 1; a field without a probability is always there.
pub(super) fn object(
    fields: Vec<(&'static str, Option<f64>, BoxedStrategy<Value>)>,
) -> BoxedStrategy<Value> {
    let names: Vec<&str> = fields.iter().map(|(name, ..)| *name).collect();
    let values: Vec<_> = fields
        .into_iter()
        .map(|(_, probability, value)| match probability {
            Some(probability) => weighted(probability, value).boxed(),
            None => value.prop_map(Some).boxed(),
        })
        .collect();
    values
        .prop_map(move |values| {
            let fields = names.iter().zip(values);
            let present = fields.filter_map(|(name, value)| Some(((*name).to_owned(), value?)));
            Value::Object(present.collect())
        })
        .boxed()
}

pub(super) fn text(pattern: &'static str) -> BoxedStrategy<Value> {
    pattern.prop_map(Value::from).boxed()
}

/// The fields that containers and init containers have.
fn common_fields() -> Vec<(&'static str, Option<f64>, BoxedStrategy<Value>)> {
    vec![
        ("image", None, one_of(&["app:1"])),
        (
            "ports",
            Some(0.2),
            one_of(&[
                "[{containerPort: 8080}]",
                "[{containerPort: 9901, name: stats}]",
                "[{containerPort: 15000}, {containerPort: 15001}]",
                "[{containerPort: 2000, protocol: UDP}]",
                "[{containerPort: 2000}, {containerPort: 9901, protocol: UDP}]",
                "[{containerPort: 8080, hostPort: 8080}]",
                "[{containerPort: 9901, hostPort: 9901, hostIP: 127.0.0.1}]",
                "[{containerPort: 80, hostPort: 9901}]",
                "[{containerPort: 70000}]",
            ]),
        ),
        (
            "env",
            Some(0.2),
            one_of(&[
                "[{name: A, value: b}, {name: A, value: c}]",
                "[{name: EVERMESH_POD_NAME, value: x}]",
                "[{name: STATSD_ADDRESS, value: $(A)}]",
                "[{name: ENVOY_LOG_LEVEL, valueFrom: {fieldRef: {fieldPath: metadata.name}}}]",
            ]),
        ),
        (
            "resources",
            Some(0.15),
            one_of(&[
                "{requests: {cpu: 100m, memory: 64Mi}}",
                "{limits: {cpu: '1'}}",
                "{limits: {memory: 1Gi}, requests: {memory: 0.5Gi}}",
                "{requests: {cpu: '2'}, limits: {cpu: '1'}}",
            ]),
        ),
        (
            "securityContext",
            Some(0.15),
            one_of(&[
                "{runAsUser: 1337}",
                "{runAsUser: 0, runAsNonRoot: false}",
                "{privileged: true}",
                "{allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}",
                "{windowsOptions: {hostProcess: true, runAsUserName: SYSTEM}}",
                "{seccompProfile: {type: Unconfined}}",
            ]),
        ),
        ("volumeMounts", Some(0.3), mounts()),
        (
            "volumeDevices",
            Some(0.05),
            one_of(&[
                "[{name: disk, devicePath: /certs}]",
                "[{name: disk, devicePath: /run/spire/agent.sock}]",
            ]),
        ),
    ]
}

fn mounts() -> BoxedStrategy<Value> {
    let mount = one_of(&[
        "{name: data, mountPath: /data}",
        "{name: data, mountPath: /certs}",
        "{name: data, mountPath: /certs/}",
        "{name: data, mountPath: /tmp, subPath: a}",
        "{name: data, mountPath: /var/run/secrets/evermesh.dev}",
        "{name: data, mountPath: /run/spire/agent.sock}",
        "{name: tls, mountPath: /certs}",
    ]);
    vec(mount, 1..=2).prop_map(Value::from).boxed()
}

fn probe() -> BoxedStrategy<Value> {
    one_of(&[
        "{exec: {command: [sh, -c, 'curl -s localhost:9901/server_info']}}",
        "{httpGet: {path: /stats, port: 9901}, periodSeconds: 3}",
        "{httpGet: {path: /ready, port: stats}}",
        "{tcpSocket: {port: 9901}, initialDelaySeconds: 2}",
        "{grpc: {port: 8080}}",
    ])
}

fn container() -> BoxedStrategy<Value> {
    let mut fields = common_fields();
    fields.extend([
        ("command", Some(0.1), one_of(&["[envoy]"])),
        ("args", Some(0.1), one_of(&["[--config-path, /x]"])),
        ("livenessProbe", Some(0.2), probe()),
        ("readinessProbe", Some(0.2), probe()),
        ("startupProbe", Some(0.1), probe()),
        (
            "lifecycle",
            Some(0.1),
            one_of(&[
                "{preStop: {sleep: {seconds: 1}}}",
                "{preStop: {exec: {command: [sleep, '5']}}}",
            ]),
        ),
        ("stdin", Some(0.1), one_of(&["true"])),
    ]);
    object(fields)
}

fn init_container() -> BoxedStrategy<Value> {
    let mut fields = common_fields();
    fields.push(("restartPolicy", Some(0.4), one_of(&["Always"])));
    object(fields)
}

/// Containers and init containers with names that are used once.
fn containers() -> BoxedStrategy<(Vec<Value>, Vec<Value>)> {
    let others = vec!["worker", "envoy", "proxyinit", "xray-daemon"];
    let names = prop_oneof![
        3 => Just(Vec::new()).boxed(),
        2 => subsequence(others, 1..=2).prop_shuffle().boxed(),
    ];
    let containers = vec(container(), 3);
    (names, 0..3_usize, containers, vec(init_container(), 2))
        .prop_map(|(others, inits, containers, init_containers)| {
            let inits = inits.min(others.len());
            let (init_names, names) = others.split_at(inits);
            let with_name = |mut container: Value, name: &str| {
                container["name"] = name.into();
                container
            };
            let names = ["app"].iter().chain(names);
            (
                names
                    .zip(containers)
                    .map(|(name, it)| with_name(it, name))
                    .collect(),
                init_names
                    .iter()
                    .zip(init_containers)
                    .map(|(name, it)| with_name(it, name))
                    .collect(),
            )
        })
        .boxed()
}

/// Volumes by name; `data` is always there.
fn volumes() -> BoxedStrategy<Value> {
    let source = || {
        one_of(&[
            "{emptyDir: {}}",
            "{secret: {secretName: tls}}",
            "{secret: {secretName: ca.shop.example.com, items: [{key: a, path: a}]}}",
            "{configMap: {name: config}}",
            "{hostPath: {path: /run/spire/agent.sock, type: Socket}}",
            "{projected: {sources: [{serviceAccountToken: {path: token, audience: evermesh}}]}}",
            "{persistentVolumeClaim: {claimName: disk}}",
        ])
    };
    object(vec![
        ("data", None, one_of(&["{emptyDir: {}}"])),
        (
            "disk",
            Some(0.8),
            one_of(&["{persistentVolumeClaim: {claimName: disk}}"]),
        ),
        ("tls", Some(0.6), source()),
        ("ca-shop-example-com", Some(0.1), source()),
        ("certs", Some(0.2), source()),
        ("config", Some(0.2), source()),
        ("evermesh-token", Some(0.05), source()),
        ("evermesh-envoy-tmp", Some(0.05), source()),
        ("appmesh-sds-socket-volume", Some(0.05), source()),
    ])
    .prop_map(|volumes| {
        let volumes = volumes.as_object().unwrap().iter();
        let named = volumes.map(|(name, source)| {
            let mut volume = source.clone();
            volume["name"] = name.as_str().into();
            volume
        });
        named.collect()
    })
    .boxed()
}

fn spec_fields() -> BoxedStrategy<Value> {
    object(vec![
        ("volumes", None, volumes()),
        ("hostNetwork", Some(0.25), one_of(&["true", "false"])),
        ("hostPID", Some(0.05), one_of(&["true"])),
        ("hostUsers", Some(0.1), one_of(&["true", "false"])),
        ("shareProcessNamespace", Some(0.1), one_of(&["true"])),
        (
            "os",
            Some(0.1),
            one_of(&["{name: linux}", "{name: windows}"]),
        ),
        (
            "nodeSelector",
            Some(0.1),
            one_of(&[
                "{kubernetes.io/os: linux, kubernetes.io/arch: arm64}",
                "{kubernetes.io/os: windows}",
                "{beta.kubernetes.io/arch: s390x}",
            ]),
        ),
        (
            "affinity",
            Some(0.1),
            one_of(&[
                "{nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: [{key: kubernetes.io/os, operator: In, values: [windows]}]}]}}}",
                "{nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: [{key: zone, operator: Exists}]}, {matchFields: [{key: metadata.name, operator: In, values: [a]}]}]}}}",
                "{podAntiAffinity: {}}",
            ]),
        ),
        (
            "terminationGracePeriodSeconds",
            Some(0.4),
            one_of(&["0", "1", "2", "10", "30", "3600", "9223372036854775807"]),
        ),
        (
            "restartPolicy",
            Some(0.3),
            one_of(&["Always", "OnFailure", "Never"]),
        ),
        (
            "securityContext",
            Some(0.4),
            one_of(&[
                "{runAsNonRoot: true, runAsUser: 1000}",
                "{runAsUser: 1337, fsGroup: 0}",
                "{fsGroup: 2000, supplementalGroups: [1]}",
                "{seccompProfile: {type: Unconfined}, appArmorProfile: {type: RuntimeDefault}}",
                "{windowsOptions: {runAsUserName: u}}",
                "{sysctls: [{name: net.ipv4.ip_unprivileged_port_start, value: '0'}]}",
            ]),
        ),
        (
            "resources",
            Some(0.2),
            one_of(&[
                "{requests: {cpu: 200m}}",
                "{limits: {cpu: '4'}}",
                "{limits: {memory: 2Gi}}",
                "{requests: {cpu: 200m, memory: 1Gi}, limits: {memory: 2Gi}}",
            ]),
        ),
        (
            "readinessGates",
            Some(0.1),
            one_of(&[
                "[{conditionType: example.com/ready}]",
                "[{conditionType: conditions.appmesh.k8s.aws/aws-cloudmap-healthy}]",
            ]),
        ),
        (
            "automountServiceAccountToken",
            Some(0.2),
            one_of(&["false"]),
        ),
        ("activeDeadlineSeconds", Some(0.1), one_of(&["60"])),
        ("nodeName", Some(0.1), one_of(&["node-1"])),
        (
            "dnsPolicy",
            Some(0.1),
            one_of(&["Default", "ClusterFirstWithHostNet"]),
        ),
    ])
}

/// The settings that change the patch, as fields of the document `settings`.
fn settings() -> BoxedStrategy<Value> {
    object(vec![
        ("order", Some(0.4), one_of(&["container"])),
        ("malformed", Some(0.5), one_of(&["warn"])),
        ("sds", Some(0.4), one_of(&["/run/spire/agent.sock"])),
        ("xray", Some(0.4), one_of(&["2000", "2001"])),
        ("fs_group", Some(0.3), one_of(&["true"])),
        ("cloud_map_gate", Some(0.5), one_of(&["true"])),
        ("token", Some(0.1), one_of(&["none"])),
        ("cpu_limit", Some(0.2), one_of(&["'1'"])),
        ("prestop_delay", Some(0.2), one_of(&["0", "5", "60000"])),
        ("statsd", Some(0.2), one_of(&["ref:status.hostIP"])),
        ("region", Some(0.2), one_of(&["eu-west-1"])),
        (
            "envoy_image",
            Some(0.2),
            one_of(&["registry.example.com/envoy:1"]),
        ),
    ])
}

/// The node or gateway of the pod.
fn member() -> BoxedStrategy<Value> {
    one_of(&[
        "{kind: VirtualNode, metadata: {}, spec: {listeners: [{portMapping: {port: 8080, protocol: http}}]}}",
        "{kind: VirtualNode, metadata: {}, spec: {serviceDiscovery: {awsCloudMap: {namespaceName: a, serviceName: b}}}}",
        "{kind: VirtualNode, metadata: {annotations: {evermesh.dev/application-ports: ''}}, spec: {}}",
        "{kind: VirtualGateway, metadata: {}, spec: {listeners: [{portMapping: {port: 8088, protocol: http}}]}}",
    ])
}

pub(super) fn pod_input() -> BoxedStrategy<PodInput> {
    let pod = (
        containers(),
        spec_fields(),
        annotations(),
        weighted(0.15, Just(())),
    );
    (pod, member(), settings())
        .prop_map(
            |((containers, spec, annotations, fargate), member, settings)| {
                let (mut containers, init_containers) = containers;
                let is_gateway = member["kind"] == "VirtualGateway";
                if is_gateway && init_containers.iter().all(|it| it["name"] != "envoy") {
                    containers[0]["name"] = "envoy".into();
                    let mut seen = false;
                    containers
                        .retain(|it| it["name"] != "envoy" || !std::mem::replace(&mut seen, true));
                }
                let mut pod = json!({
                    "apiVersion": "v1",
                    "kind": "Pod",
                    "metadata": {
                        "generateName": "web-",
                        "labels": { "app": "web" },
                        "annotations": annotations,
                    },
                    "spec": spec,
                });
                pod["spec"]["containers"] = containers.into();
                if !init_containers.is_empty() {
                    pod["spec"]["initContainers"] = init_containers.into();
                }
                if fargate.is_some() {
                    pod["metadata"]["labels"]["eks.amazonaws.com/fargate-profile"] = "p".into();
                }
                PodInput {
                    surroundings: surroundings(member, &settings),
                    pod,
                }
            },
        )
        .boxed()
}

fn surroundings(mut member: Value, settings: &Value) -> String {
    member["apiVersion"] = "appmesh.k8s.aws/v1beta2".into();
    member["metadata"]["name"] = "web".into();
    member["metadata"]["namespace"] = "shop".into();
    member["spec"]["podSelector"] = json!({ "matchLabels": { "app": "web" } });
    let documents = [
        json!({ "kind": "Pod" }),
        json!({
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": { "name": "shop", "labels": { evermesh_injector::INJECTION: "enabled" } },
        }),
        json!({
            "apiVersion": "appmesh.k8s.aws/v1beta2",
            "kind": "Mesh",
            "metadata": { "name": "shop", "uid": "u" },
            "spec": {},
        }),
        member,
        json!({ "settings": settings }),
    ];
    documents.map(|it| it.to_string()).join("\n---\n")
}
