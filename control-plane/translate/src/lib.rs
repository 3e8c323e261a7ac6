//! Graph to Envoy configuration.
//!
//! [`derive()`] rebuilds everything at every turn and recomputes nothing: each stage is a pure function over shared
//! inputs, and a memo hands out the last output where no input is new. The stages, from what changes seldom to
//! what changes with every shifted weight:
//!
//! ```text
//! mesh ──► original destinations      node ──► clusters      node, endpoints ──► load assignments
//! service, router, nodes ──► Reach ──┐
//! node, mesh ──► Inbound ────────────┼─► Outbound (listener) ─► View
//! service, router ──► Hosts ─────────┴─► routes of the node     (a gateway is one stage)
//! ```
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
mod pool;
mod route;
mod scope;
mod service;
mod stages;
mod wire;

use std::{collections::BTreeMap, sync::Arc};

use evermesh_model::Graph;
use evermesh_proto::{Key, Resource, View};

pub use endpoint::load_assignments;
pub use stages::DeriveMemo;

/// Everything that is served.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Derived {
    /// Every resource, whoever sees it.
    pub resources: BTreeMap<Key, Arc<Resource>>,
    /// What each proxy sees, by the text of its name (`mesh/shop/virtualNode/color_ns`). Every key leads to a resource.
    pub views: BTreeMap<Arc<str>, Arc<View>>,
}

/// Envoy's configuration of every proxy in the graph. What is equal to the last turn of `memo` keeps its pointers.
pub fn derive(graph: &Graph, memo: &mut DeriveMemo) -> Derived {
    memo.turn(graph)
}
