//! What Envoys get for manifests: `testdata/<feature>/<case>/in.yaml` → the problems and the resources in `out.snap`
//! beside it. Regenerate with `INSTA_UPDATE=always cargo test -p evermesh-translate --test golden`, and read
//! the diff.
//!
//! A line `# Show: NAME, NAME` in the input says whose views the case is about; everything is checked, only
//! these are printed.

#[path = "../../ingest/tests/fixture/mod.rs"]
mod fixture;
mod support;

use std::{collections::BTreeMap, sync::Arc};

use evermesh_ingest::{BuildMemo, build};
use evermesh_model::Problem;
use evermesh_proto::{Key, View};
use evermesh_translate::{DeriveMemo, Derived, derive, load_assignments};
use serde::Serialize;
use serde_json::{Value, json};
use support::check;

#[derive(Serialize)]
struct Out<'a> {
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    problems: &'a [Problem],
    views: BTreeMap<&'a str, Vec<String>>,
    resources: BTreeMap<String, Value>,
}

#[test]
#[allow(clippy::disallowed_methods)] // a test reads its cases
fn golden() {
    insta::glob!("../testdata", "*/*/in.yaml", |path| {
        let yaml = std::fs::read_to_string(path).unwrap();
        let built = build(&fixture::inputs(&yaml), &mut BuildMemo::default());
        let derived = derive(&built.graph, &mut DeriveMemo::default());
        check::consistent(&derived);
        for (name, endpoints) in &built.graph.endpoints {
            for (key, resource) in load_assignments(&built.graph.nodes[name], endpoints) {
                assert_eq!(derived.resources[&key], resource, "the short cut differs");
            }
        }

        let shown = |name: &str| match yaml.lines().find_map(|line| line.strip_prefix("# Show: ")) {
            Some(names) => names.split(", ").any(|it| name.ends_with(&format!("/{it}"))),
            None => true,
        };
        let views: Vec<_> = derived.views.iter().filter(|it| shown(it.0)).collect();
        assert!(!views.is_empty(), "nothing to show");
        let out = Out {
            problems: &built.problems,
            views: views.iter().map(|(name, view)| (name.as_ref(), keys(view))).collect(),
            resources: views.iter().flat_map(|(_, view)| resources(&derived, view)).collect(),
        };
        insta::with_settings!({
            snapshot_path => path.parent().unwrap(),
            prepend_module_to_snapshot => false,
            snapshot_suffix => "",
            omit_expression => true,
        }, {
            insta::assert_yaml_snapshot!("out", out);
        });
    });
}

fn keys(view: &View) -> Vec<String> {
    view.keys().iter().map(text).collect()
}

/// `route rds_egress_http_8080`; with the view's name before it if the resource belongs to one view.
fn text(key: &Key) -> String {
    let Key { kind, name, scope } = key;
    match scope {
        None => format!("{kind} {name}"),
        Some(scope) => format!("{scope} {kind} {name}"),
    }
}

fn resources(derived: &Derived, view: &Arc<View>) -> Vec<(String, Value)> {
    let resources = check::resources(derived, view);
    let texts = view.keys().iter().map(text);
    texts
        .zip(resources)
        .map(|(text, resource)| {
            let out = json!({
                "body": check::json(resource),
                "needs": resource.needs.iter().map(ToString::to_string).collect::<Vec<_>>(),
                "origins": resource.origins.iter().map(ToString::to_string).collect::<Vec<_>>(),
            });
            (text, out)
        })
        .collect()
}
