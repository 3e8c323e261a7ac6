//! The router filter, which forwards requests by the route configuration.

use evermesh_proto::{Any, pack, pb::envoy::extensions::filters::http::router::v3};

use super::{ListenerContext, filter::HttpFilter};

/// Every connection manager needs it.
pub(crate) struct Router;

impl HttpFilter for Router {
    fn name(&self) -> &'static str {
        "envoy.filters.http.router"
    }

    fn on_listener(&self, _: ListenerContext<'_>) -> Option<Any> {
        Some(pack(&v3::Router::default()))
    }
}
