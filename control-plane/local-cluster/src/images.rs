//! Our images, written by `scripts/images` from the binaries next to the running program.

use std::{
    env,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use tokio::process::Command;

use evermesh_testkit::{process, tools};

/// Before the names of images in a cluster that is not ours, as in `registry.example.com/evermesh`.
const PREFIX: &str = "EVERMESH_IMAGES";

/// What a pod names one of our images, such as `evermesh` or `envoy-1.40.0`.
///
/// Envoy's number is the tag; all others carry our version.
pub fn tag(name: &str) -> Result<String> {
    let (name, tag) = match name.strip_prefix("envoy-") {
        Some(version) => ("envoy", version),
        None => (name, env!("CARGO_PKG_VERSION")),
    };
    let prefix = env::var(PREFIX).unwrap_or_default();
    let separator = if prefix.is_empty() || prefix.ends_with('/') {
        ""
    } else {
        "/"
    };
    Ok(format!("{prefix}{separator}{name}:{tag}"))
}

/// Writes the archives of these images into `dir`; tests have no use for what debuggers read.
pub(crate) async fn write(names: &[&str], dir: &Path) -> Result<Vec<PathBuf>> {
    let binaries = tools::built("evermesh-test-app")?;
    let binaries = binaries.parent().context("a program lies in a folder")?;
    let mut script = Command::from(process::command(tools::workspace()?.join("scripts/images")));
    script
        .arg("--strip")
        .arg("--binaries")
        .arg(binaries)
        .arg("--output")
        .arg(dir)
        .args(names);
    let output = script.output().await?;
    if !output.status.success() {
        bail!(
            "scripts/images failed: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(names
        .iter()
        .map(|name| dir.join(format!("{name}.tar")))
        .collect())
}
