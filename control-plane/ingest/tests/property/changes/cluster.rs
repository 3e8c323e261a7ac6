//! Meshes, Secrets, Cloud Map services and the kinds of Kubernetes itself.

use evermesh_model::{CloudMapService, CloudMapState, Instance, endpoint::CloudMapFailure};
use proptest::{prelude::*, sample::select};
use serde_json::{Value, json};

use super::{maybe, name, namespace, port};

pub(super) fn mesh() -> impl Strategy<Value = Value> {
    let selector = prop_oneof![
        1 => Just(json!({})),
        3 => Just(json!({ "matchLabels": { "mesh": "yes" } })),
    ];
    (
        select(&["m", "other"][..]),
        maybe(selector.boxed()),
        maybe(select(&["m", "other"][..]).prop_map(Value::from)),
        maybe(select(&["IPv4_ONLY", "IPv6_ONLY"][..]).prop_map(Value::from)),
        acm_secrets(),
    )
        .prop_map(|(name, selector, aws_name, preference, secrets)| {
            json!({
                "apiVersion": "appmesh.k8s.aws/v1beta2", "kind": "Mesh",
                "metadata": { "name": name, "annotations": secrets },
                "spec": {
                    "namespaceSelector": selector, "awsName": aws_name,
                    "meshServiceDiscovery": { "ipPreference": preference },
                },
            })
        })
}

/// The annotation that maps ARNs to Secrets, some of which do not exist.
fn acm_secrets() -> impl Strategy<Value = Value> {
    let resource = select(
        &[
            "acm:r:1:certificate",
            "acm-pca:r:1:certificate-authority",
            "bad",
        ][..],
    );
    let users = select(&["", " for red, blue", " for *"][..]);
    let line = (resource, name(), namespace(), name(), users).prop_map(
        |(resource, id, namespace, name, users)| {
            format!("arn:aws:{resource}/{id}: {namespace}/{name}{users}\n")
        },
    );
    maybe(
        prop::collection::vec(line, 0..4)
            .prop_map(|lines| json!({ "evermesh.dev/acm-secrets": lines.concat() })),
    )
}

/// A Secret with a certificate, an authority, both or neither, each valid or not.
pub(super) fn secret() -> impl Strategy<Value = Value> {
    let entry = |valid: &'static str| maybe(select(vec![valid, "broken"]).prop_map(Value::from));
    let certificate = (
        entry(include_str!("../tls.crt")),
        entry(include_str!("../tls.key")),
        entry(include_str!("../ca.crt")),
    );
    (name(), namespace(), certificate).prop_map(|(name, namespace, (chain, key, authorities))| {
        json!({
            "apiVersion": "v1", "kind": "Secret",
            "metadata": { "name": name, "namespace": namespace },
            "stringData": { "tls.crt": chain, "tls.key": key, "ca.crt": authorities },
        })
    })
}

pub(super) fn kubernetes() -> BoxedStrategy<Value> {
    let slice = (
        name(),
        name(),
        namespace(),
        select(&["IPv4", "IPv6"][..]),
        any::<bool>(),
    )
        .prop_map(|(name, service, namespace, family, ready)| {
            json!({
                "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
                "metadata": {
                    "name": name, "namespace": namespace,
                    "labels": { "kubernetes.io/service-name": service },
                },
                "addressType": family,
                "endpoints": [{
                    "addresses": [if family == "IPv4" { "10.0.0.1" } else { "fd00::1" }],
                    "conditions": { "ready": ready, "terminating": true },
                    "nodeName": "host", "zone": "z",
                }],
                "ports": [{ "port": 8080 }],
            })
        });
    let virtual_ips = select(&["10.1.0.1", "10.1.0.2", "fd01::1", "None"][..]);
    let virtual_ips = prop::collection::vec(virtual_ips, 0..3);
    let service =
        (name(), namespace(), port(), virtual_ips).prop_map(|(name, namespace, port, ips)| {
            json!({
                "apiVersion": "v1", "kind": "Service",
                "metadata": { "name": name, "namespace": namespace },
                "spec": { "ports": [{ "port": port }], "clusterIP": ips.first(), "clusterIPs": ips },
            })
        });
    let host = select(&["region-a", "region-b"][..]).prop_map(|region| {
        json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": { "name": "host", "labels": { "topology.kubernetes.io/region": region } },
        })
    });
    let pod = (name(), namespace(), name(), any::<[bool; 2]>()).prop_map(
        |(name, namespace, app, [ready, leaving])| {
            let leaving = leaving.then_some("2026-01-01T00:00:00Z");
            json!({
                "apiVersion": "v1", "kind": "Pod",
                "metadata": {
                    "name": name, "namespace": namespace, "labels": { "app": app }, "deletionTimestamp": leaving,
                },
                "spec": { "nodeName": "host" },
                "status": {
                    "podIP": if ready { "10.0.0.9" } else { "10.0.0.1" },
                    "conditions": [{ "type": "ContainersReady", "status": if ready { "True" } else { "False" } }],
                },
            })
        },
    );
    let labelled = (namespace(), any::<bool>()).prop_map(|(name, is_member)| {
        json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": { "name": name, "labels": { "mesh": if is_member { "yes" } else { "no" } } },
        })
    });
    prop_oneof![4 => slice, 3 => service, 3 => pod, 1 => host, 2 => labelled].boxed()
}

pub(super) fn cloud_map() -> impl Strategy<Value = (CloudMapService, Option<CloudMapState>)> {
    let state = (any::<bool>(), any::<bool>(), name()).prop_map(|(is_down, is_full, version)| {
        CloudMapState {
            is_full,
            instances: vec![Instance {
                id: "i".into(),
                ipv4: Some([10, 0, 0, 9].into()),
                ipv6: None,
                attributes: [("version".into(), version.into())].into(),
            }],
            failure: is_down.then(|| CloudMapFailure::Unavailable("down".into())),
        }
    });
    (name(), prop::option::of(state)).prop_map(|(service, state)| {
        let service = CloudMapService {
            namespace: "local".into(),
            service: service.into(),
        };
        (service, state)
    })
}
