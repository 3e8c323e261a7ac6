//! Objects to graph.
