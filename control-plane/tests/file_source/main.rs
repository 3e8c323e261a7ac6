//! The folder of manifests over real files: what is told, what stays, and what is wrong.
#![allow(clippy::unwrap_used)] // what fails here fails a test

mod running;

use std::{
    fs::{self, File},
    io::Write,
    os::unix::fs::symlink,
    time::{Duration, Instant},
};

use evermesh::source::{Change, file};
use evermesh_model::{ObjectRef, Reason};
use notify::{EventKind, RecursiveMode, Watcher, event::AccessKind};
use running::{AT_ONCE, Source, folder, has, name, service, write};

#[tokio::test]
async fn tells_everything_once_and_then_each_change() {
    let dir = folder();
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
    let mut source = Source::start(dir.path()).await;
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
    source
        .until("changed", |source| has(source, "b", "v2"))
        .await;
    assert_eq!(
        source.history,
        [format!("+{}", name("b"))],
        "only what changed is told"
    );

    write(dir.path(), "a.yaml", service("a", "v1"));
    source
        .until("removed", |source| !has(source, "b", "v2"))
        .await;
    fs::remove_file(dir.path().join("deep/er/c.yml")).unwrap();
    source
        .until("removed", |source| !has(source, "c", "v1"))
        .await;

    write(dir.path(), "new/folder/e.yaml", service("e", "v1"));
    source.until("found", |source| has(source, "e", "v1")).await;
    write(dir.path(), "new/folder/e.yaml", service("e", "v2"));
    source
        .until("watched", |source| has(source, "e", "v2"))
        .await;
    source.stop().await;
}

#[tokio::test]
async fn reads_only_what_changed() {
    let dir = folder();
    for number in 0..20 {
        write(
            dir.path(),
            &format!("{number}.yaml"),
            service(&format!("s{number}"), "v1"),
        );
    }
    let mut source = Source::start(dir.path()).await;

    // The kernel counts for us which files are opened to be read.
    let (opened, openings) = std::sync::mpsc::channel();
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        let event = event.unwrap();
        if let EventKind::Access(AccessKind::Open(_)) = event.kind {
            opened.send(event.paths).unwrap();
        }
    })
    .unwrap();
    watcher
        .watch(dir.path(), RecursiveMode::NonRecursive)
        .unwrap();

    let changed = write(dir.path(), "7.yaml", service("s7", "v2"));
    source
        .until("changed", |source| has(source, "s7", "v2"))
        .await;
    // The same text again is read, and not told.
    write(dir.path(), "7.yaml", service("s7", "v2"));
    source.is_silent().await;
    let files: Vec<_> = openings
        .try_iter()
        .flatten()
        .filter(|path| path.is_file())
        .collect();
    assert!(files.iter().all(|path| *path == changed), "{files:?}");
    assert!(2 <= files.len(), "the watch of this test works");
    assert_eq!(source.history, [format!("+{}", name("s7"))]);
    source.stop().await;
}

