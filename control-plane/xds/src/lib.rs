//! A generic xDS server.
