//! Sets of routes as manifests, what ingest and translation make of them, and which route the model selects.

use std::collections::BTreeSet;

use evermesh_ingest::{BuildMemo, BuildOutput, Inputs, build, object::parse};
use evermesh_model::{
    Graph, Reason,
    gateway::HostnameMatch,
    route::{HttpMatch, PathMatch, RequestHeaderMatch, ValueMatch},
};
use evermesh_model::{RouteRule, route::QueryMatch};
use evermesh_proto::{Resource, json};
use evermesh_translate::{DeriveMemo, Derived, derive};
use serde_json::{Value, json};

use crate::envoy::{PORTS, RawRequest, answering};

/// The object that has the routes of a set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Owner {
    /// A router with inline routes.
    Inline,
    /// A router with `Route` objects.
    Objects,
    /// A gateway with gateway routes.
    Gateway,
}

/// Routes of one router or gateway.
#[derive(Debug, Clone)]
pub(crate) struct RouteSet {
    pub(crate) owner: Owner,
    /// For each route its priority, the field that contains it (`httpRoute`, `grpcRoute`) and its match.
    pub(crate) routes: Vec<(Option<u32>, &'static str, Value)>,
}

/// The name of the service or host that belongs to a set.
pub(crate) fn host(index: usize) -> String {
    format!("s{index}.test")
}

impl RouteSet {
    fn manifests(&self, index: usize) -> Vec<Value> {
        let spec_of = |(priority, field, matches): &(Option<u32>, &'static str, Value)| {
            let action = match self.owner {
                Owner::Gateway => {
                    json!({"target": {"virtualService": {"virtualServiceRef": {"name": "front"}}}})
                }
                Owner::Inline | Owner::Objects => {
                    json!({"weightedTargets": [{"virtualNodeRef": {"name": "front"}, "weight": 1}]})
                }
            };
            let mut spec = json!({*field: {"match": matches, "action": action}});
            if let Some(priority) = priority {
                spec["priority"] = json!(priority);
            }
            spec
        };
        let listeners =
            PORTS.map(|port| json!({"portMapping": {"port": port, "protocol": "http"}}));
        let name = format!("s{index}");
        let owner = match self.owner {
            Owner::Gateway => object(
                "VirtualGateway",
                &name,
                json!({
                    "namespaceSelector": {},
                    "gatewayRouteSelector": {"matchLabels": {"set": name}},
                    "listeners": listeners,
                }),
            ),
            Owner::Inline | Owner::Objects => {
                object("VirtualRouter", &name, json!({"listeners": listeners}))
            }
        };
        let mut manifests = vec![owner];
        let specs = self.routes.iter().map(spec_of).enumerate();
        match self.owner {
            Owner::Inline => {
                let inline = specs.map(|(number, mut spec)| {
                    spec["name"] = json!(format!("r{number}"));
                    spec
                });
                manifests[0]["spec"]["routes"] = inline.collect();
            }
            Owner::Objects => manifests.extend(specs.map(|(number, mut spec)| {
                spec["virtualRouterRef"] = json!({"name": name});
                let mut route = object("Route", &format!("{name}-r{number}"), spec);
                route["apiVersion"] = json!("evermesh.dev/v1alpha1");
                route
            })),
            Owner::Gateway => manifests.extend(specs.map(|(number, spec)| {
                let mut route = object("GatewayRoute", &format!("{name}-r{number}"), spec);
                route["metadata"]["labels"] = json!({"set": name});
                route
            })),
        }
        if self.owner != Owner::Gateway {
            let provider = json!({"virtualRouter": {"virtualRouterRef": {"name": name}}});
            let spec = json!({"awsName": host(index), "provider": provider});
            manifests.push(object("VirtualService", &name, spec));
        }
        manifests
    }
}

fn object(kind: &str, name: &str, spec: impl Into<Value>) -> Value {
    json!({
        "apiVersion": "appmesh.k8s.aws/v1beta2",
        "kind": kind,
        "metadata": {"name": name, "namespace": "a"},
        "spec": spec.into(),
    })
}

/// Several sets, ingested and translated together.
pub(crate) struct Translated {
    pub(crate) built: BuildOutput,
    derived: Derived,
    owners: Vec<Owner>,
}

impl Translated {
    /// # Panics
    ///
    /// If a manifest is not valid.
    pub(crate) fn new(sets: &[RouteSet]) -> Self {
        let mut manifests = vec![
            json!({"apiVersion": "appmesh.k8s.aws/v1beta2", "kind": "Mesh", "metadata": {"name": "m"}, "spec": {"namespaceSelector": {}}}),
        ];
        let mut backends = Vec::new();
        for (index, set) in sets.iter().enumerate() {
            manifests.extend(set.manifests(index));
            if set.owner != Owner::Gateway {
                backends.push(
                    json!({"virtualService": {"virtualServiceRef": {"name": format!("s{index}")}}}),
                );
            }
        }
        let listener = json!({"portMapping": {"port": 8080, "protocol": "http"}});
        let front = json!({
            "listeners": [listener],
            "serviceDiscovery": {"dns": {"hostname": "127.0.0.1"}},
            "backends": backends,
        });
        manifests.push(object("VirtualNode", "front", front));
        let provider = json!({"virtualNode": {"virtualNodeRef": {"name": "front"}}});
        manifests.push(object(
            "VirtualService",
            "front",
            json!({"provider": provider}),
        ));
        let mut inputs = Inputs::default();
        for manifest in manifests {
            let parsed = parse(manifest);
            let Some((reference, object)) = parsed.object else {
                panic!("{:?}", parsed.problems);
            };
            inputs.apply(reference, Some(object));
        }
        let built = build(&inputs, &mut BuildMemo::default());
        let derived = derive(&built.graph, &mut DeriveMemo::default());
        let owners = sets.iter().map(|set| set.owner).collect();
        Self {
            built,
            derived,
            owners,
        }
    }

