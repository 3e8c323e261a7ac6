//! Patches of random pods: nothing of the pod is lost, a second patch is empty, and the pauses fit the grace period.

#![allow(clippy::unwrap_used)] // a panic fails the test

mod fixture;

use fixture::Case;
use proptest::{prelude::*, test_runner::FileFailurePersistence};
use serde_json::{Map, Value, json};

/// The other objects, and settings that add everything that can be added to a pod.
const OTHERS: &str = "
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
kind: KIND
metadata: {name: web, namespace: shop}
spec: {podSelector: {matchLabels: {app: web}}}
---
settings: {sds: /run/sds.sock, xray: 2000, fs_group: true, malformed: warn, ORDER}
";

fn case(kind: &str, order: &str, pod: &Value) -> Case {
    let others = OTHERS.replace("KIND", kind).replace("ORDER", order);
    Case::read(&format!("{pod}\n---{others}"))
}

/// Any JSON, as a field that Evermesh does not know.
fn anything() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        "[a-z$()/~]{0,6}".prop_map(Value::from),
    ];
    leaf.prop_recursive(2, 8, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            prop::collection::btree_map("[a-z~/]{1,4}", inner, 0..3)
                .prop_map(|map| map.into_iter().collect::<Map<_, _>>().into()),
        ]
    })
}

fn container() -> impl Strategy<Value = Value> {
    let name = prop_oneof![
        4 => "[a-d]".boxed(),
        1 => Just("envoy".to_owned()).boxed(),
        1 => Just("proxyinit".to_owned()).boxed(),
        1 => Just("xray-daemon".to_owned()).boxed(),
    ];
    let variables = prop::collection::btree_map(
        prop_oneof![
            Just("ENVOY_LOG_LEVEL".to_owned()),
            Just("EVERMESH_ZONE".to_owned()),
            "[A-C]".prop_map(|it| it)
        ],
        "[a-z]{0,3}",
        0..3,
    );
    let fields = (name, variables, anything(), any::<[bool; 4]>());
    fields.prop_map(|(name, env, unknown, has)| {
        let mut container = json!({ "name": name, "image": "x:1", "unknown": unknown });
        if has[0] {
            container["env"] = env
                .iter()
                .map(|(name, value)| json!({ "name": name, "value": value }))
                .collect();
        }
        if has[1] {
            container["livenessProbe"] =
                json!({ "exec": { "command": ["curl", "x/server_info"] } });
        }
        if has[2] {
            container["readinessProbe"] = json!({ "tcpSocket": { "port": 1 }, "unknown": 1 });
        }
        if has[3] {
            container["volumeMounts"] = json!([{ "name": "v", "mountPath": "/run/sds.sock" }]);
        }
        container
    })
}

fn pod() -> impl Strategy<Value = Value> {
    let containers = || prop::collection::vec(container(), 0..4);
    let annotations = prop::collection::btree_map(
        prop::sample::select(vec![
            "ports",
            "appmeshCNI",
            "cpuLimit",
            "secretMounts",
            "sidecarEnv",
            "sds",
            "ignoredUID",
            "x",
        ]),
        prop::sample::select(vec!["enabled", "1", "a:/b", "A=b", "", "-"]),
        0..4,
    );
    let fields = (
        containers(),
        containers(),
        annotations,
        anything(),
        prop_oneof![-1..40_i64, any::<i64>()],
        any::<[bool; 5]>(),
    );
    fields.prop_map(|(containers, init, annotations, unknown, grace, has)| {
        let mut pod = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": { "namespace": "shop", "labels": { "app": "web" }, "unknown": unknown },
            "spec": { "containers": containers, "unknown": unknown },
        });
        if has[0] {
            pod["spec"]["initContainers"] = init.into();
        }
        if has[1] {
            pod["metadata"]["annotations"] = annotations
                .iter()
                .map(|(key, value)| (format!("appmesh.k8s.aws/{key}"), json!(value)))
                .collect::<Map<_, _>>()
                .into();
        }
        if has[2] {
            pod["spec"]["volumes"] = json!([{ "name": "a", "unknown": unknown }]);
        }
        if has[3] {
            pod["spec"]["securityContext"] = json!({ "unknown": unknown });
        }
        if has[4] {
            pod["spec"]["terminationGracePeriodSeconds"] = grace.into();
        }
        pod
    })
}

/// Whether the API server accepts every `preStop` pause: shorter than the grace period, and not zero, which older
/// servers reject.
fn pauses_fit(pod: &Value) -> bool {
    let grace = pod["spec"]["terminationGracePeriodSeconds"].as_i64();
    let grace = grace.unwrap_or(30);
    ["containers", "initContainers"]
        .into_iter()
        .filter_map(|list| pod["spec"][list].as_array())
        .flatten()
        .filter_map(|container| container["lifecycle"]["preStop"]["sleep"]["seconds"].as_i64())
        .all(|seconds| 0 < seconds && seconds < grace)
}

/// Checks that all of `before` is in `after`. The fields that a patch may change are covered by the golden cases.
fn survives(before: &Value, after: &Value, place: &str) -> Result<(), String> {
    const PATCHED: [&str; 5] = ["image", "command", "args", "exec", "value"];
    match (before, after) {
        (Value::Object(before), Value::Object(after)) => {
            for (key, value) in before {
                if PATCHED.contains(&key.as_str()) || key.starts_with("appmesh.k8s.aws/") {
                    continue;
                }
                let found = after
                    .get(key)
                    .ok_or_else(|| format!("{place}/{key} is gone"))?;
                survives(value, found, &format!("{place}/{key}"))?;
            }
            Ok(())
        }
        // A patch may add entries anywhere; the others keep their order.
        (Value::Array(before), Value::Array(after)) => {
            let mut after = after.iter();
            for value in before {
                after
                    .find(|found| survives(value, found, place).is_ok())
                    .ok_or_else(|| format!("{place}: {value} is gone"))?;
            }
            Ok(())
        }
        (before, after) if before == after => Ok(()),
        _ => Err(format!("{place} was {before} and is {after}")),
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 128,
        failure_persistence: Some(Box::new(FileFailurePersistence::WithSource("proptest-regressions"))),
        ..ProptestConfig::default()
    })]

    #[test]
    fn patch_loses_nothing_and_a_second_patch_is_empty(
        pod in pod(),
        kind in prop::sample::select(vec!["VirtualNode", "VirtualGateway"]),
        order in prop::sample::select(vec!["prestop_delay: 5", "order: container"]),
    ) {
        let case = case(kind, order, &pod);
        // A container may have the name of a sidecar and another kind.
        let Ok(first) = case.patch(&case.pod).unwrap() else {
            return Ok(());
        };
        let mut patched = case.pod.clone();
        json_patch::patch(&mut patched, &first.patch).unwrap();
        prop_assert_eq!(survives(&case.pod, &patched, ""), Ok(()));
        prop_assert!(pauses_fit(&patched));
        let second = case.patch(&patched).unwrap().unwrap();
        prop_assert!(second.patch.0.is_empty(), "{}", json!(second.patch));
    }
}
