//! The control plane: sources, engine, effects and the command line. The binary is a thin shell over it.
//!
//! Must not convert or translate: ingest and translate do.

pub mod admin;
pub mod app;
pub mod args;
pub mod auth;
pub mod changes;
mod cluster;
pub mod effect;
pub mod engine;
mod event;
pub mod lint;
pub mod metrics;
mod socket;
pub mod source;
pub mod telemetry;
mod throttle;
pub mod webhook;
