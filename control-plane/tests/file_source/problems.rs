//! Files that are wrong in some way: what is reported, and which last good version stays.

use std::fs::{self, File};

use evermesh_model::{ObjectRef, Reason};
use tempfile::tempdir;

use crate::source::{FileSource, name, service, write};

#[tokio::test]
async fn invalid_object_keeps_its_last_good_version() {
    let dir = tempdir().unwrap();
    let text = |a: &str, b: &str| format!("{a}---\n{b}");
    write(
        dir.path(),
        "a.yaml",
        text(&service("a", "v1"), &service("b", "v1")),
    );
    let mut source = FileSource::start(dir.path()).await;

    let wrong = service("a", "v2").replace("spec: {", "spec: { provider: 7,");
    write(dir.path(), "a.yaml", text(&wrong, &service("b", "v2")));
    source.until_version("b", "v2").await;
    assert!(source.has("a", "v1"));
    let problem = source.problem("a.yaml").unwrap();
    assert_eq!(problem.origin.as_deref(), Some("a.yaml#1"));
    assert_eq!(problem.reason, Reason::InvalidValue);
    assert_eq!(problem.field.as_str(), "spec.provider");
    assert_eq!(
        problem.object.as_ref().map(ObjectRef::to_string),
        Some(name("a"))
    );

    // A node with a listener and without serviceDiscovery passes the CRD's schema and is rejected by App Mesh's webhooks.
    let rejected = "apiVersion: appmesh.k8s.aws/v1beta2\nkind: VirtualNode\nmetadata: { name: web, namespace: shop }\nspec:\n  listeners:\n    - portMapping: { port: 80, protocol: http }\n";
    write(dir.path(), "a.yaml", text(&service("a", "v3"), rejected));
    source.until_version("a", "v3").await;
    assert!(
        !source.objects.contains_key("VirtualNode/shop/web"),
        "{:?}",
        source.reasons()
    );

    write(
        dir.path(),
        "a.yaml",
        text(&service("a", "v3"), &service("b", "v3")),
    );
    source.until_version("b", "v3").await;
    assert_eq!(source.reasons(), []);
    source.stop().await;
}

#[tokio::test]
async fn unknown_kinds_are_ignored_and_unknown_fields_pruned() {
    let dir = tempdir().unwrap();
    let foreign = "apiVersion: apps/v1\nkind: Deployment\nmetadata: { name: a, namespace: shop }\n";
    let odd = service("a", "v1").replace("spec: {", "spec: { colour: red,");
    write(dir.path(), "a.yaml", format!("{foreign}---\n{odd}"));
    let mut source = FileSource::start(dir.path()).await;
    assert!(source.has("a", "v1"));
    assert_eq!(
        source.reasons(),
        [
            ("a.yaml#1".to_owned(), Reason::UnknownKind),
            ("a.yaml#2".to_owned(), Reason::UnknownField),
        ]
    );

    // A misspelt kind of a known API group may be the object that is missing, so the object stays. A kind of another
    // group is never that object, so the object goes.
    let misspelt = service("a", "v2").replace("VirtualService", "VirtualServis");
    write(dir.path(), "a.yaml", misspelt);
    source
        .until("the problem of the misspelt kind", |source| {
            source.reasons().len() == 1
        })
        .await;
    assert!(source.has("a", "v1"));
    write(dir.path(), "a.yaml", foreign);
    source.until_removed("a").await;
    source.stop().await;
}

