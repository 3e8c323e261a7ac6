//! `kubectl`, by one kubeconfig.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use tokio::process::Command;

use crate::{hosts::LabHost, tools};

/// Runs `kubectl` as one user of one cluster.
#[derive(Clone, Debug)]
pub struct Kubectl {
    /// The host that it runs on, unless it is this machine.
    place: Option<LabHost>,
    kubeconfig: PathBuf,
    /// For its cache and for files to apply.
    scratch: PathBuf,
}

impl Kubectl {
    /// By this kubeconfig; `scratch` is a folder that lives as long.
    pub fn new(place: Option<LabHost>, kubeconfig: PathBuf, scratch: &Path) -> Self {
        Self {
            place,
            kubeconfig,
            scratch: scratch.to_owned(),
        }
    }

    /// Whose it is.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// `kubectl`, to be given arguments and run.
    pub fn command(&self) -> Result<Command> {
        let program = tools::installed("kubernetes/kubectl")?;
        let mut command = Command::from(super::command(self.place.as_ref(), program));
        command
            .env("KUBECONFIG", &self.kubeconfig)
            // Neither what a developer has set for themselves nor a cache that outlives this cluster.
            .env("KUBECTL_KUBERC", "false")
            .env("KUBECACHEDIR", self.scratch.join("cache"));
        Ok(command)
    }

    /// Runs it and returns what it printed; a failure is an error with its own words.
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

    /// Applies manifests given as YAML.
    pub async fn apply(&self, yaml: &str) -> Result<()> {
        let file = tempfile::NamedTempFile::new_in(&self.scratch)?;
        fs::write(file.path(), yaml)?;
        self.apply_path(file.path()).await
    }

    /// Applies the manifests in a file, or in the files of a folder.
    pub async fn apply_path(&self, path: &Path) -> Result<()> {
        let path = path.to_str().context("a path in UTF-8")?;
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
