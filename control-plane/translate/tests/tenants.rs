//! Two namespaces of one mesh without consent: no object of the one changes a byte of what proxies of the other are sent.
//!
//! The namespace `prod` is older and refers only to its own objects. The namespace `aaa` precedes it in every order of
//! names, is younger, and claims whatever `prod` has: names, host names, requests of its router and of its gateway.
//!
//! A failing random test prints its input and keeps its seed in `tenants.proptest-regressions`. The environment variable
//! `PROPTEST_CASES` sets the number of cases.

#![allow(clippy::unwrap_used)] // an object that cannot be parsed fails the test

use std::{collections::BTreeMap, sync::Arc};

use evermesh_ingest::{BuildMemo, Inputs, build, object::parse};
use evermesh_model::{Graph, ObjectRef};
use evermesh_proto::{Resource, ResourceKey, ResourceType, cluster::Cluster};
use evermesh_translate::{DeriveMemo, derive};
use proptest::{prelude::*, sample::select, test_runner::FileFailurePersistence};
use prost::Message;
use serde_json::{Value, json};

const PROD: Tenant = Tenant {
    namespace: "prod",
    created: "2020-01-01T00:00:00Z",
    reach: &["prod"],
    names: &["", "shared"],
};
const EVIL: Tenant = Tenant {
    namespace: "aaa",
    created: "2026-01-01T00:00:00Z",
    reach: &["prod", "prod", "aaa"],
    names: &["", "shared", "one_prod", "two_prod", "one.prod", "TWO.prod"],
};

const MESH: &str = "
apiVersion: appmesh.k8s.aws/v1beta2
kind: Mesh
metadata: {name: m}
spec: {namespaceSelector: {matchLabels: {mesh: m}}}
---
apiVersion: v1
kind: Namespace
metadata: {name: prod, labels: {mesh: m}}
";

/// A namespace whose owner writes objects.
#[derive(Clone, Copy)]
struct Tenant {
    namespace: &'static str,
    created: &'static str,
    /// The namespaces to whose objects its objects refer.
    reach: &'static [&'static str],
    /// The values of `awsName`; an empty one stands for the default.
    names: &'static [&'static str],
}

fn name() -> impl Strategy<Value = &'static str> {
    select(&["one", "two"][..])
}

impl Tenant {
    fn reference(self) -> impl Strategy<Value = Value> {
        (name(), select(self.reach))
            .prop_map(|(name, namespace)| json!({ "name": name, "namespace": namespace }))
    }

    fn aws_name(self) -> impl Strategy<Value = Value> {
        select(self.names).prop_map(|name| match name {
            "" => Value::Null,
            name => name.into(),
        })
    }

    /// An object of any kind.
    fn object(self) -> impl Strategy<Value = Value> {
        prop_oneof![
            3 => self.node(),
            3 => self.service(),
            3 => self.router(),
            3 => self.route(),
            2 => self.gateway(),
            3 => self.gateway_route(),
            1 => self.group(),
        ]
    }

    fn with_metadata(
        self,
        api_version: &'static str,
        kind: &'static str,
        spec: impl Strategy<Value = Value> + 'static,
    ) -> BoxedStrategy<Value> {
        (name(), spec)
            .prop_map(move |(name, mut spec)| {
                // App Mesh's schema allows null for no optional field.
                let fields = spec.as_object_mut().unwrap();
                fields.retain(|_, value| !value.is_null());
                json!({
                    "apiVersion": api_version,
                    "kind": kind,
                    "metadata": {
                        "name": name,
                        "namespace": self.namespace,
                        "creationTimestamp": self.created,
                    },
                    "spec": spec,
                })
            })
            .boxed()
    }

    fn of_app_mesh(
        self,
        kind: &'static str,
        spec: impl Strategy<Value = Value> + 'static,
    ) -> BoxedStrategy<Value> {
        // An owner may also set `meshRef`, as admission does.
        let spec =
            (self.aws_name(), any::<bool>(), spec).prop_map(move |(name, is_set, mut spec)| {
                if kind != "BackendGroup" {
                    spec["awsName"] = name;
                }
                if is_set {
                    spec["meshRef"] = json!({ "name": "m", "uid": "" });
                }
                spec
            });
        self.with_metadata("appmesh.k8s.aws/v1beta2", kind, spec)
    }

