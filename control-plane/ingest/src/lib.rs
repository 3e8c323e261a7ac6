//! Objects to graph.

pub mod object;
pub mod schema;
