//! Graph to Envoy configuration.