#[tokio::test]
async fn an_invalid_object_keeps_its_last_good_version() {
    let dir = folder();
    let text = |a: &str, b: &str| format!("{a}---\n{b}");
    write(
        dir.path(),
        "a.yaml",
        text(&service("a", "v1"), &service("b", "v1")),
    );
    let mut source = Source::start(dir.path()).await;

    let wrong = service("a", "v2").replace("spec: {", "spec: { provider: 7,");
    write(dir.path(), "a.yaml", text(&wrong, &service("b", "v2")));
    source
        .until("updated", |source| has(source, "b", "v2"))
        .await;
    assert!(has(&source, "a", "v1"));
    let problem = source.problem("a.yaml").unwrap();
    assert_eq!(problem.origin.as_deref(), Some("a.yaml#1"));
    assert_eq!(problem.reason, Reason::InvalidValue);
    assert_eq!(problem.field.as_str(), "spec.provider");
    assert_eq!(
        problem.object.as_ref().map(ObjectRef::to_string),
        Some(name("a"))
    );

    // What only the old webhooks refused is refused as well.
    let refused = "apiVersion: appmesh.k8s.aws/v1beta2\nkind: VirtualNode\nmetadata: { name: n, namespace: shop }\nspec:\n  listeners:\n    - portMapping: { port: 80, protocol: http }\n    - portMapping: { port: 80, protocol: tcp }\n  serviceDiscovery: { dns: { hostname: h } }\n";
    write(dir.path(), "a.yaml", text(&service("a", "v3"), refused));
    source
        .until("mended", |source| has(source, "a", "v3"))
        .await;
    assert!(
        !source.objects.contains_key("VirtualNode/shop/n"),
        "{:?}",
        source.reasons()
    );

    write(
        dir.path(),
        "a.yaml",
        text(&service("a", "v3"), &service("b", "v3")),
    );
    source
        .until("mended", |source| has(source, "b", "v3"))
        .await;
    assert_eq!(source.reasons(), []);
    source.stop().await;
}

#[tokio::test]
async fn unknown_kinds_are_left_out_and_unknown_fields_pruned() {
    let dir = folder();
    let foreign = "apiVersion: apps/v1\nkind: Deployment\nmetadata: { name: a, namespace: shop }\n";
    let odd = service("a", "v1").replace("spec: {", "spec: { colour: red,");
    write(dir.path(), "a.yaml", format!("{foreign}---\n{odd}"));
    let mut source = Source::start(dir.path()).await;
    assert!(has(&source, "a", "v1"));
    assert_eq!(
        source.reasons(),
        [
            ("a.yaml#1".to_owned(), Reason::UnknownKind),
            ("a.yaml#2".to_owned(), Reason::UnknownField),
        ]
    );

    // A foreign kind says nothing about ours; a misspelt one of ours may be the one that is missing.
    let misspelt = service("a", "v2").replace("VirtualService", "VirtualServis");
    write(dir.path(), "a.yaml", misspelt);
    source
        .until("noticed", |source| source.reasons().len() == 1)
        .await;
    assert!(has(&source, "a", "v1"));
    write(dir.path(), "a.yaml", foreign);
    source
        .until("removed", |source| !has(source, "a", "v1"))
        .await;
    source.stop().await;
}

#[tokio::test]
async fn what_does_not_parse_takes_nothing_away() {
    let dir = folder();
    let good = format!("{}---\n{}", service("a", "v1"), service("b", "v1"));
    write(dir.path(), "a.yaml", &good);
    write(dir.path(), "z.yaml", service("z", "v1"));
    let mut source = Source::start(dir.path()).await;

    // Half of a file: the second document is cut off in a quoted text.
    write(
        dir.path(),
        "a.yaml",
        format!("{}---\napiVersion: \"appmesh", service("a", "v2")),
    );
    source
        .until("updated", |source| has(source, "a", "v2"))
        .await;
    assert!(has(&source, "b", "v1"));
    assert_eq!(
        source.reasons(),
        [("a.yaml#2".to_owned(), Reason::InvalidYaml)]
    );

    let mut not_utf8 = good.clone().into_bytes();
    not_utf8.insert(9, 0xff);
    let garbage: Vec<u8> = (0..10_000_000_u32)
        .map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()[3])
        .collect();
    let bad: [(&str, &[u8], Reason, &str); 5] = [
        ("not UTF-8", &not_utf8, Reason::InvalidYaml, "byte 9"),
        ("10 MB of garbage", &garbage, Reason::InvalidYaml, "UTF-8"),
        (
            "10 MB of a letter",
            &vec![b'a'; 10_000_000],
            Reason::InvalidYaml,
            "",
        ),
        (
            "10 MB of brackets",
            &vec![b'['; 10_000_000],
            Reason::InvalidYaml,
            "",
        ),
        ("a list", b"- 1\n- 2\n", Reason::InvalidYaml, ""),
    ];
    for (what, bytes, reason, words) in bad {
        let begin = Instant::now();
        write(dir.path(), "a.yaml", bytes);
        let is_noticed = |source: &Source| {
            source
                .problem("a.yaml")
                .is_some_and(|problem| problem.message.contains(words))
        };
        source.until(what, is_noticed).await;
        println!(
            "{what}: {:?}: {}",
            begin.elapsed(),
            source.problem("a.yaml").unwrap()
        );
        assert_eq!(source.problem("a.yaml").unwrap().reason, reason, "{what}");
        assert!(has(&source, "a", "v2") && has(&source, "b", "v1"), "{what}");
        assert!(
            source.problem("a.yaml").unwrap().message.len() < 500,
            "{what}"
        );
        // Others are served meanwhile.
        let version = format!("z{}", words.len() + bytes.len());
        write(dir.path(), "z.yaml", service("z", &version));
        source
            .until("updated", |source| has(source, "z", &version))
            .await;
        write(
            dir.path(),
            "a.yaml",
            format!("{}---\n{}", service("a", "v2"), service("b", "v1")),
        );
        source
            .until("mended", |source| source.reasons().is_empty())
            .await;
    }
    source.stop().await;
}