    fn resource(&self, proxy: &str, name: &str) -> Option<Value> {
        let view = self
            .derived
            .views
            .iter()
            .find(|(it, _)| it.to_string() == proxy);
        let keys = view.expect("the proxy has a view").1.keys();
        let key = keys.iter().find(|key| *key.name == *name)?;
        let resource: &Resource = self.derived.resources.get(key)?;
        Some(json::encoded_to_json(resource.kind.message_name(), &resource.body).unwrap())
    }

    /// The connection manager of the node, without an access log.
    pub(crate) fn manager(&self) -> Value {
        let listener = self
            .resource("mesh/m/virtualNode/front_a", "lds_egress_0.0.0.0_15001")
            .expect("the node has an egress listener");
        let manager = find_manager(&listener).expect("the listener has a connection manager");
        let mut manager = manager.clone();
        manager.as_object_mut().unwrap().remove("rds");
        manager
    }

    /// The virtual hosts of all sets for each of [`PORTS`]. Those of gateways are limited to the host names of their set.
    pub(crate) fn hosts(&self) -> [Vec<Value>; 2] {
        PORTS.map(|port| {
            let mut hosts: Vec<Value> = Vec::new();
            if let Some(routes) = self.resource(
                "mesh/m/virtualNode/front_a",
                &format!("rds_egress_http_{port}"),
            ) {
                let all = routes["virtual_hosts"].as_array().unwrap().iter();
                let of_sets = all.filter(|host| host["domains"] != json!(["*"]));
                hosts.extend(of_sets.cloned().map(answering));
            }
            let owners = self.owners.iter().enumerate();
            for (index, _) in owners.filter(|(_, owner)| **owner == Owner::Gateway) {
                let proxy = format!("mesh/m/virtualGateway/s{index}_a");
                let routes = self.resource(&proxy, &format!("rds_ingress_http_{port}"));
                let routes = routes.expect("the gateway has routes");
                hosts.extend(
                    within(&routes["virtual_hosts"], index)
                        .into_iter()
                        .map(answering),
                );
            }
            hosts
        })
    }

    /// The names of the routes of a set of which a problem says that they receive no request.
    pub(crate) fn unreached(&self, index: usize) -> BTreeSet<String> {
        let name = format!("s{index}");
        let reported = self.built.problems.iter().filter(|problem| {
            matches!(
                problem.reason,
                Reason::UnreachableRoute | Reason::DuplicateMatch
            ) || problem.message.starts_with("no request with one value")
        });
        let names = reported.filter_map(|problem| {
            let object = problem.object.as_ref()?;
            let field = problem.field.as_str();
            if *object.name == *name {
                let number = field.strip_prefix("spec.routes[")?.split_once(']')?.0;
                return Some(format!("r{number}"));
            }
            let (owner, _) = object.name.split_once("-r")?;
            (owner == name).then(|| match self.owners[index] {
                Owner::Gateway => format!("{}_a", object.name),
                Owner::Inline | Owner::Objects => object.name.to_string(),
            })
        });
        names.collect()
    }

    /// The routes of a set in the order of the graph.
    pub(crate) fn routes(&self, index: usize) -> Vec<ModelRoute<'_>> {
        let graph: &Graph = &self.built.graph;
        let kind = match self.owners[index] {
            Owner::Gateway => "virtualGateway",
            Owner::Inline | Owner::Objects => "virtualRouter",
        };
        let name = format!("mesh/m/{kind}/s{index}_a").parse().expect("a name");
        if self.owners[index] == Owner::Gateway {
            let routes = graph.gateways[&name].routes.iter();
            return routes
                .map(|route| ModelRoute {
                    name: &route.name,
                    port: route.port,
                    hostname: route.hostname.as_ref(),
                    matches: &route.matches,
                })
                .collect();
        }
        let routes = graph.routers[&name].routes.iter();
        routes
            .map(|route| {
                let RouteRule::Http(rule) = &route.rule else {
                    panic!("no set has routes for TCP");
                };
                ModelRoute {
                    name: &route.name,
                    port: route.port,
                    hostname: None,
                    matches: &rule.matches,
                }
            })
            .collect()
    }
}

