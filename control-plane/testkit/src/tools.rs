//! Paths of the workspace and of the programs that tests start.

use std::{
    env, fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Result, bail};
use tempfile::TempDir;

/// The root of the workspace.
pub fn workspace() -> Result<PathBuf> {
    Ok(Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()?)
}

/// A program that the scripts installed below `target/tools`.
pub fn installed(path: &str) -> Result<PathBuf> {
    let program = workspace()?.join("target/tools").join(path);
    if !program.exists() {
        bail!(
            "{} is missing: run scripts/setup, scripts/spire for SPIRE, or scripts/kubernetes cluster for the programs that run pods",
            program.display()
        );
    }
    Ok(program)
}

/// A binary of this workspace, from the target folder of the running program.
pub fn built(name: &str) -> Result<PathBuf> {
    let this = env::current_exe()?;
    // Tests are in `target/<profile>/deps`, binaries in `target/<profile>`.
    let found = this
        .ancestors()
        .skip(1)
        .take(2)
        .map(|folder| folder.join(name))
        .find(|program| program.exists());
    let Some(program) = found else {
        bail!(
            "{name} was not built next to {}: run cargo build --workspace --bins",
            this.display()
        );
    };
    Ok(program)
}

/// A folder for sockets, logs and configuration, which is removed when the handle is dropped.
///
/// Every user may write to it, because Envoy may run as another user.
/// A call also removes the folders of processes that were killed.
pub fn scratch(what: &str) -> Result<TempDir> {
    const PREFIX: &str = "evermesh-";
    for entry in fs::read_dir(env::temp_dir())?.filter_map(Result::ok) {
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner = name
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.split('-').nth(1)?.parse::<u32>().ok());
        if owner.is_some_and(|pid| !is_alive(pid)) {
            // Fails if another process removes the folder too, or if it belongs to another user.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
    let dir = tempfile::Builder::new()
        .prefix(&format!("{PREFIX}{what}-{}-", std::process::id()))
        .tempdir()?;
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777))?;
    Ok(dir)
}

/// Whether a process with this id runs. A zombie does not count: its command line is empty.
pub fn is_alive(pid: u32) -> bool {
    fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|words| !words.is_empty())
}