#[tokio::test]
async fn what_expands_without_end_is_refused() {
    let dir = folder();
    let levels = (1..12).map(|level| {
        let above = format!("*a{}, ", level - 1).repeat(10);
        format!("a{level}: &a{level} [{above}]\n")
    });
    let bomb = format!(
        "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n{}",
        levels.collect::<String>()
    );
    let long = format!(
        "a: &a \"{}\"\nb: [{}]\n",
        "x".repeat(1_000_000),
        "*a, ".repeat(5_000)
    );
    let file = write(dir.path(), "sparse.yaml", "");
    File::options()
        .write(true)
        .open(file)
        .unwrap()
        .set_len(1 << 40)
        .unwrap();
    write(
        dir.path(),
        "bomb.yaml",
        format!("{bomb}---\n{}", service("a", "v1")),
    );
    write(dir.path(), "long.yaml", long);
    let begin = Instant::now();
    let source = Source::start(dir.path()).await;
    println!(
        "refused within {:?}: {:?}",
        begin.elapsed(),
        source.problems
    );
    assert_eq!(
        source.reasons(),
        [
            ("bomb.yaml#1".to_owned(), Reason::TooLarge),
            ("long.yaml#1".to_owned(), Reason::TooLarge),
            ("sparse.yaml".to_owned(), Reason::TooLarge),
        ]
    );
    assert_eq!(source.names(), [name("a")]);
    source.stop().await;
}

#[tokio::test]
async fn a_file_that_is_being_written_is_waited_for() {
    let dir = folder();
    write(dir.path(), "a.yaml", service("a", "v1"));
    let mut source = Source::start(dir.path()).await;

    // Truncated and not yet closed: an empty file would hold nothing.
    let mut file = File::create(dir.path().join("a.yaml")).unwrap();
    for _ in 0..10 {
        tokio::time::sleep(Duration::from_millis(40)).await;
        file.write_all(b"# still writing\n").unwrap();
    }
    file.write_all(service("a", "v2").as_bytes()).unwrap();
    drop(file);
    source
        .until("written", |source| has(source, "a", "v2"))
        .await;
    assert_eq!(source.history, [format!("+{}", name("a"))], "it never went");

    // A writer that never closes is read when it pauses.
    let mut file = File::options()
        .append(true)
        .open(dir.path().join("a.yaml"))
        .unwrap();
    write!(file, "---\n{}", service("b", "v1")).unwrap();
    source.until("read", |source| has(source, "b", "v1")).await;
    drop(file);
    source.stop().await;
}

