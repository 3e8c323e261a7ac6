//! References of our images, and their archives, which `scripts/images` writes from the built binaries.

use std::{env, path::PathBuf};

use anyhow::{Context as _, Result, bail};
use tokio::process::Command;

use evermesh_testkit::{process, tools};

/// The variable with a registry prefix such as `registry.example.com/evermesh`, for a cluster of `KUBECONFIG`.
const PREFIX: &str = "EVERMESH_IMAGES";

/// The reference of an image in a pod spec; `name` is for example `evermesh` or `envoy-1.40.0`.
///
/// The tag is Envoy's version for Envoy and our version for all other images.
pub fn reference(name: &str) -> Result<String> {
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

/// Writes the archives of these images beside the binaries, without debug information, and returns their paths. The archive
/// of a binary that has not changed is kept.
pub(crate) async fn write(names: &[&str]) -> Result<Vec<PathBuf>> {
    let binaries = tools::built("evermesh-test-app")?;
    let binaries = binaries.parent().context("the binary has no folder")?;
    let dir = binaries.join("images");
    let mut script = Command::from(process::command(tools::workspace()?.join("scripts/images")));
    script
        .args(["--strip", "--keep"])
        .arg("--binaries")
        .arg(binaries)
        .arg("--output")
        .arg(&dir)
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
