//! Files and folders that are replaced by editors, tools and the kubelet: no object is removed in between.

use std::{
    fs,
    io::Write,
    os::unix::fs::{PermissionsExt, symlink},
    time::{Duration, Instant},
};

use evermesh_model::Reason;
use tempfile::tempdir;

use crate::source::{FileSource, name, service, write};

/// Time between two sweeps, with which the source finds changes that the kernel did not report. Same as in the source.
const SWEEP: Duration = Duration::from_secs(5);

/// Number of replacements. At least one of them has to be noticed sooner than a sweep would notice it, so that a slow
/// machine does not fail the test.
const SWAPS: u32 = 5;

#[tokio::test]
async fn last_version_is_served_until_the_writer_closes_the_file() {
    let dir = tempdir().unwrap();
    let text = |version: &str| format!("{}---\n{}", service("a", version), service("b", version));
    let path = write(dir.path(), "a.yaml", text("v1"));
    let mut source = FileSource::start(dir.path()).await;

    // Each part of the new text parses: first the empty file, then a file without `b`.
    let mut writer = fs::File::create(&path).unwrap();
    source.reports_nothing(dir.path()).await;
    let second = text("v2");
    let half = second.find("---").unwrap();
    writer.write_all(&second.as_bytes()[..half]).unwrap();
    writer
        .set_permissions(fs::Permissions::from_mode(0o640))
        .unwrap();
    source.reports_nothing(dir.path()).await;
    writer.write_all(&second.as_bytes()[half..]).unwrap();
    drop(writer);
    source.until_version("b", "v2").await;
    assert_eq!(
        source.history,
        [format!("+{}", name("a")), format!("+{}", name("b"))]
    );
    source.history.clear();

    // The same for a file that was removed first, as some editors and tools do.
    fs::remove_file(&path).unwrap();
    let mut writer = fs::File::create(&path).unwrap();
    source.reports_nothing(dir.path()).await;
    writer.write_all(text("v3").as_bytes()).unwrap();
    source.reports_nothing(dir.path()).await;
    drop(writer);
    source.until_version("b", "v3").await;

    // A file that is removed while it is written is gone, whatever its writer does.
    let writer = fs::File::create(&path).unwrap();
    fs::remove_file(&path).unwrap();
    source.until_removed("a").await;
    drop(writer);
    source.stop().await;
}

#[tokio::test]
async fn renames_and_rewrites_remove_no_object() {
    let dir = tempdir().unwrap();
    write(dir.path(), "a.yaml", service("a", "v1"));
    let mut source = FileSource::start(dir.path()).await;

    // A temporary file is renamed over the old one.
    write(dir.path(), ".a.yaml.tmp", service("a", "v2"));
    fs::rename(dir.path().join(".a.yaml.tmp"), dir.path().join("a.yaml")).unwrap();
    source.until_version("a", "v2").await;
    // vim moves the old file to a backup and writes a new one.
    fs::rename(dir.path().join("a.yaml"), dir.path().join("a.yaml~")).unwrap();
    write(dir.path(), "a.yaml", service("a", "v3"));
    source.until_version("a", "v3").await;
    // git removes the old file and writes a new one.
    fs::remove_file(dir.path().join("a.yaml")).unwrap();
    write(dir.path(), "a.yaml", service("a", "v4"));
    source.until_version("a", "v4").await;
    assert_eq!(source.history, vec![format!("+{}", name("a")); 3]);

    // The file gets another name, then another folder, and then the folder gets another name.
    write(dir.path(), "sub/c.yaml", service("c", "v1"));
    source.until_version("c", "v1").await;
    for (from, to, origin) in [
        ("a.yaml", "b.yaml", "b.yaml#1"),
        ("b.yaml", "sub/b.yaml", "sub/b.yaml#1"),
        ("sub", "other", "other/b.yaml#1"),
    ] {
        fs::rename(dir.path().join(from), dir.path().join(to)).unwrap();
        // The source may read the new file before it learns that the old one is gone, and then reports a duplicate.
        source
            .until(origin, |source| {
                *source.origins[&name("a")] == *origin && source.reasons().is_empty()
            })
            .await;
        source.reports_nothing(dir.path()).await;
    }
    assert!(source.history.iter().all(|change| change.starts_with('+')));
    write(dir.path(), "other/b.yaml", service("a", "v5"));
    source.until_version("a", "v5").await;
    fs::rename(dir.path().join("other"), dir.path().join(".gone")).unwrap();
    source
        .until("the removal of all objects", |source| {
            source.objects.is_empty()
        })
        .await;
    source.stop().await;
}

