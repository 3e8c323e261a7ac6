//! Every example is without errors, and every proxy in it gets what both supported Envoys accept.

#![allow(clippy::unwrap_used)] // what fails here fails a test

use std::{path::PathBuf, sync::Arc, time::Instant};

use evermesh::{
    engine::{Engine, EngineOutputs, EngineSnapshot},
    source::{ChangeBatch, SourceChange, file},
};
use evermesh_ingest::IngestSettings;
use evermesh_model::Severity;
use evermesh_proto::{ResourceType, ProxyView, json};
use evermesh_testkit::{
    envoy::{Version, validate},
    static_bootstrap::{Served, static_bootstrap},
    tools,
};
use evermesh_xds::Store;
use serde_json::Value;

#[test]
fn examples_are_without_errors_and_accepted_by_envoy() {
    let mut proxies = 0;
    for folder in examples() {
        let (store, published) = serve(&folder);
        for problem in &*published.problems {
            assert_ne!(
                problem.severity,
                Severity::Error,
                "{}: {problem}",
                folder.display()
            );
        }
        for (name, view) in store.views() {
            let served = Served {
                clusters: contents(&store, &view, ResourceType::Cluster),
                endpoints: contents(&store, &view, ResourceType::Endpoint),
                listeners: contents(&store, &view, ResourceType::Listener),
                routes: contents(&store, &view, ResourceType::Route),
                secrets: contents(&store, &view, ResourceType::Secret),
            };
            let bootstrap = static_bootstrap(&served).unwrap().to_string();
            for version in ContentVersion::ALL {
                validate(version, &bootstrap)
                    .unwrap_or_else(|error| panic!("{}: {name}: {error:#}", folder.display()));
            }
            proxies += 1;
        }
    }
    assert!(proxies > 20, "only {proxies} proxies in all examples");
}

/// The folders of manifests below `examples/`.
fn examples() -> Vec<PathBuf> {
    let root = tools::workspace().unwrap().join("examples");
    let entries = root.read_dir().unwrap().map(|entry| entry.unwrap().path());
    let mut folders: Vec<PathBuf> = entries.filter(|path| path.is_dir()).collect();
    folders.sort();
    assert!(!folders.is_empty());
    folders
}

/// What is served of a folder once Cloud Map has answered for every service, that it has no instance.
fn serve(folder: &std::path::Path) -> (Arc<Store>, Arc<EngineSnapshot>) {
    let outputs = EngineOutputs::unserved();
    let store = Arc::clone(&outputs.store);
    let services = outputs.wanted.subscribe();
    let newest = outputs.published.subscribe();
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
