//! The cgroups of a local cluster: one folder in each hierarchy, which holds the cgroups of all pods.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use evermesh_testkit::tools;

const ROOT: &str = "/sys/fs/cgroup";

/// Prefix of the names; the process ID of the owner follows.
const PREFIX: &str = "evermesh-cluster-";

/// The weight of ten processes.
const CPU_SHARES: &str = "10240";

/// Limit for killed processes to leave their cgroup.
const LIMIT: Duration = Duration::from_secs(10);

/// A cgroup that is removed when it is dropped; all its processes must have ended by then.
#[derive(Debug)]
pub(crate) struct Cgroup {
    name: String,
}

impl Cgroup {
    /// Creates a cgroup with the name of the cluster's folder, and removes those of processes that were killed.
    pub(crate) fn create(dir: &Path) -> Result<Self> {
        let name = dir.file_name().context("the folder has no name")?;
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
            // The default weight of all pods together is that of one other process.
            let shares = folder.join("cpu.shares");
            if shares.exists() {
                fs::write(shares, CPU_SHARES)?;
            }
        }
        Ok(Self { name })
    }

    /// The name in the kubelet's configuration.
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

/// The root folders of the hierarchies: one with cgroup v2, several with cgroup v1 or a mixture.
fn hierarchies() -> Result<Vec<PathBuf>> {
    let root = PathBuf::from(ROOT);
    if root.join("cgroup.controllers").exists() {
        return Ok(vec![root]);
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(&root).with_context(|| format!("reading {ROOT}"))? {
        let entry = entry?;
        // Symbolic links are aliases, such as `cpu` for `cpu,cpuacct`.
        if entry.file_type()?.is_dir() && entry.path().join("cgroup.procs").exists() {
            found.push(entry.path());
        }
    }
    if found.is_empty() {
        bail!("no cgroup hierarchy is mounted at {ROOT}");
    }
    Ok(found)
}

/// Removes a cgroup and its children in every hierarchy.
fn remove(name: &str) -> Result<()> {
    let deadline = Instant::now() + LIMIT;
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