#[tokio::test]
async fn config_map_swap_is_one_batch() {
    let dir = tempdir().unwrap();
    let root = dir.path();
    // The kubelet writes a new folder and then swaps the link `..data`.
    let swap = |stamp: u32| {
        let version = format!("v{stamp}");
        write(root, &format!("..{stamp}/a.yaml"), service("a", &version));
        write(root, &format!("..{stamp}/b.yaml"), service("b", &version));
        symlink(format!("..{stamp}"), root.join("..data_tmp")).unwrap();
        fs::rename(root.join("..data_tmp"), root.join("..data")).unwrap();
    };
    swap(0);
    symlink("..data/a.yaml", root.join("a.yaml")).unwrap();
    symlink("..data/b.yaml", root.join("b.yaml")).unwrap();
    let mut source = FileSource::start(root).await;
    assert_eq!(source.names(), [name("a"), name("b")]);
    assert_eq!(source.reasons(), [], "no object is read twice");

    let mut fastest = Duration::MAX;
    for stamp in 1..=SWAPS {
        let start = Instant::now();
        swap(stamp);
        source.next().await;
        fastest = fastest.min(start.elapsed());
        let version = format!("v{stamp}");
        assert!(source.has("a", &version) && source.has("b", &version));
    }
    assert!(fastest < SWEEP / 2, "only a sweep noticed: {fastest:?}");
    fs::remove_dir_all(root.join("..1")).unwrap();
    source.reports_nothing(root).await;
    source.stop().await;
}

#[tokio::test]
async fn swapped_link_to_the_folder_is_followed() {
    let dir = tempdir().unwrap();
    let current = dir.path().join("current");
    let folder = |number: u32| dir.path().join(number.to_string());
    for number in 0..=SWAPS {
        write(
            &folder(number),
            "a.yaml",
            service("a", &format!("v{number}")),
        );
    }
    symlink(folder(0), &current).unwrap();
    let mut source = FileSource::start(&current).await;
    let mut fastest = Duration::MAX;
    for number in 1..=SWAPS {
        let start = Instant::now();
        symlink(folder(number), dir.path().join("next")).unwrap();
        fs::rename(dir.path().join("next"), &current).unwrap();
        source.until_version("a", &format!("v{number}")).await;
        fastest = fastest.min(start.elapsed());
        fs::remove_dir_all(folder(number - 1)).unwrap();
    }
    assert!(fastest < SWEEP / 2, "only a sweep noticed: {fastest:?}");
    write(&folder(SWAPS), "a.yaml", service("a", "last"));
    source.until_version("a", "last").await;
    source.stop().await;
}

#[tokio::test]
async fn missing_folder_removes_nothing() {
    let dir = tempdir().unwrap();
    let root = dir.path().join("mesh");
    let mut source = FileSource::spawn(&root);
    source
        .until("a problem", |source| source.problems.len() == 1)
        .await;
    assert_eq!(
        source.problems.values().flatten().next().unwrap().reason,
        Reason::Unreadable
    );
    assert!(!source.is_synced, "a missing folder is not an empty mesh");

    write(
        &root,
        "a.yaml",
        format!("{}---\n{}", service("a", "v1"), service("b", "v1")),
    );
    source
        .until("the first full read", |source| {
            source.is_synced && source.has("b", "v1")
        })
        .await;
    assert_eq!(source.reasons(), []);
    source.history.clear();

    fs::remove_dir_all(&root).unwrap();
    source
        .until("a problem", |source| source.problems.len() == 1)
        .await;
    fs::create_dir(&root).unwrap();
    source
        .until("the end of the problem", |source| {
            source.problems.is_empty()
        })
        .await;
    // `b` is not in the folder that came back.
    write(&root, "a.yaml", service("a", "v2"));
    source.until_removed("b").await;
    assert!(source.has("a", "v2"));
    let expected = [format!("+{}", name("a")), format!("-{}", name("b"))];
    assert_eq!(source.history, expected, "`a` was never removed");

    // A folder that comes back empty removes what it held.
    fs::remove_dir_all(&root).unwrap();
    source
        .until("a problem", |source| source.problems.len() == 1)
        .await;
    fs::create_dir(&root).unwrap();
    source.until_removed("a").await;
    source.stop().await;
}
