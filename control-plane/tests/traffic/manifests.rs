//! The manifests of a test: services, routers and gateway routes in few words.

use std::fmt::{self, Write as _};

use evermesh_testkit::hosts::LabHost;

use crate::mesh_hosts::{PAIR, PAIR_PORT, TARGET_COUNT, TARGETS};

/// Manifests of a mesh. `front` may call every service.
pub(crate) struct Manifests {
    documents: String,
    services: Vec<String>,
    /// `logging` of the node `front`.
    logging: String,
}

impl Manifests {
    /// The namespace, the mesh and the targets.
    pub(crate) fn new() -> Self {
        let mut manifests = Self {
            documents: String::new(),
            services: Vec::new(),
            logging: "{}".to_owned(),
        };
        manifests
            .add("{apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: {mesh: shop}}}");
        manifests.add(
            "apiVersion: appmesh.k8s.aws/v1beta2\nkind: Mesh\nmetadata: {name: shop}\n\
             spec: {namespaceSelector: {matchLabels: {mesh: shop}}}",
        );
        for index in 1..=TARGET_COUNT {
            for (prefix, protocol) in [("t", "http"), ("g", "grpc")] {
                let port = TARGETS + index;
                let listener = format!("{{portMapping: {{port: {port}, protocol: {protocol}}}}}");
                manifests.node(&format!("{prefix}{index}"), &listener);
            }
        }
        manifests
    }

    /// Adds a document.
    pub(crate) fn add(&mut self, document: &str) {
        writeln!(self.documents, "---\n{document}").unwrap();
    }

    /// Adds an object in the namespace `shop`.
    pub(crate) fn object(&mut self, kind: &str, name: &str, spec: &str) {
        self.add(&format!(
            "apiVersion: appmesh.k8s.aws/v1beta2\nkind: {kind}\nmetadata: {{name: {name}, namespace: shop}}\nspec: {spec}"
        ));
    }

    /// Adds a node on `back` with these listeners, in YAML's flow style.
    pub(crate) fn node(&mut self, name: &str, listeners: &str) {
        self.object(
            "VirtualNode",
            name,
            &format!(
                "{{listeners: [{listeners}], serviceDiscovery: {{dns: {{hostname: BACK, responseType: ENDPOINTS}}}}}}"
            ),
        );
    }

    /// Adds a node whose endpoints are [`PAIR`], and a service of the same name. `listener` contains the settings of the
    /// listener beside its port.
    pub(crate) fn pair(&mut self, name: &str, protocol: &str, listener: &str) {
        self.endpoint_slice(name, PAIR_PORT, &PAIR.map(|(_, address)| address));
        let mapping = format!("portMapping: {{port: {PAIR_PORT}, protocol: {protocol}}}");
        let hostname = format!("{name}.shop.svc.cluster.local");
        self.object(
            "VirtualNode",
            name,
            &format!("{{listeners: [{{{mapping}, {listener}}}], serviceDiscovery: {{dns: {{hostname: {hostname}}}}}}}"),
        );
        self.node_service(name, name);
    }

    /// Sets `logging` of the node `front`.
    pub(crate) fn log_front(&mut self, logging: &str) {
        logging.clone_into(&mut self.logging);
    }

    /// Adds a Kubernetes Service with one `EndpointSlice`.
    pub(crate) fn endpoint_slice(&mut self, service: &str, port: u16, addresses: &[&str]) {
        self.add(&format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {service}, namespace: shop}}\n\
             spec: {{ports: [{{name: http, port: {port}}}]}}"
        ));
        let endpoints: Vec<String> = addresses
            .iter()
            .map(|address| format!("{{addresses: [{address}], conditions: {{ready: true}}}}"))
            .collect();
        self.add(&format!(
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
             metadata: {{name: {service}, namespace: shop, labels: {{kubernetes.io/service-name: {service}}}}}\n\
             addressType: IPv4\nports: [{{name: http, port: {port}, protocol: TCP}}]\nendpoints: [{}]",
            endpoints.join(", ")
        ));
    }

    /// Adds a service that a node answers for.
    pub(crate) fn node_service(&mut self, name: &str, node: &str) {
        let spec = format!("{{provider: {{virtualNode: {{virtualNodeRef: {{name: {node}}}}}}}}}");
        self.service(name, &spec);
    }

    /// Adds a service with a router; each listener is a port and a protocol, each route an inline route in YAML's flow
    /// style.
    pub(crate) fn routed_service(
        &mut self,
        name: &str,
        listeners: &[(u16, &str)],
        routes: &[RouteText],
    ) {
        let listeners = port_mappings(listeners);
        let routes: Vec<String> = routes.iter().map(RouteText::to_string).collect();
        let routes = routes.join(",\n  ");
        let spec = format!("{{listeners: [{listeners}], routes: [\n  {routes}]}}");
        self.object("VirtualRouter", name, &spec);
        let spec =
            format!("{{provider: {{virtualRouter: {{virtualRouterRef: {{name: {name}}}}}}}}}");
        self.service(name, &spec);
    }

    /// Adds the gateway `gate`; each listener is a port and a protocol.
    pub(crate) fn gateway(&mut self, listeners: &[(u16, &str)]) {
        let listeners = port_mappings(listeners);
        let spec = format!(
            "{{namespaceSelector: {{matchLabels: {{mesh: shop}}}}, listeners: [{listeners}]}}"
        );
        self.object("VirtualGateway", "gate", &spec);
    }

    /// Adds gateway routes.
    pub(crate) fn gateway_routes(&mut self, routes: &[GatewayRouteText]) {
        for route in routes {
            self.object("GatewayRoute", &route.name, &route.to_string());
        }
    }

    /// Adds a service that `front` may call.
    pub(crate) fn service(&mut self, name: &str, spec: &str) {
        self.object("VirtualService", name, spec);
        self.services.push(name.to_owned());
    }

    pub(crate) fn complete(mut self, back: &LabHost, gate: &LabHost) -> String {
        let backends: Vec<String> = std::mem::take(&mut self.services)
            .iter()
            .map(|name| format!("{{virtualService: {{virtualServiceRef: {{name: {name}}}}}}}"))
            .collect();
        let (backends, logging) = (backends.join(",\n  "), &self.logging);
        let spec = format!("{{backends: [{backends}], logging: {logging}}}");
        self.object("VirtualNode", "front", &spec);
        self.documents
            .replace("BACK", &back.ip().to_string())
            .replace("GATE", &gate.ip().to_string())
    }
}