#[tokio::test]
async fn renames_and_rewrites_never_take_an_object_away() {
    let dir = folder();
    write(dir.path(), "a.yaml", service("a", "v1"));
    let mut source = Source::start(dir.path()).await;

    // A temporary file renamed over it.
    write(dir.path(), ".a.yaml.tmp", service("a", "v2"));
    fs::rename(dir.path().join(".a.yaml.tmp"), dir.path().join("a.yaml")).unwrap();
    source
        .until("renamed over", |source| has(source, "a", "v2"))
        .await;
    // Moved to a backup and written anew, as vim does.
    fs::rename(dir.path().join("a.yaml"), dir.path().join("a.yaml~")).unwrap();
    write(dir.path(), "a.yaml", service("a", "v3"));
    source
        .until("written anew", |source| has(source, "a", "v3"))
        .await;
    // Removed and written anew, as git does.
    fs::remove_file(dir.path().join("a.yaml")).unwrap();
    write(dir.path(), "a.yaml", service("a", "v4"));
    source
        .until("written anew", |source| has(source, "a", "v4"))
        .await;
    assert_eq!(source.history, vec![format!("+{}", name("a")); 3]);

    // Another name for the same manifest, and another folder for it.
    write(dir.path(), "sub/c.yaml", service("c", "v1"));
    source
        .until("watched", |source| has(source, "c", "v1"))
        .await;
    for (from, to, origin) in [
        ("a.yaml", "b.yaml", "b.yaml#1"),
        ("b.yaml", "sub/b.yaml", "sub/b.yaml#1"),
        ("sub", "other", "other/b.yaml#1"),
    ] {
        fs::rename(dir.path().join(from), dir.path().join(to)).unwrap();
        // The new place may be seen before the end of the old one: for a moment the object is there twice.
        source
            .until(origin, |source| {
                *source.origins[&name("a")] == *origin && source.reasons().is_empty()
            })
            .await;
        source.is_silent().await;
    }
    assert!(source.history.iter().all(|change| change.starts_with('+')));
    write(dir.path(), "other/b.yaml", service("a", "v5"));
    source
        .until("followed", |source| has(source, "a", "v5"))
        .await;
    fs::rename(dir.path().join("other"), dir.path().join(".gone")).unwrap();
    source
        .until("removed", |source| source.objects.is_empty())
        .await;
    source.stop().await;
}

#[tokio::test]
async fn a_config_map_is_swapped_at_once() {
    let dir = folder();
    let root = dir.path();
    let version = |stamp: &str, version: &str| {
        write(root, &format!("..{stamp}/a.yaml"), service("a", version));
        write(root, &format!("..{stamp}/b.yaml"), service("b", version));
        symlink(format!("..{stamp}"), root.join("..data_tmp")).unwrap();
        fs::rename(root.join("..data_tmp"), root.join("..data")).unwrap();
    };
    version("1", "v1");
    symlink("..data/a.yaml", root.join("a.yaml")).unwrap();
    symlink("..data/b.yaml", root.join("b.yaml")).unwrap();
    let mut source = Source::start(root).await;
    assert_eq!(source.names(), [name("a"), name("b")]);
    assert_eq!(source.reasons(), [], "nothing is read twice");

    version("2", "v2");
    let begin = Instant::now();
    source.next().await;
    println!("swapped within {:?}", begin.elapsed());
    assert!(begin.elapsed() < AT_ONCE);
    assert!(
        has(&source, "a", "v2") && has(&source, "b", "v2"),
        "both in one batch"
    );
    fs::remove_dir_all(root.join("..1")).unwrap();
    source.is_silent().await;
    source.stop().await;
}

