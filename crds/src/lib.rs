//! The user's API: the seven kinds of App Mesh exactly as they were, and [`extension::Route`].
//!
//! The types are what manifests say, nothing more: a field that may be absent is an `Option`, and
//! writing a value back gives what was read. Their comments are the descriptions in the CRDs.
//!
//! Must not know how a mesh works, nor talk to a cluster.

pub mod condition;
pub mod extension;
pub mod v1beta2;