fn find_manager(value: &Value) -> Option<&Value> {
    match value {
        Value::Object(fields) if fields.contains_key("http_filters") => Some(value),
        Value::Object(fields) => fields.values().find_map(find_manager),
        Value::Array(items) => items.iter().find_map(find_manager),
        _ => None,
    }
}

/// The virtual hosts of a gateway, as they are for requests to the host names of the set.
fn within(hosts: &Value, index: usize) -> Vec<Value> {
    let hosts = hosts.as_array().unwrap();
    let own = host(index);
    let taken: BTreeSet<&str> = hosts
        .iter()
        .flat_map(|host| host["domains"].as_array().unwrap())
        .filter_map(Value::as_str)
        .collect();
    let limited = hosts.iter().map(|virtual_host| {
        let mut limited = virtual_host.clone();
        let name = virtual_host["name"].as_str().unwrap();
        limited["name"] = json!(format!("{own} {name}"));
        if virtual_host["domains"] == json!(["*"]) {
            let every = [own.clone(), format!("*.{own}")];
            let free = every
                .iter()
                .filter(|domain| !taken.contains(domain.as_str()));
            let free: Vec<&String> = free
                // `*s1.test` is the domain of the suffix `s1.test`, and accepts what `*.s1.test` does.
                .filter(|domain| {
                    !(domain.starts_with('*') && taken.contains(format!("*{own}").as_str()))
                })
                .collect();
            limited["domains"] = json!(free);
        }
        limited
    });
    let has_domains = |host: &Value| !host["domains"].as_array().unwrap().is_empty();
    limited.filter(has_domains).collect()
}

/// A route of the graph.
pub(crate) struct ModelRoute<'a> {
    pub(crate) name: &'a str,
    port: Option<u16>,
    hostname: Option<&'a HostnameMatch>,
    matches: &'a HttpMatch,
}

impl ModelRoute<'_> {
    /// Whether the route accepts a request, by the descriptions of the fields. `accepts_regex` decides on expressions.
    pub(crate) fn accepts(
        &self,
        request: &RawRequest,
        accepts_regex: fn(&str, &str) -> bool,
    ) -> bool {
        let HttpMatch {
            path,
            method,
            scheme,
            headers,
            query,
        } = self.matches;
        let (own_path, own_query) = request.path.split_once('?').unwrap_or((&request.path, ""));
        let path = match path {
            PathMatch::Exact(path) => own_path == &**path,
            PathMatch::Prefix(prefix) => own_path.starts_with(&**prefix),
            PathMatch::Regex(regex) => accepts_regex(regex, own_path),
        };
        let name = request.host.split(':').next().unwrap_or_default();
        let name = name.to_lowercase();
        let hostname = match self.hostname {
            None => true,
            Some(HostnameMatch::Exact(exact)) => name == exact.to_lowercase(),
            Some(HostnameMatch::Suffix(suffix)) => {
                let suffix = suffix.to_lowercase();
                name.ends_with(&suffix) && (name.len() > suffix.len() || !suffix.starts_with('.'))
            }
        };
        path && hostname
            && self.port.is_none_or(|port| port == request.port)
            && method.is_none_or(|method| method.as_str() == request.method)
            && scheme
                .is_none_or(|scheme| header(request, ":scheme").as_deref() == Some(scheme.as_str()))
            && headers
                .iter()
                .all(|it| accepts_header(it, request, accepts_regex))
            && query.iter().all(|it| accepts_parameter(it, own_query))
    }
}

fn header(request: &RawRequest, name: &str) -> Option<String> {
    let mut headers = request.headers.iter();
    let found = headers.find(|(it, _)| it.eq_ignore_ascii_case(name));
    match name.to_lowercase().as_str() {
        ":method" => Some(request.method.to_owned()),
        ":path" => Some(request.path.clone()),
        ":authority" => Some(request.host.clone()),
        ":scheme" => header(request, "x-forwarded-proto").or(Some("http".to_owned())),
        _ => found.map(|(_, value)| value.clone()),
    }
}

fn accepts_header(
    it: &RequestHeaderMatch,
    request: &RawRequest,
    accepts_regex: fn(&str, &str) -> bool,
) -> bool {
    let value = header(request, &it.name);
    let Some(value) = value else {
        return it.value == ValueMatch::Present && it.invert;
    };
    let fits = match &it.value {
        ValueMatch::Present => true,
        ValueMatch::Exact(text) => value == **text,
        ValueMatch::Prefix(text) => value.starts_with(&**text),
        ValueMatch::Suffix(text) => value.ends_with(&**text),
        ValueMatch::Regex(regex) => accepts_regex(regex, &value),
        ValueMatch::Range { start, end } => value
            .parse::<i64>()
            .is_ok_and(|number| (*start..*end).contains(&number)),
    };
    fits != it.invert
}

fn accepts_parameter(it: &QueryMatch, query: &str) -> bool {
    let mut pairs = query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let value = pairs.find(|(name, _)| *name == &*it.name);
    value.is_some_and(|(_, value)| it.exact.as_ref().is_none_or(|exact| value == &**exact))
}
