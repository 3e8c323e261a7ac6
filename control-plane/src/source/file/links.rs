//! Decides which links to folders are followed, so that each folder is read once.
//!
//! ```text
//! root/base/            read
//! root/prod/base → ../../base       not followed: a folder below the root is read at its own path
//! root/prod/up   → ..               not followed: it leads back
//! root/shared    → /srv/shared      followed
//! root/again     → /srv/shared      not followed, as long as `root/shared` leads there
//! root/sub       → ..data/sub       followed: hidden folders are not read at their own path
//! ```
//!
//! Without this, two links that lead back make as many paths as there are ways through them.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use super::folder::is_hidden;

/// The folders outside of the root, or hidden, that are read, each with the link by which they are reached.
#[derive(Debug, Default)]
pub(super) struct LinkedFolders(BTreeMap<PathBuf, PathBuf>);

impl LinkedFolders {
    /// Whether the folder to which a link leads is read at the path of the link.
    pub(super) fn follows(&mut self, root: &Path, link: &Path) -> bool {
        let resolved = |path: &Path| fs::canonicalize(path).ok();
        let (Some(target), Some(root), Some(parent)) = (
            resolved(link),
            resolved(root),
            link.parent().and_then(resolved),
        ) else {
            return false;
        };
        if parent.starts_with(&target) || is_read_below(&root, &target) {
            return false;
        }
        let is_read_elsewhere = target.ancestors().any(|above| {
            let other = self.0.get(above).filter(|other| *other != link);
            other.is_some_and(|other| resolved(other).as_deref() == Some(above))
        });
        if !is_read_elsewhere && self.0.get(&target).is_none_or(|known| known != link) {
            self.0
                .retain(|target, link| resolved(link).as_ref() == Some(target));
            self.0.insert(target, link.to_owned());
        }
        !is_read_elsewhere
    }
}

fn is_read_below(root: &Path, target: &Path) -> bool {
    target
        .strip_prefix(root)
        .is_ok_and(|below| !below.iter().any(is_hidden))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use tempfile::tempdir;

    use super::*;

    #[test]
    fn each_folder_is_read_at_one_path() {
        let dir = tempdir().unwrap();
        let path = |below: &str| dir.path().join(below);
        for folder in [
            "root/base",
            "root/prod",
            "root/..data/sub",
            "srv/a",
            "srv/b",
        ] {
            fs::create_dir_all(path(folder)).unwrap();
        }
        let mut folders = LinkedFolders::default();
        let mut follows = |link: &str, target: &str| {
            let link = path(link);
            if !link.is_symlink() {
                symlink(target, &link).unwrap();
            }
            folders.follows(&path("root"), &link)
        };
        assert!(!follows("root/prod/base", "../base"));
        assert!(!follows("root/prod/up", ".."));
        assert!(!follows("root/prod/above", "../../.."));
        assert!(!follows("root/self", "."));
        assert!(follows("root/sub", "..data/sub"));
        assert!(follows("root/a", "../srv/a"));
        assert!(follows("root/a", "../srv/a"), "the same link again");
        assert!(!follows("root/again", "../srv/a"));
        assert!(!follows("root/a/back", "../a"));
        assert!(follows("root/a/b", "../b"));
        assert!(!follows("root/b", "../srv/b"));

        fs::remove_file(path("root/a")).unwrap();
        assert!(follows("root/again", "../srv/a"), "the other link is gone");
        assert!(!follows("root/missing", "../nowhere"));
    }
}