#[tokio::test]
async fn a_link_to_the_folder_may_be_swapped() {
    let dir = folder();
    write(dir.path(), "one/a.yaml", service("a", "v1"));
    write(dir.path(), "two/a.yaml", service("a", "v2"));
    let current = dir.path().join("current");
    symlink("one", &current).unwrap();
    let mut source = Source::start(&current).await;
    let begin = Instant::now();
    symlink("two", dir.path().join("next")).unwrap();
    fs::rename(dir.path().join("next"), &current).unwrap();
    source
        .until("swapped", |source| has(source, "a", "v2"))
        .await;
    assert!(begin.elapsed() < AT_ONCE);
    fs::remove_dir_all(dir.path().join("one")).unwrap();
    write(dir.path(), "two/a.yaml", service("a", "v3"));
    source
        .until("followed", |source| has(source, "a", "v3"))
        .await;
    source.stop().await;
}

#[tokio::test]
async fn a_folder_that_vanishes_takes_nothing_away() {
    let dir = folder();
    let root = dir.path().join("mesh");
    let mut source = Source::spawn(&root);
    source
        .until("noticed", |source| source.problems.len() == 1)
        .await;
    assert_eq!(
        source.problems.values().flatten().next().unwrap().reason,
        Reason::Unreadable
    );
    assert!(!source.is_synced, "an absent folder is not an empty mesh");

    write(
        &root,
        "a.yaml",
        format!("{}---\n{}", service("a", "v1"), service("b", "v1")),
    );
    source
        .until("found", |source| source.is_synced && has(source, "b", "v1"))
        .await;
    assert_eq!(source.reasons(), []);
    source.history.clear();

    fs::remove_dir_all(&root).unwrap();
    source
        .until("noticed", |source| source.problems.len() == 1)
        .await;
    source.is_silent().await;
    assert!(has(&source, "a", "v1"));

    fs::create_dir(&root).unwrap();
    source
        .until("recovered", |source| source.problems.is_empty())
        .await;
    write(&root, "a.yaml", service("a", "v2"));
    source
        .until("followed", |source| has(source, "a", "v2"))
        .await;
    assert!(
        !source.history.contains(&format!("-{}", name("a"))),
        "{:?}",
        source.history
    );
    source
        .until("removed", |source| !has(source, "b", "v1"))
        .await;

    // It stays away for good, object by object, only if it comes back without them.
    fs::remove_dir_all(&root).unwrap();
    source
        .until("noticed", |source| source.problems.len() == 1)
        .await;
    fs::create_dir(&root).unwrap();
    source
        .until("removed", |source| source.objects.is_empty())
        .await;
    source.stop().await;
}

#[tokio::test]
async fn the_first_of_two_files_counts() {
    let dir = folder();
    write(dir.path(), "b.yaml", service("x", "b1"));
    let mut source = Source::start(dir.path()).await;
    write(
        dir.path(),
        "c.yaml",
        format!("# c\n---\n{}", service("x", "c1")),
    );
    source
        .until("noticed", |source| !source.problems.is_empty())
        .await;
    assert!(has(&source, "x", "b1"));
    assert_eq!(
        source.reasons(),
        [("c.yaml#1".to_owned(), Reason::DuplicateObject)]
    );
    assert!(
        source
            .problem("c.yaml")
            .unwrap()
            .message
            .contains("b.yaml#1")
    );

    write(dir.path(), "a.yaml", service("x", "a1"));
    source
        .until("taken over", |source| has(source, "x", "a1"))
        .await;
    assert_eq!(
        source.reasons(),
        [
            ("b.yaml#1".to_owned(), Reason::DuplicateObject),
            ("c.yaml#1".to_owned(), Reason::DuplicateObject),
        ]
    );

    fs::remove_file(dir.path().join("a.yaml")).unwrap();
    source
        .until("handed over", |source| has(source, "x", "b1"))
        .await;
    write(
        dir.path(),
        "b.yaml",
        format!("{}---\n{}", service("x", "b2"), service("x", "b3")),
    );
    source
        .until("updated", |source| has(source, "x", "b2"))
        .await;
    assert_eq!(
        source.reasons(),
        [
            ("b.yaml#2".to_owned(), Reason::DuplicateObject),
            ("c.yaml#1".to_owned(), Reason::DuplicateObject),
        ]
    );
    fs::remove_file(dir.path().join("b.yaml")).unwrap();
    source
        .until("handed over", |source| has(source, "x", "c1"))
        .await;
    assert_eq!(source.reasons(), []);
    assert!(!source.history.iter().any(|change| change.starts_with('-')));
    source.stop().await;
}

