//! The mesh of the benchmarks, in a size that the caller chooses.

use std::fmt::Write as _;

/// Number of services that the front node calls; it has no routes for the others.
pub(crate) const BACKENDS: usize = 10;

/// The manifests: Route, namespace, mesh and front node, then a node, a service and a router for each service.
pub(crate) fn objects(services: usize) -> Vec<String> {
    let mesh = "apiVersion: appmesh.k8s.aws/v1beta2\nkind: Mesh\nmetadata: {name: bench}\nspec: {namespaceSelector: {}}\n";
    let namespace = "apiVersion: v1\nkind: Namespace\nmetadata: {name: bench}\n";
    let mut objects = vec![route(1), namespace.to_owned(), mesh.to_owned()];
    let listener = "  listeners: [{portMapping: {port: 8080, protocol: http}}]\n";
    let discovery = "  serviceDiscovery: {dns: {hostname: localhost}}\n";
    let mut front = object("VirtualNode", "front") + listener + discovery + "  backends:\n";
    for index in 0..BACKENDS {
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
        // The first router has the Route instead.
        if index > 0 {
            router += "  routes:\n    - name: all\n      httpRoute:\n";
            router += &rule("        ", index, 1);
        }
        objects.push(router);
    }
    objects
}

/// The Route that the benchmarks change.
pub(crate) fn route(weight: usize) -> String {
    let head = "apiVersion: evermesh.dev/v1alpha1\nkind: Route\nmetadata: {name: all, namespace: bench}\nspec:\n  \
                virtualRouterRef: {name: router-0}\n  httpRoute:\n";
    head.to_owned() + &rule("    ", 0, weight)
}

/// A rule with two targets: the node of the service and the front node.
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

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn every_object_is_yaml_with_a_name() {
        let objects = objects(BACKENDS);
        assert_eq!(objects.len(), 4 + 3 * BACKENDS);
        for text in objects {
            let object: Value = serde_saphyr::from_str(&text).expect("YAML");
            assert!(object["kind"].is_string(), "{text}");
            assert!(object["metadata"]["name"].is_string(), "{text}");
        }
    }

    #[test]
    fn route_has_the_weight() {
        let route: Value = serde_saphyr::from_str(&route(42)).expect("YAML");
        let targets = &route["spec"]["httpRoute"]["action"]["weightedTargets"];
        assert_eq!(
            (&targets[0]["weight"], &targets[1]["weight"]),
            (&42.into(), &1.into())
        );
    }
}
