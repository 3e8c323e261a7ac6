//! Every proxy of every example: the oldest and the newest Envoy, with delta and with SotW, accept all resources.
//!
//! Needs the program `evermesh-test-app`: run `cargo build --workspace --bins` before this test alone.

#![allow(clippy::unwrap_used)] // a panic fails the test

mod common;

use std::{collections::BTreeMap, fs, path::PathBuf};

use common::eventually;
use evermesh_testkit::{
    control_plane::{ControlPlane, bootstrap},
    envoy::{Envoy, EnvoyOptions, EnvoyVersion},
    hosts::{Lab, LabHost},
    moto::Moto,
    tools,
};
use serde_json::Value;

fn examples() -> Vec<PathBuf> {
    let folder = tools::workspace().unwrap().join("examples");
    let entries = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let mut examples: Vec<_> = entries.filter(|path| path.is_dir()).collect();
    examples.sort();
    examples
}

/// A lab whose hosts are added when an example needs another one.
struct Hosts {
    lab: Lab,
    hosts: Vec<LabHost>,
}

impl Hosts {
    async fn nth(&mut self, index: usize) -> LabHost {
        while self.hosts.len() <= index {
            let host = self
                .lab
                .host(&format!("proxy-{}", self.hosts.len()))
                .await
                .unwrap();
            // The lab has no DNS server. Without a route Envoy learns that at once, instead of waiting for an answer.
            host.shell("ip route replace unreachable default").unwrap();
            self.hosts.push(host);
        }
        self.hosts[index].clone()
    }
}

/// Whether `count` proxies are connected with this variant of the protocol and have ACKed every resource.
fn are_in_sync(proxies: &Value, count: usize, flavour: &str) -> bool {
    let proxies = proxies.as_array().unwrap();
    proxies.len() == count
        && proxies.iter().all(|proxy| {
            let resources = proxy["resources"].as_array().unwrap();
            let accepted = |resource: &Value| {
                resource["rejected"].is_null()
                    && !resource["sent"].is_null()
                    && resource["acked"] == resource["sent"]
            };
            proxy["flavour"] == flavour && !resources.is_empty() && resources.iter().all(accepted)
        })
}

/// Checks the statistics of an Envoy: connected, updated and never rejecting.
async fn has_accepted(case: &str, envoy: &Envoy) {
    let stats: BTreeMap<_, _> = envoy.stats().await.unwrap();
    let rejected: Vec<_> = stats
        .iter()
        .filter(|(name, count)| name.ends_with(".update_rejected") && **count > 0)
        .collect();
    assert!(rejected.is_empty(), "{case}: {rejected:?}");
    for updates in [
        "cluster_manager.cds.update_success",
        "listener_manager.lds.update_success",
    ] {
        assert!(stats[updates] > 0, "{case}: no {updates}");
    }
    assert_eq!(stats["control_plane.connected_state"], 1, "{case}");
}

async fn every_proxy_accepts_its_configuration(version: EnvoyVersion, sotw: bool) {
    let mut lab = Lab::start().await.unwrap();
    let control = lab.host("control").await.unwrap();
    let moto = Moto::start_on(&control).await.unwrap();
    let mut hosts = Hosts {
        lab,
        hosts: Vec::new(),
    };
    for example in examples() {
        let cloud_map = ["--cloud-map-endpoint", &moto.endpoint()];
        let mut control_plane = ControlPlane::start_on(&control, &example, &cloud_map).unwrap();
        control_plane.ready().await.unwrap();
        let known: BTreeMap<String, Value> =
            serde_json::from_str(&control_plane.admin().get("/debug/resources").await.unwrap())
                .unwrap();
        assert!(!known.is_empty(), "{} has no proxy", example.display());

        let mut envoys = Vec::new();
        for (index, name) in known.keys().enumerate() {
            let bootstrap = bootstrap(name, control_plane.xds(), sotw).unwrap();
            let options = EnvoyOptions::new(version, bootstrap);
            let envoy = Envoy::start_on(&hosts.nth(index).await, &options).unwrap();
            envoys.push((name, envoy));
        }
        for (_, envoy) in &mut envoys {
            envoy.ready().await.unwrap();
        }
        let flavour = if sotw { "sotw" } else { "delta" };
        eventually("ACKs of every proxy", async || {
            let proxies = control_plane.proxies().await.unwrap();
            are_in_sync(&proxies, envoys.len(), flavour)
        })
        .await;
        for (name, envoy) in &envoys {
            has_accepted(&format!("{} {name}", version.number()), envoy).await;
        }
    }
}

#[tokio::test]
async fn oldest_envoy_accepts_every_example_over_delta() {
    every_proxy_accepts_its_configuration(EnvoyVersion::Oldest, false).await;
}

#[tokio::test]
async fn oldest_envoy_accepts_every_example_over_sotw() {
    every_proxy_accepts_its_configuration(EnvoyVersion::Oldest, true).await;
}

#[tokio::test]
async fn newest_envoy_accepts_every_example_over_delta() {
    every_proxy_accepts_its_configuration(EnvoyVersion::Newest, false).await;
}

#[tokio::test]
async fn newest_envoy_accepts_every_example_over_sotw() {
    every_proxy_accepts_its_configuration(EnvoyVersion::Newest, true).await;
}