fn port_mappings(listeners: &[(u16, &str)]) -> String {
    let listeners: Vec<String> = listeners
        .iter()
        .map(|(port, protocol)| format!("{{portMapping: {{port: {port}, protocol: {protocol}}}}}"))
        .collect();
    listeners.join(", ")
}

/// The spec of a gateway route.
#[derive(Clone)]
pub(crate) struct GatewayRouteText {
    name: String,
    kind: &'static str,
    priority: Option<u32>,
    matches: String,
    service: String,
    port: Option<u16>,
    rewrite: Option<String>,
}

/// A gateway route of this kind (`httpRoute`) that sends what matches to a service.
pub(crate) fn gateway_route(
    name: &str,
    kind: &'static str,
    matches: &str,
    service: &str,
) -> GatewayRouteText {
    GatewayRouteText {
        name: name.to_owned(),
        kind,
        priority: None,
        matches: matches.to_owned(),
        service: service.to_owned(),
        port: None,
        rewrite: None,
    }
}

impl GatewayRouteText {
    pub(crate) fn priority(self, priority: u32) -> Self {
        Self {
            priority: Some(priority),
            ..self
        }
    }

    /// Sets `target.port`.
    pub(crate) fn port(self, port: u16) -> Self {
        Self {
            port: Some(port),
            ..self
        }
    }

    /// Sets `action.rewrite`.
    pub(crate) fn rewrite(self, rewrite: &str) -> Self {
        Self {
            rewrite: Some(rewrite.to_owned()),
            ..self
        }
    }
}

impl fmt::Display for GatewayRouteText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            name: _,
            kind,
            priority,
            matches,
            service,
            port,
            rewrite,
        } = self;
        write!(f, "{{")?;
        if let Some(priority) = priority {
            write!(f, "priority: {priority}, ")?;
        }
        write!(f, "{kind}: {{match: {matches}, action: {{")?;
        if let Some(rewrite) = rewrite {
            write!(f, "rewrite: {rewrite}, ")?;
        }
        write!(f, "target: {{")?;
        if let Some(port) = port {
            write!(f, "port: {port}, ")?;
        }
        write!(
            f,
            "virtualService: {{virtualServiceRef: {{name: {service}}}}}}}}}}}}}"
        )
    }
}

/// An inline route of a router.
#[derive(Clone)]
pub(crate) struct RouteText {
    name: String,
    kind: &'static str,
    priority: Option<u32>,
    matches: String,
    more: String,
    targets: String,
}

/// A route of this kind (`httpRoute`) that sends what matches to one target. The match is in YAML's flow style.
pub(crate) fn route(name: &str, kind: &'static str, matches: &str, target: &str) -> RouteText {
    let route = RouteText {
        name: name.to_owned(),
        kind,
        priority: None,
        matches: matches.to_owned(),
        more: String::new(),
        targets: String::new(),
    };
    route.targets(&[(target, 1)])
}

impl RouteText {
    pub(crate) fn priority(self, priority: u32) -> Self {
        Self {
            priority: Some(priority),
            ..self
        }
    }

    /// Replaces the match.
    pub(crate) fn matching(self, matches: &str) -> Self {
        Self {
            matches: matches.to_owned(),
            ..self
        }
    }

    /// Replaces the targets by these nodes with their weights.
    pub(crate) fn targets(self, targets: &[(&str, u32)]) -> Self {
        let targets: Vec<String> = targets
            .iter()
            .map(|(node, weight)| format!("{{virtualNodeRef: {{name: {node}}}, weight: {weight}}}"))
            .collect();
        self.raw_targets(&targets.join(", "))
    }

    /// Replaces the targets by these, in YAML's flow style.
    pub(crate) fn raw_targets(self, targets: &str) -> Self {
        Self {
            targets: targets.to_owned(),
            ..self
        }
    }

    /// Adds a field of the route, such as `timeout: {…}`.
    pub(crate) fn with(mut self, field: &str) -> Self {
        write!(self.more, "{field}, ").unwrap();
        self
    }
}

impl fmt::Display for RouteText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            name,
            kind,
            priority,
            matches,
            more,
            targets,
        } = self;
        write!(f, "{{name: {name}, ")?;
        if let Some(priority) = priority {
            write!(f, "priority: {priority}, ")?;
        }
        write!(
            f,
            "{kind}: {{match: {matches}, {more}action: {{weightedTargets: [{targets}]}}}}}}"
        )
    }
}