#[tokio::test]
async fn unparsable_file_removes_nothing() {
    let dir = tempdir().unwrap();
    let good = format!("{}---\n{}", service("a", "v1"), service("b", "v1"));
    write(dir.path(), "a.yaml", &good);
    write(dir.path(), "z.yaml", service("z", "v1"));
    let mut source = FileSource::start(dir.path()).await;

    // The second document ends within a quoted string.
    write(
        dir.path(),
        "a.yaml",
        format!("{}---\napiVersion: \"appmesh", service("a", "v2")),
    );
    source.until_version("a", "v2").await;
    assert!(source.has("b", "v1"));
    assert_eq!(
        source.reasons(),
        [("a.yaml#2".to_owned(), Reason::InvalidYaml)]
    );

    let mut not_utf8 = good.clone().into_bytes();
    not_utf8.insert(9, 0xff);
    let garbage: Vec<u8> = (0..10_000_000_u32)
        .map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()[3])
        .collect();
    let bad: [(&str, &[u8], &str); 5] = [
        ("not UTF-8", &not_utf8, "byte 9"),
        ("10 MB of garbage", &garbage, "UTF-8"),
        ("10 MB of one letter", &vec![b'a'; 10_000_000], ""),
        ("10 MB of brackets", &vec![b'['; 10_000_000], ""),
        ("a list", b"- 1\n- 2\n", ""),
    ];
    for (index, (case, bytes, message)) in bad.into_iter().enumerate() {
        write(dir.path(), "a.yaml", bytes);
        source
            .until(case, |source| {
                let problem = source.problem("a.yaml");
                problem.is_some_and(|problem| problem.message.contains(message))
            })
            .await;
        let problem = source.problem("a.yaml").unwrap();
        assert_eq!(problem.reason, Reason::InvalidYaml, "{case}");
        assert!(problem.message.len() < 500, "{case}: {problem}");
        assert!(source.has("a", "v2") && source.has("b", "v1"), "{case}");
        // Another file is still followed.
        let version = format!("v{}", index + 2);
        write(dir.path(), "z.yaml", service("z", &version));
        source.until_version("z", &version).await;
        write(
            dir.path(),
            "a.yaml",
            format!("{}---\n{}", service("a", "v2"), service("b", "v1")),
        );
        source
            .until("the end of the problem", |source| {
                source.reasons().is_empty()
            })
            .await;
    }
    source.stop().await;
}

#[tokio::test]
async fn endless_expansion_and_huge_files_are_rejected() {
    let dir = tempdir().unwrap();
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
    let sparse = write(dir.path(), "sparse.yaml", "");
    let sparse = File::options().write(true).open(sparse).unwrap();
    sparse.set_len(1 << 40).unwrap();
    write(
        dir.path(),
        "bomb.yaml",
        format!("{bomb}---\n{}", service("a", "v1")),
    );
    write(dir.path(), "long.yaml", long);
    let source = FileSource::start(dir.path()).await;
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
async fn object_in_two_files_is_served_from_the_first() {
    let dir = tempdir().unwrap();
    write(dir.path(), "b.yaml", service("x", "b1"));
    let mut source = FileSource::start(dir.path()).await;
    write(
        dir.path(),
        "c.yaml",
        format!("# c\n---\n{}", service("x", "c1")),
    );
    source
        .until("a problem", |source| !source.problems.is_empty())
        .await;
    assert!(source.has("x", "b1"));
    assert_eq!(
        source.reasons(),
        [("c.yaml#1".to_owned(), Reason::DuplicateObject)]
    );
    let problem = source.problem("c.yaml").unwrap();
    assert!(problem.message.contains("b.yaml#1"), "{problem}");

    write(dir.path(), "a.yaml", service("x", "a1"));
    source.until_version("x", "a1").await;
    assert_eq!(
        source.reasons(),
        [
            ("b.yaml#1".to_owned(), Reason::DuplicateObject),
            ("c.yaml#1".to_owned(), Reason::DuplicateObject),
        ]
    );

    fs::remove_file(dir.path().join("a.yaml")).unwrap();
    source.until_version("x", "b1").await;
    write(
        dir.path(),
        "b.yaml",
        format!("{}---\n{}", service("x", "b2"), service("x", "b3")),
    );
    source.until_version("x", "b2").await;
    assert_eq!(
        source.reasons(),
        [
            ("b.yaml#2".to_owned(), Reason::DuplicateObject),
            ("c.yaml#1".to_owned(), Reason::DuplicateObject),
        ]
    );
    fs::remove_file(dir.path().join("b.yaml")).unwrap();
    source.until_version("x", "c1").await;
    assert_eq!(source.reasons(), []);
    assert!(!source.history.iter().any(|change| change.starts_with('-')));
    source.stop().await;
}