    fn node(self) -> BoxedStrategy<Value> {
        let listener = (select(&[80, 5432][..]), select(&["http", "tcp"][..]));
        let listener = listener.prop_map(
            |(port, protocol)| json!({ "portMapping": { "port": port, "protocol": protocol } }),
        );
        let backend = self
            .reference()
            .prop_map(|service| json!({ "virtualService": { "virtualServiceRef": service } }));
        let group = (select(&["one", "*"][..]), select(self.reach))
            .prop_map(|(name, namespace)| json!({ "name": name, "namespace": namespace }));
        let spec = (
            listener,
            select(&["a.example.com", "b.example.com"][..]),
            prop::collection::vec(backend, 0..3),
            prop::collection::vec(group, 0..2),
        );
        let spec = spec.prop_map(|(listener, hostname, backends, groups)| {
            json!({
                "listeners": [listener],
                "serviceDiscovery": { "dns": { "hostname": hostname } },
                "backends": backends,
                "backendGroups": groups,
            })
        });
        self.of_app_mesh("VirtualNode", spec)
    }

    fn service(self) -> BoxedStrategy<Value> {
        let provider = (any::<bool>(), self.reference()).prop_map(|(is_node, provider)| {
            if is_node {
                json!({ "virtualNode": { "virtualNodeRef": provider } })
            } else {
                json!({ "virtualRouter": { "virtualRouterRef": provider } })
            }
        });
        let spec = provider.prop_map(|provider| json!({ "provider": provider }));
        self.of_app_mesh("VirtualService", spec)
    }

    /// A route without a name: `httpRoute` or `tcpRoute`, perhaps with a priority.
    fn rule(self) -> impl Strategy<Value = Value> {
        let matches = prop_oneof![
            select(&["/", "/a", "/a/b"][..]).prop_map(|prefix| json!({ "prefix": prefix })),
            Just(json!({ "path": { "exact": "/a" } })),
            Just(json!({ "path": { "regex": "/.*" } })),
        ];
        let priority = prop::option::of(0..2_u32);
        (matches, self.reference(), any::<bool>(), priority).prop_map(
            |(matches, node, is_http, priority)| {
                let action =
                    json!({ "weightedTargets": [{ "virtualNodeRef": node, "weight": 1 }] });
                let mut rule = if is_http {
                    json!({ "httpRoute": { "match": matches, "action": action } })
                } else {
                    json!({ "tcpRoute": { "action": action } })
                };
                if let Some(priority) = priority {
                    rule["priority"] = priority.into();
                }
                rule
            },
        )
    }

    fn router(self) -> BoxedStrategy<Value> {
        let spec = prop::collection::vec(self.rule(), 0..3).prop_map(|mut rules| {
            for (rule, name) in rules.iter_mut().zip(["one", "inline-1", "inline-2"]) {
                rule["name"] = name.into();
            }
            json!({ "routes": rules })
        });
        self.of_app_mesh("VirtualRouter", spec)
    }

    fn route(self) -> BoxedStrategy<Value> {
        let spec = (self.reference(), self.rule()).prop_map(|(router, mut rule)| {
            rule["virtualRouterRef"] = router;
            rule
        });
        self.with_metadata("evermesh.dev/v1alpha1", "Route", spec)
    }

    fn gateway(self) -> BoxedStrategy<Value> {
        // The owner selects its own namespace. The other one selects every namespace.
        let selector = match self.reach {
            [own] => json!({ "matchLabels": { "kubernetes.io/metadata.name": own } }),
            _ => json!({}),
        };
        let spec = select(&[80, 8080][..]).prop_map(move |port| {
            json!({
                "namespaceSelector": selector,
                "listeners": [{ "portMapping": { "port": port, "protocol": "http" } }],
            })
        });
        self.of_app_mesh("VirtualGateway", spec)
    }

    /// A gateway route names its gateway, as admission lets it.
    fn gateway_route(self) -> BoxedStrategy<Value> {
        let spec = (
            self.reference(),
            self.reference(),
            select(&["/", "/a"][..]),
            prop::option::of(select(&["example.com"][..])),
            prop::option::of(0..2_u32),
        );
        let spec = spec.prop_map(|(mut gateway, service, prefix, hostname, priority)| {
            gateway["uid"] = "".into();
            let mut spec = json!({
                "virtualGatewayRef": gateway,
                "httpRoute": {
                    "match": { "prefix": prefix },
                    "action": { "target": { "virtualService": { "virtualServiceRef": service } } },
                },
            });
            if let Some(hostname) = hostname {
                spec["httpRoute"]["match"]["hostname"] = json!({ "exact": hostname });
            }
            if let Some(priority) = priority {
                spec["priority"] = priority.into();
            }
            spec
        });
        self.of_app_mesh("GatewayRoute", spec)
    }

    fn group(self) -> BoxedStrategy<Value> {
        let members = prop::collection::vec(self.reference(), 0..3);
        let spec = members.prop_map(|members| json!({ "virtualservices": members }));
        self.of_app_mesh("BackendGroup", spec)
    }
}

fn put(inputs: &mut Inputs, objects: &[Value]) {
    for value in objects {
        let parsed = parse(value.clone());
        let (reference, object) = parsed
            .object
            .unwrap_or_else(|| panic!("{value}: {:?}", parsed.problems));
        inputs.apply(reference, Some(object));
    }
}

