//! Kinds that App Mesh never had, group `evermesh.dev/v1alpha1`.

#[allow(unreachable_pub)] // the schema's derive copies the struct into a function, `pub` and all
pub mod route;
mod rules;

pub use route::{Route, RouteSpec, RouteStatus};
