//! Random annotations, of which many are malformed.

use proptest::{collection::vec, prelude::*};
use serde_json::{Map, Value};

use super::input::{object, one_of, text};

fn quantity() -> BoxedStrategy<Value> {
    prop_oneof![
        3 => one_of(&["'0'", "5m", "10m", "'1'", "'1.5'", "64Mi", "1Gi", "'2'"]),
        1 => text("-?[0-9]{0,3}(\\.[0-9]{0,10})?(n|u|m|k|M|E|Ki|Mi|Gi|Ei|e3|e-3|e20|x)?"),
    ]
    .boxed()
}

fn mount_list() -> BoxedStrategy<Value> {
    let one = "(tls|tls\\.shop|ca\\.shop\\.example\\.com|[a-z]{64}|data|certs|disk|none|TLS|a_b):/(certs|certs/|data|tmp|run|run/spire|var/run/secrets|dev/data|a:b|a/\\.\\./b|)";
    vec(one, 1..=2)
        .prop_map(|list| list.join(",").into())
        .boxed()
}

pub(super) fn annotations() -> BoxedStrategy<Value> {
    let evermesh = object(vec![
        (
            "ports",
            Some(0.09),
            one_of(&["'8080'", "8080, 9090,8080", "''", "'0'", "'70000'", "http"]),
        ),
        (
            "egressIgnoredIPs",
            Some(0.09),
            one_of(&["10.0.0.1, fd00::/8", "10.0.0.0/33", "''", "example.com"]),
        ),
        ("egressIgnoredPorts", Some(0.06), one_of(&["22,25", "'-1'"])),
        ("ipv6", Some(0.06), one_of(&["disabled", "enabled", "'no'"])),
        (
            "appmeshCNI",
            Some(0.12),
            one_of(&["enabled", "disabled", "'1'"]),
        ),
        ("cpuRequest", Some(0.09), quantity()),
        ("cpuLimit", Some(0.09), quantity()),
        ("memoryRequest", Some(0.09), quantity()),
        ("memoryLimit", Some(0.09), quantity()),
        ("secretMounts", Some(0.15), mount_list()),
        ("volumeMounts", Some(0.15), mount_list()),
        (
            "sidecarEnv",
            Some(0.12),
            prop_oneof![
                one_of(&["A=b,ENVOY_CONCURRENCY=3", "EVERMESH_POD_UID=x,A=$(B)"]),
                text("[ -~]{0,5}=[a-z]{0,3}"),
                text("[A-Z_]{1,2}[A-Z0-9_.-]{0,3}=[ -~]{0,3}"),
                Just(Value::from(format!("A={}", "x".repeat(140_000)))),
            ]
            .boxed(),
        ),
        (
            "sidecarEnvJson",
            Some(0.06),
            one_of(&[
                r#"'[{"A": "b,c"}, {"XRAY_SAMPLING_RATE": "0.1"}]'"#,
                r#"'[{"": "b"}]'"#,
                r#"'[{"A=B": "b"}]'"#,
                r#"'{"A": "b"}'"#,
            ]),
        ),
        ("sds", Some(0.12), one_of(&["disabled", "enabled"])),
        (
            "virtualGatewaySkipImageOverride",
            Some(0.12),
            one_of(&["enabled"]),
        ),
        (
            "xrayAgentConfigMount",
            Some(0.09),
            one_of(&[
                "config:/config",
                "data:/",
                "none:/config",
                "a:/b,c:/d",
                "a.b:/c",
            ]),
        ),
    ]);
    let others = object(vec![
        (
            "container.seccomp.security.alpha.kubernetes.io/envoy",
            Some(0.05),
            one_of(&["unconfined", "runtime/default", "localhost/x"]),
        ),
        (
            "container.seccomp.security.alpha.kubernetes.io/xray-daemon",
            Some(0.05),
            one_of(&["unconfined", "docker/default"]),
        ),
        (
            "container.apparmor.security.beta.kubernetes.io/app",
            Some(0.05),
            one_of(&["unconfined", "runtime/default"]),
        ),
        ("kubernetes.io/config.mirror", Some(0.02), one_of(&["x"])),
        (
            "example.com/large",
            Some(0.05),
            Just(Value::from("x".repeat(262_050))).boxed(),
        ),
    ]);
    (evermesh, others)
        .prop_map(|(evermesh, others)| {
            let evermesh = evermesh.as_object().unwrap().iter();
            let named = evermesh.map(|(name, it)| (format!("appmesh.k8s.aws/{name}"), it.clone()));
            let mut all: Map<String, Value> = named.collect();
            all.extend(others.as_object().unwrap().clone());
            all.into()
        })
        .boxed()
}