/// The resources in the view of each proxy of `prod`.
fn sent_to_prod(inputs: &Inputs) -> BTreeMap<String, BTreeMap<ResourceKey, Arc<Resource>>> {
    let graph = build(inputs, &mut BuildMemo::default()).graph;
    let derived = derive(&graph, &mut DeriveMemo::default());
    let resources = |proxy: &str| {
        let view = derived.views.get(proxy).map(|view| view.keys());
        let keys = view.unwrap_or_default().iter();
        keys.filter_map(|key| Some((key.clone(), derived.resources.get(key).cloned()?)))
            .collect()
    };
    proxies(&graph)
        .filter(|(object, _)| &*object.namespace == PROD.namespace)
        .map(|(_, name)| (name.clone(), resources(&name)))
        .collect()
}

fn proxies(graph: &Graph) -> impl Iterator<Item = (&ObjectRef, String)> {
    let nodes = graph.nodes.values();
    let gateways = graph.gateways.values();
    nodes
        .map(|node| (&node.object, node.name.to_string()))
        .chain(gateways.map(|gateway| (&gateway.object, gateway.name.to_string())))
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: Some(Box::new(FileFailurePersistence::WithSource("proptest-regressions"))),
        ..ProptestConfig::default()
    })]

    #[test]
    fn no_object_of_another_namespace_changes_what_proxies_are_sent(
        own in prop::collection::vec(PROD.object(), 1..14),
        foreign in prop::collection::vec(EVIL.object(), 1..10),
        is_member in any::<bool>(),
    ) {
        let mut inputs = Inputs::default();
        let mesh: Vec<Value> = serde_saphyr::from_multiple(MESH).unwrap();
        put(&mut inputs, &mesh);
        put(&mut inputs, &own);
        let before = sent_to_prod(&inputs);
        if is_member {
            let namespace = json!({
                "apiVersion": "v1",
                "kind": "Namespace",
                "metadata": { "name": EVIL.namespace, "labels": { "mesh": "m" } },
            });
            put(&mut inputs, &[namespace]);
        }
        put(&mut inputs, &foreign);
        prop_assert_eq!(before, sent_to_prod(&inputs));
    }
}

/// Envoy's names join mesh and node by `_`: the node `b_c` of the mesh `a` and the node `c` of the mesh `a_b` have clusters
/// of one name.
#[test]
fn meshes_whose_names_are_ambiguous_share_nothing() {
    let meshes = [("one", "a", "b_c"), ("two", "a_b", "c")];
    let mut inputs = Inputs::default();
    for (namespace, mesh, node) in meshes {
        let member = |kind: &str, name: &str, spec: Value| {
            json!({
                "apiVersion": "appmesh.k8s.aws/v1beta2", "kind": kind,
                "metadata": { "name": name, "namespace": namespace }, "spec": spec,
            })
        };
        let objects = [
            json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": namespace, "labels": { "mesh": mesh } } }),
            json!({
                "apiVersion": "appmesh.k8s.aws/v1beta2", "kind": "Mesh", "metadata": { "name": namespace },
                "spec": { "awsName": mesh, "namespaceSelector": { "matchLabels": { "mesh": mesh } } },
            }),
            member(
                "VirtualNode",
                "web",
                json!({
                    "awsName": node,
                    "listeners": [{ "portMapping": { "port": 8080, "protocol": "http" } }],
                    "serviceDiscovery": { "dns": { "hostname": format!("web.{namespace}") } },
                }),
            ),
            member(
                "VirtualService",
                "web",
                json!({ "provider": { "virtualNode": { "virtualNodeRef": { "name": "web" } } } }),
            ),
            member(
                "VirtualNode",
                "front",
                json!({ "backends": [{ "virtualService": { "virtualServiceRef": { "name": "web" } } }] }),
            ),
        ];
        for object in objects {
            let (reference, object) = parse(object).object.unwrap();
            inputs.apply(reference, Some(object));
        }
    }
    let graph = build(&inputs, &mut BuildMemo::default()).graph;
    let derived = derive(&graph, &mut DeriveMemo::default());
    for (namespace, mesh, _) in meshes {
        let view = &derived.views[format!("mesh/{mesh}/virtualNode/front_{namespace}").as_str()];
        let name = "cds_egress_a_b_c_http_8080";
        let key = view.find(ResourceType::Cluster, name).unwrap();
        let cluster = Cluster::decode(derived.resources[key].body.clone()).unwrap();
        let text = format!("{cluster:?}");
        for (other, ..) in meshes {
            let is_own = other == namespace;
            assert_eq!(text.contains(&format!("\"web.{other}\"")), is_own, "{text}");
        }
    }
}
