//! `kubectl` with one kubeconfig.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use tokio::process::Command;

use crate::{hosts::LabHost, tools};

/// Runs `kubectl` as one user of one Kubernetes cluster.
#[derive(Clone, Debug)]
pub struct Kubectl {
    /// The lab host that runs `kubectl`, or `None` for this machine.
    host: Option<LabHost>,
    kubeconfig: PathBuf,
    /// A folder for the cache and for files to apply.
    scratch: PathBuf,
}

impl Kubectl {
    /// `scratch` is a folder that exists at least as long as this value.
    pub fn new(host: Option<LabHost>, kubeconfig: PathBuf, scratch: &Path) -> Self {
        Self {
            host,
            kubeconfig,
            scratch: scratch.to_owned(),
        }
    }

    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// A `kubectl` command without arguments.
    pub fn command(&self) -> Result<Command> {
        let program = tools::installed("kubernetes/kubectl")?;
        let mut command = Command::from(super::command(self.host.as_ref(), program));
        command
            .env("KUBECONFIG", &self.kubeconfig)
            // Preferences of the developer and caches of other clusters must not change the result.
            .env("KUBECTL_KUBERC", "false")
            // The process ends before it needs to collect garbage.
            .env("GOGC", "off")
            .env("KUBECACHEDIR", self.scratch.join("cache"));
        Ok(command)
    }

    /// Runs `kubectl` and returns its output; the error quotes its standard error.
    pub async fn run(&self, arguments: &[&str]) -> Result<String> {
        let output = self.command()?.args(arguments).output().await?;
        if !output.status.success() {
            bail!(
                "kubectl {} failed: {}",
                arguments.join(" "),
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Applies manifests in YAML by server-side apply.
    pub async fn apply(&self, yaml: &str) -> Result<()> {
        let file = tempfile::NamedTempFile::new_in(&self.scratch)?;
        fs::write(file.path(), yaml)?;
        self.apply_path(file.path()).await
    }

    /// Applies the manifests of a file, or of all files in a folder.
    pub async fn apply_path(&self, path: &Path) -> Result<()> {
        let path = path
            .to_str()
            .with_context(|| format!("{} is not UTF-8", path.display()))?;
        self.run(&[
            "apply",
            "--server-side",
            "--force-conflicts",
            "--filename",
            path,
        ])
        .await?;
        Ok(())
    }
}