#[tokio::test]
async fn a_dump_tells_the_object_that_changed() {
    let dir = folder();
    let dump = |changed: &str| {
        let items: Vec<_> = (0..5_000)
            .map(|number| {
                let version = if number == 4_321 { changed } else { "v1" };
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
    write(dir.path(), "dump.yaml", dump("v1"));
    let begin = Instant::now();
    let mut source = Source::start(dir.path()).await;
    println!("first read of a dump: {:?}", begin.elapsed());
    assert_eq!(source.objects.len(), 5_000);
    write(dir.path(), "dump.yaml", dump("v2"));
    let begin = Instant::now();
    source
        .until("changed", |source| has(source, "s4321", "v2"))
        .await;
    println!("one change in it: {:?}", begin.elapsed());
    assert_eq!(source.history, [format!("+{}", name("s4321"))]);

    // An item without a name is told by its place.
    let broken = dump("v3").replacen("\"name\": \"s0\"", "\"nom\": \"s0\"", 1);
    write(dir.path(), "dump.yaml", broken);
    source
        .until("changed", |source| has(source, "s4321", "v3"))
        .await;
    assert!(
        has(&source, "s0", "v1"),
        "it may be the one that is missing"
    );
    let problem = source.problem("dump.yaml").unwrap();
    assert!(problem.field.as_str().starts_with("items[0]"), "{problem}");
    source.stop().await;
}

#[tokio::test]
async fn a_change_is_told_within_milliseconds() {
    let dir = folder();
    for number in 0..3_000 {
        write(
            dir.path(),
            &format!("{}/{number}.yaml", number % 50),
            service(&format!("s{number}"), "v0"),
        );
    }
    let begin = Instant::now();
    let mut source = Source::start(dir.path()).await;
    println!("first read of 3000 files: {:?}", begin.elapsed());
    let mut latencies = Vec::new();
    for round in 1..=100 {
        let version = format!("v{round}");
        let text = service("s7", &version);
        let begin = Instant::now();
        write(dir.path(), "7/7.yaml", text);
        let noticed = source.next().await;
        latencies.push((begin.elapsed(), noticed.saturating_duration_since(begin)));
        assert!(has(&source, "s7", &version));
    }
    latencies.sort();
    let (median, slowest) = (latencies[50], latencies[99]);
    println!(
        "from before the write to the engine, and to being noticed: median {median:?}, slowest {slowest:?}"
    );
    assert!(median.0 < Duration::from_millis(20), "{median:?}");
    source.stop().await;
}

#[tokio::test]
async fn reads_once_as_it_would_serve() {
    let dir = folder();
    write(
        dir.path(),
        "a.yaml",
        service("a", "v1").replace("spec: {", "spec: { colour: red,"),
    );
    write(dir.path(), "b.yaml", "{");
    let changes = file::read_once(dir.path());
    assert!(
        matches!(&changes[0], Change::Object { origin: Some(origin), .. } if &**origin == "a.yaml#1")
    );
    let reasons = |changes: &[Change]| -> Vec<_> {
        let problems = changes.iter().filter_map(|change| match change {
            Change::Problems { problems, .. } => Some(problems),
            _ => None,
        });
        problems.flatten().map(|problem| problem.reason).collect()
    };
    assert_eq!(
        reasons(&changes),
        [Reason::UnknownField, Reason::InvalidYaml]
    );
    let nowhere = file::read_once(&dir.path().join("nowhere"));
    assert_eq!(reasons(&nowhere), [Reason::Unreadable]);
}
