//! Routes of virtual routers.

mod envoy_headers;
mod matches;
mod order;
mod retries;
mod targets;
mod timeouts;
