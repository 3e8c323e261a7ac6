//! What Envoys get for manifests: `testdata/<feature>/<case>/in.yaml` → the problems and the resources in `out.snap`
//! beside it. Regenerate with `INSTA_UPDATE=always cargo test -p evermesh-translate --test golden`, and read
//! the diff.
//!
//! A line `# Show: NAME, NAME` in the input says whose views the case is about: these are printed, and put before
//! real Envoys. Every view is checked.

#![allow(clippy::unwrap_used)] // what fails here fails a test

#[path = "../../ingest/tests/fixture/mod.rs"]
mod fixture;
mod support;

use std::{collections::BTreeMap, path::Path};

use evermesh_ingest::{BuildMemo, Built, build};
use evermesh_model::Problem;
use evermesh_proto::{Key, ResourceType, View};
use evermesh_testkit::{
    envoy::{Version, validate},
    static_bootstrap::{Served, static_bootstrap},
};
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
fn golden() {
    each_case(|folder, case| {
        check::consistent(&case.built.graph, &case.derived);
        for (name, endpoints) in &*case.built.graph.endpoints {
            for (key, resource) in load_assignments(&case.built.graph.nodes[name], endpoints) {
                assert_eq!(
                    case.derived.resources[&key], resource,
                    "the short cut differs"
                );
            }
        }
        let views = case.shown();
        let out = Out {
            problems: &case.built.problems,
            views: views
                .iter()
                .map(|(name, view)| (*name, keys(view)))
                .collect(),
            resources: views
                .iter()
                .flat_map(|(_, view)| resources(&case.derived, view))
                .collect(),
        };
        insta::with_settings!({
            snapshot_path => folder,
            prepend_module_to_snapshot => false,
            snapshot_suffix => "",
            omit_expression => true,
        }, {
            insta::assert_yaml_snapshot!("out", out);
        });
    });
}

/// The oldest and the newest Envoy take every view that is shown, whole: each cluster that a route names is there.
#[test]
fn envoy_accepts() {
    each_case(|folder, case| {
        for (name, view) in case.shown() {
            let bootstrap = static_bootstrap(&served(&case.derived, view)).unwrap();
            for version in Version::ALL {
                if let Err(refusal) = validate(version, &bootstrap.to_string()) {
                    panic!("{}: {name}: {refusal:#}", folder.display());
                }
            }
        }
    });
}

struct Case {
    yaml: String,
    built: Built,
    derived: Derived,
}

impl Case {
    /// The views that the case is about.
    fn shown(&self) -> Vec<(&str, &View)> {
        let line = self
            .yaml
            .lines()
            .find_map(|line| line.strip_prefix("# Show: "));
        let names: Vec<&str> = line
            .expect("a case says what it shows")
            .split(", ")
            .collect();
        let views: Vec<(&str, &View)> = self
            .derived
            .views
            .iter()
            .map(|(name, view)| (name.as_ref(), view.as_ref()))
            .filter(|(name, _)| names.iter().any(|it| name.ends_with(&format!("/{it}"))))
            .collect();
        assert_eq!(views.len(), names.len(), "{names:?}");
        views
    }
}

#[allow(clippy::disallowed_methods)] // a test reads its cases
fn each_case(check: impl Fn(&Path, Case)) {
    insta::glob!("../testdata", "*/*/in.yaml", |path| {
        let yaml = std::fs::read_to_string(path).unwrap();
        let built = build(&fixture::inputs(&yaml), &mut BuildMemo::default());
        let derived = derive(&built.graph, &mut DeriveMemo::default());
        check(
            path.parent().unwrap(),
            Case {
                yaml,
                built,
                derived,
            },
        );
    });
}

fn served(derived: &Derived, view: &View) -> Served {
    let mut served = Served::default();
    for (_, resource) in check::resources(derived, view) {
        let of_kind = match resource.kind {
            ResourceType::Cluster => &mut served.clusters,
            ResourceType::Endpoint => &mut served.endpoints,
            ResourceType::Listener => &mut served.listeners,
            ResourceType::Route => &mut served.routes,
            ResourceType::Secret => &mut served.secrets,
        };
        of_kind.push(check::json(resource));
    }
    served
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

fn resources(derived: &Derived, view: &View) -> Vec<(String, Value)> {
    check::resources(derived, view)
        .map(|(key, resource)| {
            let out = json!({
                "body": check::json(resource),
                "needs": resource.needs.iter().map(ToString::to_string).collect::<Vec<_>>(),
                "origins": resource.origins.iter().map(ToString::to_string).collect::<Vec<_>>(),
            });
            (text(key), out)
        })
        .collect()
}
