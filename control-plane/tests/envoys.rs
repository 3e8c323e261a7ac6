//! Every proxy of every example: real Envoys, old and new, delta and state of the world, take what they are served.
//!
//! Needs the binary `evermesh-test-app`: `cargo test --workspace` builds it, `cargo build --bins` otherwise.

#![allow(clippy::unwrap_used)] // what fails here fails a test

use std::{collections::BTreeMap, fs, path::PathBuf, time::Duration};

use evermesh_testkit::{
    control_plane::{ControlPlane, bootstrap},
    envoy::{Envoy, EnvoyOptions, EnvoyVersion},
    hosts::{Lab, LabHost},
    moto::Moto,
    tools,
};
use serde_json::Value;

/// From Envoy's readiness until its last ACK is counted.
const PATIENCE: Duration = Duration::from_secs(10);

fn examples() -> Vec<PathBuf> {
    let folder = tools::workspace().unwrap().join("examples");
    let entries = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let mut examples: Vec<_> = entries.filter(|path| path.is_dir()).collect();
    examples.sort();
    examples
}

/// A host for every proxy of the largest example, made as they are needed.
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
            // There is no DNS server: Envoy shall hear so at once, and not wait for an answer.
            host.shell("ip route replace unreachable default").unwrap();
            self.hosts.push(host);
        }
        self.hosts[index].clone()
    }
}

/// Whether each of so many proxies speaks the flavour and has accepted all that it was sent.
fn in_sync(proxies: &Value, count: usize, flavour: &str) -> bool {
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

async fn accepts(what: &str, envoy: &Envoy) {
    let stats: BTreeMap<_, _> = envoy.stats().await.unwrap();
    let rejected: Vec<_> = stats
        .iter()
        .filter(|(name, count)| name.ends_with(".update_rejected") && **count > 0)
        .collect();
    assert!(rejected.is_empty(), "{what}: {rejected:?}");
    for updates in [
        "cluster_manager.cds.update_success",
        "listener_manager.lds.update_success",
    ] {
        assert!(stats[updates] > 0, "{what}: no {updates}");
    }
    assert_eq!(stats["control_plane.connected_state"], 1, "{what}");
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
        assert!(!known.is_empty(), "{} has proxies", example.display());

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
        let settled = async {
            while !in_sync(
                &control_plane.proxies().await.unwrap(),
                envoys.len(),
                flavour,
            ) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let settled = tokio::time::timeout(PATIENCE, settled).await;
        let proxies = control_plane.proxies().await.unwrap();
        assert!(settled.is_ok(), "{}: {proxies:#}", example.display());
        for (name, envoy) in &envoys {
            accepts(&format!("{} {name}", version.number()), envoy).await;
        }
    }
}

#[tokio::test]
async fn the_oldest_over_delta() {
    every_proxy_accepts_its_configuration(EnvoyVersion::Oldest, false).await;
}

#[tokio::test]
async fn the_oldest_over_state_of_the_world() {
    every_proxy_accepts_its_configuration(EnvoyVersion::Oldest, true).await;
}

#[tokio::test]
async fn the_newest_over_delta() {
    every_proxy_accepts_its_configuration(EnvoyVersion::Newest, false).await;
}

#[tokio::test]
async fn the_newest_over_state_of_the_world() {
    every_proxy_accepts_its_configuration(EnvoyVersion::Newest, true).await;
}
