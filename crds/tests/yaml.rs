//! The committed YAML of the definitions, in `crds/yaml` and in the Helm chart, equals the definitions of the types.
//!
//! `UPDATE_CRDS=1 cargo test -p evermesh-crds --test yaml` writes both copies.
#![allow(clippy::unwrap_used)] // a test may panic, and so may its helpers

use std::{collections::BTreeSet, fs, path::Path};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;

#[test]
fn committed_yaml_is_current() {
    assert_current("yaml");
}

/// The chart contains a copy, because Helm does not package symbolic links.
#[test]
fn yaml_of_the_chart_is_current() {
    assert_current("../deploy/chart/evermesh/crds");
}

fn assert_current(folder: &str) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let update = std::env::var_os("UPDATE_CRDS").is_some();
    let mut expected = BTreeSet::new();
    for definition in evermesh_crds::all() {
        let file = format!("{}.yaml", definition.metadata.name.as_ref().unwrap());
        let path = folder.join(&file);
        let yaml = evermesh_crds::to_yaml(&definition).unwrap();
        if update {
            fs::write(&path, &yaml).unwrap();
        }
        let committed = fs::read_to_string(&path).unwrap_or_default();
        assert!(
            committed == yaml,
            "{} does not equal the definition of the type; run `UPDATE_CRDS=1 cargo test -p evermesh-crds --test yaml`",
            path.display()
        );
        expected.insert(file);
    }
    let found: BTreeSet<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(found, expected);
}

#[test]
fn yaml_reads_back_as_the_definition() {
    for definition in evermesh_crds::all() {
        let yaml = evermesh_crds::to_yaml(&definition).unwrap();
        let read: CustomResourceDefinition = serde_saphyr::from_str(&yaml).unwrap();
        assert_eq!(read, definition);
    }
}
