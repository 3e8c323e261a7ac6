//! A golden case of translation: manifests, the graph that ingest makes of them, and the resources derived from it.
//!
//! The golden test of this crate prints the resources. The test `golden_envoys` of the crate `evermesh` includes this
//! file by path and hands the same resources to real Envoys.
//!
//! The input is `in.yaml`, as `ingest/tests/fixture` reads it. A comment line `# Show: NAME, NAME` names the nodes and
//! gateways (`front_shop` is `front` in the namespace `shop`) whose views the case is about.

#![allow(clippy::unwrap_used)] // a test may panic
#![allow(unreachable_pub)] // a module of several test crates

#[path = "../../../ingest/tests/fixture/mod.rs"]
pub mod fixture;

use std::sync::Arc;

use evermesh_golden::GoldenCase;
use evermesh_ingest::{BuildMemo, BuildOutput, build};
use evermesh_proto::{ProxyView, Resource, ResourceKey, ResourceType, json};
use evermesh_translate::{DeriveMemo, Derived, derive};
use serde_json::Value;

/// A golden case with what ingest and translation make of it.
pub struct TranslatedCase {
    pub built: BuildOutput,
    pub derived: Derived,
    shown: Vec<String>,
}

impl TranslatedCase {
    /// Ingests and translates the input of a case.
    ///
    /// # Panics
    ///
    /// If the input cannot be read or has no `# Show:` line.
    pub fn new(case: &GoldenCase) -> Self {
        let built = build(&fixture::inputs(&case.input), &mut BuildMemo::default());
        let derived = derive(&built.graph, &mut DeriveMemo::default());
        let mut lines = case.input.lines();
        let shown = lines
            .find_map(|line| line.strip_prefix("# Show: "))
            .expect("the input has a line `# Show: NAME, NAME`");
        Self {
            built,
            derived,
            shown: shown.split(", ").map(ToOwned::to_owned).collect(),
        }
    }

    /// The views that the case is about, with the names of their proxies (`mesh/shop/virtualNode/front_shop`).
    ///
    /// # Panics
    ///
    /// If a name of the `# Show:` line is not that of exactly one proxy.
    pub fn shown(&self) -> Vec<(&str, &ProxyView)> {
        let views: Vec<(&str, &ProxyView)> = self
            .derived
            .views
            .iter()
            .map(|(name, view)| (name.as_ref(), view.as_ref()))
            .filter(|(name, _)| {
                let shown = |it: &String| name.ends_with(&format!("/{it}"));
                self.shown.iter().any(shown)
            })
            .collect();
        assert_eq!(
            views.len(),
            self.shown.len(),
            "views of {:?}; problems: {:?}",
            self.shown,
            self.built.problems
        );
        views
    }
}

/// Whether several proxies may have the resource: its scope is not that of a proxy, `mesh/M/virtualNode/N`.
pub fn is_shared(key: &ResourceKey) -> bool {
    let scope = key.scope.as_deref().unwrap_or_default();
    scope.matches('/').count() < 3
}

/// The resources of a view, in its order. A load assignment whose endpoints are not known yet, and a secret whose
/// Kubernetes Secret does not exist, are listed in the view and have no resource.
///
/// # Panics
///
/// If any other resource of the view does not exist.
pub fn resources<'a>(
    derived: &'a Derived,
    view: &'a ProxyView,
) -> impl Iterator<Item = (&'a ResourceKey, &'a Arc<Resource>)> {
    view.keys().iter().filter_map(|key| {
        let found = derived.resources.get(key);
        assert!(
            found.is_some()
                || key.kind == ResourceType::Endpoint
                || (key.kind == ResourceType::Secret && is_shared(key)),
            "{key:?} is listed in a view and does not exist"
        );
        Some((key, found?))
    })
}

/// The message of a resource as protobuf JSON.
pub fn json(resource: &Resource) -> Value {
    json::encoded_to_json(resource.kind.message_name(), &resource.body).unwrap()
}
