//! Kinds of the group `evermesh.dev/v1alpha1`, which App Mesh does not have.

#[allow(unreachable_pub)] // the derive for the schema copies the `pub` struct into a function
pub mod route;
mod rules;

pub use route::{Route, RouteSpec, RouteStatus};
