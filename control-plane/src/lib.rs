//! The control plane.

pub mod source;
