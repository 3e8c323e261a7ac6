//! The library of the tests: real programs, started and stopped by handles.
//!
//! | to get | use |
//! |---|---|
//! | an Envoy, or its verdict on a configuration | [`envoy`], [`static_bootstrap`] |
//! | hosts with their own network | [`hosts`], [`interception`] |
//! | the control plane | [`control_plane`] |
//! | AWS Cloud Map | [`moto`] |
//! | an API server that is slow, silent or refuses | [`fake_api_server`] |
//! | a Kubernetes API without pods, and the Helm chart in it | [`kubernetes`], [`chart`] |
//! | applications, and load on them | [`app`], [`load`], [`report`] |
//! | the canary example on hosts | [`canary`] |
//! | a certificate authority | [`authority`] |
//! | the commands of a README and what they print | [`readme`] |
//!
//! A test starts what it needs, waits until it is ready, and drops the handles:
//!
//! ```no_run
//! # async fn example() -> anyhow::Result<()> {
//! use evermesh_testkit::{
//!     envoy::{Envoy, EnvoyOptions, EnvoyVersion},
//!     hosts::Lab,
//! };
//!
//! let mut lab = Lab::start().await?;
//! let host = lab.host("front").await?;
//! let options = EnvoyOptions::new(EnvoyVersion::Newest, "static_resources: {}");
//! let mut envoy = Envoy::start_on(&host, &options)?;
//! envoy.ready().await?;
//! assert_eq!(envoy.stat("server.live").await?, 1);
//! # Ok(())
//! # }
//! ```
//!
//! `scripts/setup` installs the programs.
//! A process that was started here ends with its handle, and the kernel kills it if the test is killed.
//! The library does not depend on the crates under test: it runs the control plane from its binary, as users do.

#![allow(missing_docs)] // used by tests and by our own tools only

pub mod app;
pub mod app_mesh_agent;
pub mod authority;
pub mod canary;
pub mod chart;
pub mod chi_square;
pub mod collector;
pub mod control_plane;
pub mod dns;
pub mod envoy;
pub mod fake_api_server;
pub mod hosts;
pub mod http;
pub mod interception;
pub mod kubernetes;
pub mod load;
pub mod moto;
pub mod port;
pub mod process;
pub mod readme;
pub mod recorder;
pub mod relay;
pub mod report;
pub mod self_signed;
pub mod static_bootstrap;
pub mod tools;
pub mod wait;
pub mod xds;
