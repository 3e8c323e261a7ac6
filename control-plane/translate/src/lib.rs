//! Graph to Envoy configuration.
//!
//! Everything is derived in stages, each a pure function of shared inputs, from what changes seldom to what changes
//! with every shifted weight. A memo keeps what each stage made and what it read, so that a turn runs only what
//! reads something new; the result is that of a first turn.
//!
//! ```text
//! mesh ──► original destinations      node ──► clusters      node, endpoints ──► load assignments
//! service, router, nodes ──► ReachableClusters ──┐
//! node, mesh ──► NodeIngress ────────────┼─► NodeEgress (listener) ─► ProxyView
//! service, router ──► ServiceRoutes ─────────┴─► routes of the node     (a gateway is one stage)
//! ```
//!
//! The routes of a node with local ports come from its services and their routers at once: their `ServiceRoutes` are for
//! callers that say by name whom they mean.
//!
//! Total on every graph that holds what [`Graph`] promises: a user's mistake has become a problem before.
//!
//! Must not know Kubernetes, streams, a clock or an environment.

mod cluster;
mod endpoint;
mod http;
mod listener;
mod names;
mod network;
mod route;
mod scope;
mod service;
mod stage;
mod stages;
mod wire;

use std::{collections::BTreeMap, sync::Arc};

use evermesh_model::{Endpoint, Graph, ResourceName};
use evermesh_proto::{ProxyView, Resource, ResourceKey};

pub use endpoint::load_assignments;
pub use stages::DeriveMemo;

/// Everything that is served.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Derived {
    /// Every resource, whoever sees it.
    pub resources: BTreeMap<ResourceKey, Arc<Resource>>,
    /// What each proxy sees, by the text of its name (`mesh/shop/virtualNode/color_ns`). Every key leads to a
    /// resource, but for load assignments of nodes whose endpoints are not known yet.
    pub views: BTreeMap<Arc<str>, Arc<ProxyView>>,
}

/// What a turn changed in [`Derived`]; `None` is gone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ResourceChanges {
    /// Resources that are new, or have another content.
    pub resources: BTreeMap<ResourceKey, Option<Arc<Resource>>>,
    /// Views that are new, or list other keys.
    pub views: BTreeMap<Arc<str>, Option<Arc<ProxyView>>>,
}

impl ResourceChanges {
    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        self.resources.is_empty() && self.views.is_empty()
    }
}

/// Envoy's configuration of every proxy in the graph. What is equal to the last turn of `memo` keeps its pointers.
pub fn derive(graph: &Graph, memo: &mut DeriveMemo) -> Derived {
    derive_changes(graph, memo);
    memo.derived().clone()
}

/// What the graph changes in the configuration since the last turn of `memo`: the same as comparing two [`Derived`],
/// without making and comparing everything. [`DeriveMemo::derived`] has the whole.
pub fn derive_changes(graph: &Graph, memo: &mut DeriveMemo) -> ResourceChanges {
    memo.update(graph)
}

/// What other endpoints of one node change: the short cut for the most frequent change. The next turn expects a graph
/// that has them.
pub fn derive_endpoints(
    node: &ResourceName,
    endpoints: Arc<Vec<Endpoint>>,
    memo: &mut DeriveMemo,
) -> ResourceChanges {
    memo.update_endpoints(node, endpoints)
}
