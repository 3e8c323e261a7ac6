//! Translation: derives Envoy's configuration from the graph.
//!
//! The input is a [`Graph`]: the meshes, nodes, services, routers, gateways and endpoints that ingest resolved from
//! the user's objects. The output is [`Derived`]: xDS resources, and for each proxy a view that lists the resources it
//! gets. Translation is total: a user's mistake was reported as a problem before, and the graph contains what remains.
//!
//! # Example
//!
//! The node `front` listens on port 9080 and has one backend, the service `color.ns`. The router `color` stands behind
//! the service, has a listener on port 8080, and sends 90% of the requests to the node `blue` and 10% to `green`. All
//! of it is in the mesh `shop` and the namespace `ns`. The view `mesh/shop/virtualNode/front_ns` lists:
//!
//! ```text
//! request from another pod to port 9080, redirected by interception
//!   listener  lds_ingress_0.0.0.0_15000            filter chain http_9080
//!   route     rds_ingress_http_9080                every request
//!   cluster   cds_ingress_shop_front_ns_http_9080  the application, 127.0.0.1:9080
//!
//! request from the application to http://color.ns:8080, redirected by interception
//!   listener  lds_egress_0.0.0.0_15001             filter chain http_8080
//!   route     rds_egress_http_8080                 virtual host color.ns, weights 90 and 10
//!   cluster   cds_egress_shop_blue_ns_http_8080    }  shared by all callers; each with a load assignment
//!   cluster   cds_egress_shop_green_ns_http_8080   }  of its name if Evermesh serves the endpoints
//!
//! request from the application to an AWS API
//!   listener  lds_egress_0.0.0.0_15001             filter chain amazonaws (TLS on port 443)
//!   cluster   cds_egress_shop_amazonaws            the original destination
//! ```
//!
//! The listeners, the routes and the cluster of the application have the scope `mesh/shop/virtualNode/front_ns`, since
//! other proxies have resources of the same names. The golden cases below `testdata` are more examples.
//!
//! # Derivations
//!
//! Each arrow ends at the output of a *stage*: a pure function that runs once for each key, such as a node or service.
//!
//! ```text
//! node, mesh ───────────────────────────────────▶ NodeIngress ──┐
//!                                                               ├──▶ ProxyView
//! node, mesh ────────────────────────────────┐   ┌──────────────┘
//!                                            ├─▶ NodeEgress
//! service, router, nodes ─▶ ReachableClusters┘   └──────────────┐
//!                                                               ├──▶ egress route configurations
//! service, router ────────▶ NodeServiceRoutes ──────────────────┘
//!
//! service, router, nodes ─▶ ReachableClusters ──────┐
//! service, router ────────▶ GatewayServiceRoutes ───┴──▶ GatewayResources (everything of a gateway, and its view)
//! gateway, mesh ────────────────────────────────────┘
//!
//! mesh ────────────▶ clusters of original destinations
//! node, mesh ──────▶ clusters by which callers without a client policy reach the node
//! node or gateway, its ReachableClusters, their nodes ──▶ CallerClusters: clusters by which a caller with client policies
//!     reaches nodes ──▶ NodeEgress, GatewayResources
//! CallerClusters, service, router ──▶ the NodeServiceRoutes of one caller, if its clusters have other names than those
//!     of all callers ──▶ egress route configurations
//! node, endpoints ─▶ load assignments
//! views, secrets ──▶ secrets with certificates and keys of Kubernetes Secrets
//! ```
//!
//! The outputs for a service are split by how often they change. A shifted weight changes its `NodeServiceRoutes` and
//! the route configurations that contain them, and no listener, cluster or view.
//!
//! A node with local ports has a listener for each local port instead of the listener on port 15001. The local port
//! says which service is called, so its routes are derived from the service and its router directly.
//!
//! [`DeriveMemo`] keeps the output of each stage and what it read (module [`stage`]). An update runs only the stages
//! that read something that changed; the result equals a derivation from an empty memo.

mod access_log;
mod cluster;
mod endpoint;
mod http;
mod listener;
mod names;
mod network;
mod route;
mod scope;
mod secret;
mod service;
mod stage;
mod stages;
mod tls;
mod wire;

use std::{collections::BTreeMap, sync::Arc};

use evermesh_model::{Endpoint, Graph, ResourceName};
use evermesh_proto::{ProxyView, Resource, ResourceKey};

pub use endpoint::load_assignments;
pub use stages::DeriveMemo;

/// The resources and views of all proxies.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Derived {
    /// All resources of all views.
    pub resources: BTreeMap<ResourceKey, Arc<Resource>>,
    /// The view of each proxy, by the text of its resource name (`mesh/shop/virtualNode/color_ns`). Each key has an
    /// entry in `resources`, except load assignments of nodes whose endpoints are not known yet.
    pub views: BTreeMap<Arc<str>, Arc<ProxyView>>,
}

/// The difference between two [`Derived`]. `None` stands for a removal.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ResourceChanges {
    /// Resources that are new, changed or removed.
    pub resources: BTreeMap<ResourceKey, Option<Arc<Resource>>>,
    /// Views that are new, list other keys than before, or are removed.
    pub views: BTreeMap<Arc<str>, Option<Arc<ProxyView>>>,
}

impl ResourceChanges {
    /// Whether there is no difference.
    pub fn is_empty(&self) -> bool {
        self.resources.is_empty() && self.views.is_empty()
    }
}

/// Derives the configuration of every proxy in the graph. Resources and views that did not change since the last
/// update of `memo` keep their pointers.
pub fn derive(graph: &Graph, memo: &mut DeriveMemo) -> Derived {
    derive_changes(graph, memo);
    memo.derived().clone()
}

/// Updates `memo` to the graph and returns what changed. [`DeriveMemo::derived`] has the whole result.
///
/// The changes equal the difference between the two [`Derived`], which are neither built nor compared.
pub fn derive_changes(graph: &Graph, memo: &mut DeriveMemo) -> ResourceChanges {
    memo.update(graph)
}

/// Replaces the endpoints of one node in `memo` and returns what changed.
///
/// The short cut for the most frequent change: only the load assignments of this node are derived. The graph of the next
/// [`derive_changes`] has to contain the same endpoints.
pub fn derive_endpoints(
    node: &ResourceName,
    endpoints: Arc<Vec<Endpoint>>,
    memo: &mut DeriveMemo,
) -> ResourceChanges {
    memo.update_endpoints(node, endpoints)
}
