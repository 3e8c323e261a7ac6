//! The seam for HTTP filters: each filter is a file that adds its part to connection managers and routes.
//!
//! A new filter is a new file and an entry in [`FILTERS`]; no other code changes.

use std::collections::BTreeMap;

use evermesh_model::route::HttpRule;
use evermesh_proto::{Any, hcm, hcm::http_filter::ConfigType};

use super::{ListenerContext, router::Router};

/// An HTTP filter of the connection manager.
pub(crate) trait HttpFilter: Sync {
    /// The name by which Envoy finds the filter's settings on routes, such as `envoy.filters.http.router`.
    fn name(&self) -> &'static str;

    /// The settings on the connection manager; `None` if listeners of this kind do not need the filter.
    fn on_listener(&self, context: ListenerContext<'_>) -> Option<Any>;

    /// The settings on a route (`typed_per_filter_config`); `None` if the route needs none.
    fn on_route(&self, _rule: &HttpRule) -> Option<Any> {
        None
    }
}

/// All filters, **in the order in which a request passes them**.
static FILTERS: &[&dyn HttpFilter] = &[
    // Forwards the request, so nothing can follow it.
    &Router,
];

/// The filters of a connection manager.
pub(super) fn chain(context: ListenerContext<'_>) -> Vec<hcm::HttpFilter> {
    FILTERS
        .iter()
        .filter_map(|filter| {
            Some(hcm::HttpFilter {
                name: filter.name().to_owned(),
                config_type: Some(ConfigType::TypedConfig(filter.on_listener(context)?)),
                ..Default::default()
            })
        })
        .collect()
}

/// The settings of all filters on a route.
pub(crate) fn on_route(rule: &HttpRule) -> BTreeMap<String, Any> {
    FILTERS
        .iter()
        .filter_map(|filter| Some((filter.name().to_owned(), filter.on_route(rule)?)))
        .collect()
}
