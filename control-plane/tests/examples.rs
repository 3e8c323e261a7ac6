//! Every example is free of errors and warnings, and both supported Envoys accept the resources of every proxy in it.

#![allow(clippy::unwrap_used)] // a panic fails the test

use std::{net::Ipv4Addr, path::PathBuf, sync::Arc, time::Instant};

use evermesh::{
    engine::{Engine, EngineOutputs, EngineSnapshot},
    source::{ChangeBatch, SourceChange, file},
};
use evermesh_ingest::IngestSettings;
use evermesh_proto::{ProxyView, ResourceType, json};
use evermesh_testkit::{
    envoy::{EnvoyVersion, validate},
    self_signed::SelfSigned,
    static_bootstrap::{ServedResources, static_bootstrap},
    tools,
};
use evermesh_xds::Store;
use serde_json::Value;

#[test]
fn examples_have_no_errors_and_envoy_accepts_them() {
    let certificate = SelfSigned::new(Ipv4Addr::LOCALHOST.into()).unwrap();
    let mut proxies = 0;
    for folder in examples() {
        let (store, published) = serve(&folder);
        // A warning would teach a mistake, or a field that is not supported.
        let problems = &published.problems;
        assert!(problems.is_empty(), "{}: {problems:?}", folder.display());
        for (name, view) in store.views() {
            let mut served = ServedResources {
                clusters: contents(&store, &view, ResourceType::Cluster),
                endpoints: contents(&store, &view, ResourceType::Endpoint),
                listeners: contents(&store, &view, ResourceType::Listener),
                routes: contents(&store, &view, ResourceType::Route),
                secrets: Vec::new(),
            };
            served.replace_secrets(&certificate);
            let bootstrap = static_bootstrap(&served).unwrap().to_string();
            for version in EnvoyVersion::ALL {
                validate(version, &bootstrap)
                    .unwrap_or_else(|error| panic!("{}: {name}: {error:#}", folder.display()));
            }
            proxies += 1;
        }
    }
    assert!(proxies > 20, "only {proxies} proxies in all examples");
}

/// The folders below `examples/`.
fn examples() -> Vec<PathBuf> {
    let root = tools::workspace().unwrap().join("examples");
    let entries = root.read_dir().unwrap().map(|entry| entry.unwrap().path());
    let mut folders: Vec<PathBuf> = entries.filter(|path| path.is_dir()).collect();
    folders.sort();
    assert!(!folders.is_empty());
    folders
}

/// The store for the manifests of a folder, after Cloud Map has reported every service as empty.
fn serve(folder: &std::path::Path) -> (Arc<Store>, Arc<EngineSnapshot>) {
    let outputs = EngineOutputs::unserved();
    let store = Arc::clone(&outputs.store);
    let services = outputs.wanted_services.subscribe();
    let newest = outputs.snapshots.subscribe();
    let mut engine = Engine::new([], IngestSettings::default(), outputs);
    let mut step = |changes| {
        engine.step([ChangeBatch::new(Instant::now(), changes)]);
    };
    step(file::read_once(folder));
    let services = Arc::clone(&services.borrow());
    step(
        services
            .iter()
            .map(|service| SourceChange::CloudMap {
                service: service.clone(),
                state: Arc::default(),
            })
            .collect(),
    );
    let published = Arc::clone(&newest.borrow());
    assert!(
        published.waiting_for.is_empty(),
        "{:?}",
        published.waiting_for
    );
    (store, published)
}

fn contents(store: &Store, view: &ProxyView, kind: ResourceType) -> Vec<Value> {
    let keys = view.of_type(kind).iter();
    keys.map(|key| {
        let resource = store
            .get(key)
            .unwrap_or_else(|| panic!("{key:?} is not served"));
        json::encoded_to_json(kind.message_name(), &resource.body).unwrap()
    })
    .collect()
}
