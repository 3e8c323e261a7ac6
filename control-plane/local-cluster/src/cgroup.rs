//! The cgroups of a cluster: one folder in every hierarchy, which all pods lie below.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use evermesh_testkit::tools;

const ROOT: &str = "/sys/fs/cgroup";

/// Before the id of the process that the cluster belongs to.
const PREFIX: &str = "evermesh-cluster-";

/// What ten processes weigh.
const CPU_SHARES: &str = "10240";

/// A process that was killed leaves its cgroup a moment later.
const PATIENCE: Duration = Duration::from_secs(10);

/// Gone when it is dropped, which is to be after everything in it has ended.
#[derive(Debug)]
pub(crate) struct Cgroup {
    name: String,
}

impl Cgroup {
    /// Makes one of the name of the cluster's folder, and removes those whose cluster's process was killed.
    pub(crate) fn create(dir: &Path) -> Result<Self> {
        let name = dir.file_name().context("a folder has a name")?;
        let name = name.to_string_lossy().into_owned();
        let hierarchies = hierarchies()?;
        for entry in hierarchies.iter().flat_map(fs::read_dir).flatten() {
            let name = entry?.file_name().to_string_lossy().into_owned();
            let owner = name
                .strip_prefix(PREFIX)
                .and_then(|rest| rest.split('-').next()?.parse::<u32>().ok());
            if owner.is_some_and(|pid| !tools::is_alive(pid)) {
                remove(&name)?;
            }
        }
        for hierarchy in &hierarchies {
            let folder = hierarchy.join(&name);
            fs::create_dir(&folder).with_context(|| format!("creating {}", folder.display()))?;
            // On a busy machine all pods together would weigh as much as one other process.
            let shares = folder.join("cpu.shares");
            if shares.exists() {
                fs::write(shares, CPU_SHARES)?;
            }
        }
        Ok(Self { name })
    }

    /// As the kubelet names it.
    pub(crate) fn path(&self) -> String {
        format!("/{}", self.name)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.name) {
            eprintln!("{error:#}");
        }
    }
}

/// The folders that controllers lie below: one with cgroup v2, several with v1 or both.
fn hierarchies() -> Result<Vec<PathBuf>> {
    let root = PathBuf::from(ROOT);
    if root.join("cgroup.controllers").exists() {
        return Ok(vec![root]);
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(&root).with_context(|| format!("reading {ROOT}"))? {
        let entry = entry?;
        // Links are second names, such as `cpu` for `cpu,cpuacct`.
        if entry.file_type()?.is_dir() && entry.path().join("cgroup.procs").exists() {
            found.push(entry.path());
        }
    }
    if found.is_empty() {
        bail!("no cgroups are mounted at {ROOT}");
    }
    Ok(found)
}

/// Removes a cgroup and those below it, wherever there is one.
fn remove(name: &str) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    for hierarchy in hierarchies()? {
        let folder = hierarchy.join(name);
        while let Err(error) = remove_tree(&folder) {
            if Instant::now() > deadline {
                return Err(error).with_context(|| format!("removing {}", folder.display()));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    Ok(())
}

fn remove_tree(folder: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    fs::remove_dir(folder)
}
