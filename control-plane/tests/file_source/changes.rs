//! Reading of the folder, and the changes that are reported.

use std::{collections::BTreeSet, fs};

use evermesh::source::{SourceChange, file};
use evermesh_model::Reason;
use notify::{EventKind, RecursiveMode, Watcher, event::AccessKind};
use tempfile::tempdir;

use crate::{
    common::eventually,
    source::{FileSource, MARKER, name, service, write},
};

#[tokio::test]
async fn first_read_reports_everything_and_later_reads_report_changes() {
    let dir = tempdir().unwrap();
    write(
        dir.path(),
        "a.yaml",
        format!("{}---\n{}", service("a", "v1"), service("b", "v1")),
    );
    write(dir.path(), "deep/er/c.yml", service("c", "v1"));
    write(dir.path(), "d.json", serde_json::to_string(&serde_json::json!({
        "apiVersion": "v1", "kind": "List", "items": [
            {"apiVersion": "appmesh.k8s.aws/v1beta2", "kind": "Mesh", "metadata": {"name": "m"}, "spec": {}},
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}},
        ],
    })).unwrap());
    write(dir.path(), "README.md", "not a manifest");
    write(dir.path(), ".hidden.yaml", service("hidden", "v1"));
    let mut source = FileSource::start(dir.path()).await;
    assert_eq!(
        source.names(),
        [
            "Mesh/m",
            "Namespace/shop",
            &name("a"),
            &name("b"),
            &name("c")
        ]
    );
    assert_eq!(source.reasons(), []);

    write(
        dir.path(),
        "a.yaml",
        format!("{}---\n{}", service("a", "v1"), service("b", "v2")),
    );
    source.until_version("b", "v2").await;
    assert_eq!(
        source.history,
        [format!("+{}", name("b"))],
        "only the document that changed is reported"
    );

    write(dir.path(), "a.yaml", service("a", "v1"));
    source.until_removed("b").await;
    fs::remove_file(dir.path().join("deep/er/c.yml")).unwrap();
    source.until_removed("c").await;

    write(dir.path(), "new/folder/e.yaml", service("e", "v1"));
    source.until_version("e", "v1").await;
    write(dir.path(), "new/folder/e.yaml", service("e", "v2"));
    source.until_version("e", "v2").await;
    source.stop().await;
}

#[tokio::test]
async fn only_the_changed_file_is_read_again() {
    let dir = tempdir().unwrap();
    for number in 0..20 {
        write(
            dir.path(),
            &format!("{number}.yaml"),
            service(&format!("s{number}"), "v1"),
        );
    }
    let mut source = FileSource::start(dir.path()).await;

    // The kernel reports every file that is opened, in the order of the openings.
    let (opened, openings) = std::sync::mpsc::sync_channel(1 << 16);
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        let event = event.unwrap();
        if let EventKind::Access(AccessKind::Open(_)) = event.kind {
            opened.try_send(event.paths).unwrap();
        }
    })
    .unwrap();
    watcher
        .watch(dir.path(), RecursiveMode::NonRecursive)
        .unwrap();

    let changed = write(dir.path(), "7.yaml", service("s7", "v2"));
    source.until_version("s7", "v2").await;
    // A file with the same text as before is read and not reported.
    write(dir.path(), "7.yaml", service("s7", "v2"));
    source.reports_nothing(dir.path()).await;

    let marker = dir.path().join(MARKER.0);
    let mut opened = BTreeSet::new();
    eventually("the opening of the marker", async || {
        opened.extend(openings.try_iter().flatten());
        opened.contains(&marker)
    })
    .await;
    opened.retain(|path| path.is_file());
    assert_eq!(opened, BTreeSet::from([changed]));
    assert_eq!(source.history, [format!("+{}", name("s7"))]);
    source.stop().await;
}

#[tokio::test]
async fn change_of_one_item_in_a_large_list_reports_one_object() {
    let dir = tempdir().unwrap();
    let list = |changed: &str| {
        let items: Vec<_> = (0..1_000)
            .map(|number| {
                let version = if number == 321 { changed } else { "v1" };
                serde_json::json!({
                    "apiVersion": "appmesh.k8s.aws/v1beta2", "kind": "VirtualService",
                    "metadata": {"name": format!("s{number}"), "namespace": "shop", "annotations": {"padding": "x".repeat(1_700)}},
                    "spec": {"awsName": format!("{version}.example")},
                })
            })
            .collect();
        serde_json::to_string_pretty(
            &serde_json::json!({"apiVersion": "v1", "kind": "List", "items": items}),
        )
        .unwrap()
    };
    write(dir.path(), "list.yaml", list("v1"));
    let mut source = FileSource::start(dir.path()).await;
    assert_eq!(source.objects.len(), 1_000);
    write(dir.path(), "list.yaml", list("v2"));
    source.until_version("s321", "v2").await;
    assert_eq!(source.history, [format!("+{}", name("s321"))]);

    // The problem of an item without a name gives the item's index.
    let broken = list("v3").replacen("\"name\": \"s0\"", "\"nom\": \"s0\"", 1);
    write(dir.path(), "list.yaml", broken);
    source.until_version("s321", "v3").await;
    assert!(
        source.has("s0", "v1"),
        "the item without a name may be s0, so s0 stays"
    );
    let problem = source.problem("list.yaml").unwrap();
    assert!(problem.field.as_str().starts_with("items[0]"), "{problem}");
    source.stop().await;
}

#[tokio::test]
async fn read_once_reports_objects_and_problems() {
    let dir = tempdir().unwrap();
    write(
        dir.path(),
        "a.yaml",
        service("a", "v1").replace("spec: {", "spec: { colour: red,"),
    );
    write(dir.path(), "b.yaml", "{");
    let changes = file::read_once(dir.path());
    assert!(
        matches!(&changes[0], SourceChange::Object { origin: Some(origin), .. } if &**origin == "a.yaml#1")
    );
    let reasons = |changes: &[SourceChange]| -> Vec<_> {
        let problems = changes.iter().filter_map(|change| match change {
            SourceChange::Problems { problems, .. } => Some(problems),
            _ => None,
        });
        problems.flatten().map(|problem| problem.reason).collect()
    };
    assert_eq!(
        reasons(&changes),
        [Reason::UnknownField, Reason::InvalidYaml]
    );
    let missing = file::read_once(&dir.path().join("missing"));
    assert_eq!(reasons(&missing), [Reason::Unreadable]);
}
