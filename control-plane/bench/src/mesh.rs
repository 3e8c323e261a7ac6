//! The mesh that is measured.

use std::fmt::Write as _;

/// Services of the front node; the others have callers elsewhere.
pub(crate) const BACKENDS: usize = 10;

/// A Route, a mesh, a front node with some backends, and a node, a service and a router for each service.
pub(crate) fn objects(services: usize) -> Vec<String> {
    let mesh = "apiVersion: appmesh.k8s.aws/v1beta2\nkind: Mesh\nmetadata: {name: bench}\nspec: {namespaceSelector: {}}\n";
    let namespace = "apiVersion: v1\nkind: Namespace\nmetadata: {name: bench}\n";
    let mut objects = vec![route(1), namespace.to_owned(), mesh.to_owned()];
    let listener = "  listeners: [{portMapping: {port: 8080, protocol: http}}]\n";
    let discovery = "  serviceDiscovery: {dns: {hostname: localhost}}\n";
    let mut front = object("VirtualNode", "front") + listener + discovery + "  backends:\n";
    for index in 0..BACKENDS {
        // Writing into a String never fails.
        let _ = writeln!(
            front,
            "    - virtualService: {{virtualServiceRef: {{name: service-{index}}}}}"
        );
    }
    objects.push(front);
    for index in 0..services {
        objects.push(object("VirtualNode", &format!("node-{index}")) + listener + discovery);
        let service = object("VirtualService", &format!("service-{index}"))
            + &format!(
                "  awsName: service-{index}.bench\n  provider: {{virtualRouter: {{virtualRouterRef: {{name: router-{index}}}}}}}\n"
            );
        objects.push(service);
        let mut router = object("VirtualRouter", &format!("router-{index}")) + listener;
        // The first one's is the Route.
        if index > 0 {
            router += "  routes:\n    - name: all\n      httpRoute:\n";
            router += &rule("        ", index, 1);
        }
        objects.push(router);
    }
    objects
}

/// The Route that changes.
pub(crate) fn route(weight: usize) -> String {
    let head = "apiVersion: evermesh.dev/v1alpha1\nkind: Route\nmetadata: {name: all, namespace: bench}\nspec:\n  \
                virtualRouterRef: {name: router-0}\n  httpRoute:\n";
    head.to_owned() + &rule("    ", 0, weight)
}

/// A rule with two targets: the service's own node and the front.
fn rule(indent: &str, index: usize, weight: usize) -> String {
    format!(
        "{indent}match: {{prefix: /}}\n{indent}action:\n{indent}  weightedTargets:\n\
         {indent}  - {{virtualNodeRef: {{name: node-{index}}}, weight: {weight}}}\n\
         {indent}  - {{virtualNodeRef: {{name: front}}, weight: 1}}\n"
    )
}

fn object(kind: &str, name: &str) -> String {
    format!(
        "apiVersion: appmesh.k8s.aws/v1beta2\nkind: {kind}\nmetadata: {{name: {name}, namespace: bench}}\nspec:\n"
    )
}
