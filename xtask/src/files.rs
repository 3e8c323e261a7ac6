//! The files that the checks read: those that git tracks and those that it would add.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};

/// A text file of the repository.
pub(crate) struct SourceFile {
    /// The path from the root of the repository.
    pub(crate) path: String,
    pub(crate) text: String,
}

/// The root of the repository.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Paths of the files.
///
/// # Errors
///
/// If git does not answer.
pub(crate) fn paths() -> Result<BTreeSet<String>> {
    let root = root();
    let output = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(&root)
        .output()
        .context("git ls-files")?;
    ensure!(output.status.success(), "git ls-files failed");
    let paths = std::str::from_utf8(&output.stdout)?.lines();
    let files = paths.filter(|path| root.join(path).is_file());
    Ok(files.map(str::to_owned).collect())
}

/// Files whose path ends with one of these suffixes, by path.
///
/// # Errors
///
/// If git does not answer or a file is not UTF-8.
pub(crate) fn with_suffix(suffixes: &[&str]) -> Result<Vec<SourceFile>> {
    let mut paths = paths()?;
    paths.retain(|path| suffixes.iter().any(|suffix| path.ends_with(suffix)));
    paths
        .into_iter()
        .map(|path| {
            let text = fs::read_to_string(root().join(&path)).with_context(|| path.clone())?;
            Ok(SourceFile { path, text })
        })
        .collect()
}
