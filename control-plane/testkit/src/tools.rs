//! Where the programs lie that the tests start.

use std::{
    env,
    path::{Path, PathBuf},
};

use anyhow::{Result, bail};

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
            "{} is missing: run scripts/setup (make test and make run do)",
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
