//! Manifests and the Envoy resources derived from them: `testdata/FEATURE/CASE/in.yaml` → the problems and the
//! resources in `out.snap` beside it.
//!
//! A line `# Show: NAME, NAME` in the input names the proxies whose views are printed; every view is checked.
//! The test `golden_envoys` of the crate `evermesh` hands the same views to real Envoys.

mod support;

use std::{collections::BTreeMap, process::ExitCode};

use evermesh_golden::GoldenCase;
use evermesh_model::Problem;
use evermesh_proto::{ProxyView, ResourceKey};
use evermesh_translate::{Derived, load_assignments};
use serde::Serialize;
use serde_json::{Value, json};
use support::{
    case::{self, TranslatedCase},
    check,
};

#[derive(Serialize)]
struct Out<'a> {
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    problems: &'a [Problem],
    views: BTreeMap<&'a str, Vec<String>>,
    resources: BTreeMap<String, Value>,
}

fn main() -> ExitCode {
    let testdata = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata");
    evermesh_golden::run(testdata, manifests_become_resources)
}

fn manifests_become_resources(golden: &GoldenCase) {
    let case = TranslatedCase::new(golden);
    check::consistent(&case.built.graph, &case.derived);
    for (name, endpoints) in &*case.built.graph.endpoints {
        for (key, resource) in load_assignments(&case.built.graph.nodes[name], endpoints) {
            assert_eq!(
                case.derived.resources[&key], resource,
                "the short cut for endpoints of {name} differs from the whole derivation"
            );
        }
    }
    let views = case.shown();
    golden.assert_snapshot(&Out {
        problems: &case.built.problems,
        views: views
            .iter()
            .map(|(name, view)| (*name, keys(view)))
            .collect(),
        resources: views
            .iter()
            .flat_map(|(_, view)| resources(&case.derived, view))
            .collect(),
    });
}

fn keys(view: &ProxyView) -> Vec<String> {
    view.keys().iter().map(text).collect()
}

/// `cluster cds_egress_shop_blue_shop_http_8080`, or `mesh/shop/virtualNode/front_shop route rds_egress_http_8080` if
/// the resource is scoped to a proxy.
fn text(key: &ResourceKey) -> String {
    let ResourceKey { kind, name, scope } = key;
    match scope {
        Some(scope) if !case::is_shared(key) => format!("{scope} {kind} {name}"),
        _ => format!("{kind} {name}"),
    }
}

fn resources(derived: &Derived, view: &ProxyView) -> Vec<(String, Value)> {
    case::resources(derived, view)
        .map(|(key, resource)| {
            let out = json!({
                "body": case::json(resource),
                "needs": resource.needs.iter().map(ToString::to_string).collect::<Vec<_>>(),
                "origins": resource.origins.iter().map(ToString::to_string).collect::<Vec<_>>(),
            });
            (text(key), out)
        })
        .collect()
}
