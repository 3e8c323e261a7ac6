//! Where the programs lie that the tests start.

use std::{
    env, fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Result, bail};
use tempfile::TempDir;

/// The root of the workspace, where `Cargo.lock` and `examples/` are.
pub fn workspace() -> Result<PathBuf> {
    Ok(Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()?)
}

/// A program that `scripts/setup` installed below `target/tools`.
pub fn installed(path: &str) -> Result<PathBuf> {
    let program = workspace()?.join("target/tools").join(path);
    if !program.exists() {
        bail!(
            "{} is missing: run scripts/setup (make test does), or scripts/kubernetes cluster for what runs pods",
            program.display()
        );
    }
    Ok(program)
}

/// A binary of this workspace, as built next to the running program.
pub fn built(name: &str) -> Result<PathBuf> {
    let this = env::current_exe()?;
    // Tests lie in `target/<profile>/deps`, binaries in `target/<profile>`.
    let found = this
        .ancestors()
        .skip(1)
        .take(2)
        .map(|folder| folder.join(name))
        .find(|program| program.exists());
    let Some(program) = found else {
        bail!(
            "{name} is not built next to {}: run cargo build --workspace --bins",
            this.display()
        );
    };
    Ok(program)
}

/// A folder for sockets, logs and configuration, gone when it is dropped.
///
/// Anybody may write to it: Envoy runs as a user of its own.
/// The folders of processes that were killed are removed by the next one.
pub fn scratch(what: &str) -> Result<TempDir> {
    const PREFIX: &str = "evermesh-";
    for entry in fs::read_dir(env::temp_dir())?.filter_map(Result::ok) {
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner = name
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.split('-').nth(1)?.parse::<u32>().ok());
        if owner.is_some_and(|pid| !is_alive(pid)) {
            // Another process may be sweeping too, and what is not ours stays.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
    let dir = tempfile::Builder::new()
        .prefix(&format!("{PREFIX}{what}-{}-", std::process::id()))
        .tempdir()?;
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777))?;
    Ok(dir)
}

/// Whether there is a process of this id; one that has ended is none, even if nobody has asked how.
pub fn is_alive(pid: u32) -> bool {
    fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|words| !words.is_empty())
}
