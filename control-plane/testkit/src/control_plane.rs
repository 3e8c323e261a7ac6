//! The control plane as a process: started, killed and restarted like a user's, and read through its admin pages.

use std::{
    ffi::OsString,
    fmt::Display,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result};
use serde::Deserialize;
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    chart::InstalledChart,
    hosts::LabHost,
    http::Address,
    port::reserve_addresses,
    process::{self, Process},
    tools,
};

/// Limit for `/readyz`, which waits until every source was read once, and for the end after SIGTERM.
const START: Duration = Duration::from_secs(30);

/// The xDS port on a lab host.
pub const XDS_PORT: u16 = 18000;

/// The admin port on a lab host.
pub const ADMIN_PORT: u16 = 18001;

/// The port for probes, metrics and other replicas on a lab host, if the arguments are the chart's.
const METRICS_PORT: u16 = 18002;

/// A running control plane.
#[derive(Debug)]
pub struct ControlPlane {
    /// The lab host that runs the process, or `None` for this machine.
    host: Option<LabHost>,
    arguments: Vec<OsString>,
    /// Set if the control plane reads a Kubernetes cluster.
    kubeconfig: Option<PathBuf>,
    limits: Option<ProcessLimits>,
    xds: SocketAddr,
    admin: Address,
    log: PathBuf,
    process: Option<Process>,
    _dir: Option<TempDir>,
}

/// Limits of the process, with which a failure to allocate or to open a file ends or disturbs it as in a small container.
#[derive(Clone, Copy, Debug)]
pub struct ProcessLimits {
    /// Bytes of private writable memory (`RLIMIT_DATA`). Unlike `RLIMIT_AS` it does not count what is only reserved, such
    /// as the arenas of malloc, so it is close to the memory of a cgroup, and unlike a cgroup it needs no privileges.
    pub data_bytes: u64,
    /// Open files (`RLIMIT_NOFILE`).
    pub descriptors: u64,
}

/// An entry of `/debug/changes`.
#[derive(Clone, Debug, Deserialize, PartialEq)]
pub struct ReportedChange {
    /// Increases with each change.
    pub id: u64,
    /// Time at which the control plane noticed the change, in milliseconds since 1970.
    pub at_ms: f64,
    /// The changed files, objects and Cloud Map services.
    pub origins: Vec<String>,
    /// Number of responses of proxies that the change waits for.
    pub deliveries: u64,
    /// Number of NACKs among these responses.
    pub rejected: u64,
    /// Milliseconds from `at_ms` to the last response, or `None` while one is missing.
    pub acked_ms: Option<f64>,
}

impl ProcessLimits {
    /// A command with these limits. `prlimit` execs the program, so the process id stays the same.
    fn command(&self, program: &Path) -> Command {
        let mut command = process::command("prlimit");
        command
            .arg(format!("--data={}", self.data_bytes))
            .arg(format!("--nofile={}", self.descriptors))
            .arg("--")
            .arg(program);
        command
    }
}

impl ControlPlane {
    /// Starts a control plane on loopback that reads the manifests below `config`, without waiting until it is ready.
    pub fn start(config: &Path, arguments: &[&str]) -> Result<Self> {
        let source = ["--config".into(), config.into()];
        Self::start_on_loopback(&source, None, arguments)
    }

    /// Like [`Self::start`], for the Kubernetes cluster of this kubeconfig.
    pub fn start_on_cluster(kubeconfig: &Path, arguments: &[&str]) -> Result<Self> {
        let source = ["--kubernetes".into()];
        Self::start_on_loopback(&source, Some(kubeconfig.to_owned()), arguments)
    }

    /// Like [`Self::start_on_cluster`], with limits of the process.
    pub fn start_limited(
        kubeconfig: &Path,
        arguments: &[&str],
        limits: ProcessLimits,
    ) -> Result<Self> {
        let addresses = reserve_addresses()?;
        let [xds, admin] = addresses;
        let arguments = arguments_of(&["--kubernetes".into()], xds, admin, arguments);
        let kubeconfig = Some(kubeconfig.to_owned());
        let mut control_plane = Self::on_loopback(addresses, kubeconfig, arguments)?;
        control_plane.limits = Some(limits);
        control_plane.restart()?;
        Ok(control_plane)
    }

    /// Starts a control plane on loopback with the arguments of an installed chart, without waiting until it is ready.
    ///
    /// `webhook` is the address of the webhooks' server; it can differ from the address that the API server calls.
    pub fn start_installed(
        installed: &InstalledChart,
        kubeconfig: &Path,
        webhook: SocketAddr,
    ) -> Result<Self> {
        let [xds, admin, metrics] = reserve_addresses()?;
        let arguments = installed.arguments(xds, [admin, metrics], webhook)?;
        let arguments = arguments.into_iter().map(Into::into).collect();
        Self::launch_on_loopback([xds, admin], Some(kubeconfig.to_owned()), arguments)
    }

    /// Like [`Self::start_installed`], on the lab host whose loopback has the API server.
    pub fn start_installed_on(host: &LabHost, installed: &InstalledChart) -> Result<Self> {
        let [xds, admin] = addresses_on(host);
        let metrics = SocketAddr::from((Ipv4Addr::LOCALHOST, METRICS_PORT));
        let arguments = installed.arguments(xds, [admin, metrics], installed.webhook)?;
        let arguments = arguments.into_iter().map(Into::into).collect();
        Self::launch_on(host, xds, Some(installed.kubeconfig.clone()), arguments)
    }

    fn start_on_loopback(
        source: &[OsString],
        kubeconfig: Option<PathBuf>,
        arguments: &[&str],
    ) -> Result<Self> {
        let [xds, admin] = reserve_addresses()?;
        let arguments = arguments_of(source, xds, admin, arguments);
        Self::launch_on_loopback([xds, admin], kubeconfig, arguments)
    }

    fn launch_on_loopback(
        [xds, admin]: [SocketAddr; 2],
        kubeconfig: Option<PathBuf>,
        arguments: Vec<OsString>,
    ) -> Result<Self> {
        let mut control_plane = Self::on_loopback([xds, admin], kubeconfig, arguments)?;
        control_plane.restart()?;
        Ok(control_plane)
    }

    /// A control plane that is not started.
    fn on_loopback(
        [xds, admin]: [SocketAddr; 2],
        kubeconfig: Option<PathBuf>,
        arguments: Vec<OsString>,
    ) -> Result<Self> {
        let dir = tools::scratch("control-plane")?;
        Ok(Self {
            host: None,
            arguments,
            kubeconfig,
            limits: None,
            xds,
            admin: Address::Tcp(admin),
            log: dir.path().join("log"),
            process: None,
            _dir: Some(dir),
        })
    }

    /// Like [`Self::start`], on a lab host with [`XDS_PORT`] and [`ADMIN_PORT`].
    pub fn start_on(host: &LabHost, config: &Path, arguments: &[&str]) -> Result<Self> {
        Self::start_at(host, host.ip().into(), config, arguments)
    }

    /// Like [`Self::start_on`], with xDS at another address of the host.
    pub fn start_at(
        host: &LabHost,
        address: IpAddr,
        config: &Path,
        arguments: &[&str],
    ) -> Result<Self> {
        let xds = SocketAddr::new(address, XDS_PORT);
        let [_, admin] = addresses_on(host);
        let source = ["--config".into(), config.into()];
        Self::launch_on(
            host,
            xds,
            None,
            arguments_of(&source, xds, admin, arguments),
        )
    }

    fn launch_on(
        host: &LabHost,
        xds: SocketAddr,
        kubeconfig: Option<PathBuf>,
        arguments: Vec<OsString>,
    ) -> Result<Self> {
        let log = format!("{}.control-plane.log", host.name());
        let mut control_plane = Self {
            host: Some(host.clone()),
            arguments,
            kubeconfig,
            limits: None,
            xds,
            admin: host.loopback(ADMIN_PORT),
            log: host.dir().join(log),
            process: None,
            _dir: None,
        };
        control_plane.restart()?;
        Ok(control_plane)
    }

    /// The address of the xDS server.
    pub fn xds(&self) -> SocketAddr {
        self.xds
    }

    pub fn admin(&self) -> &Address {
        &self.admin
    }

    /// Kills the process, as a crash does.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Ends the process with SIGTERM, as Kubernetes does, and waits for its end.
    pub async fn stop(&mut self) -> Result<()> {
        if let Some(mut process) = self.process.take() {
            process.terminate(START).await?;
        }
        Ok(())
    }

    /// Kills the process if it runs, and starts it again with the same arguments.
    pub fn restart(&mut self) -> Result<()> {
        self.kill();
        let binary = tools::built("evermesh")?;
        let mut command: Command = match &self.host {
            Some(host) => host.command(binary),
            None => match self.limits {
                Some(limits) => limits.command(&binary),
                None => process::command(binary),
            },
        };
        command.args(&self.arguments);
        // Calls of moto need no credentials; asking an EC2 instance for them would only take time.
        command.env("AWS_EC2_METADATA_DISABLED", "true");
        if let Some(kubeconfig) = &self.kubeconfig {
            command.env("KUBECONFIG", kubeconfig);
        }
        self.process = Some(Process::spawn("evermesh", command, &self.log)?);
        Ok(())
    }

    /// Waits until `/readyz` succeeds.
    pub async fn ready(&mut self) -> Result<()> {
        let admin = self.admin.clone();
        let Some(process) = &mut self.process else {
            anyhow::bail!("the control plane does not run: the test killed or stopped it")
        };
        process
            .wait_until("ready", START, async || admin.get("/readyz").await.is_ok())
            .await
    }

    /// The process ID, or `None` after [`Self::kill`] and [`Self::stop`].
    pub fn process_id(&self) -> Option<u32> {
        self.process.as_ref().map(Process::id)
    }

    /// The end of the log.
    pub fn log(&self) -> String {
        self.process.as_ref().map(Process::log).unwrap_or_default()
    }

    /// The file with the whole log.
    pub fn log_file(&self) -> &Path {
        &self.log
    }

    /// The page `/debug/proxies`: connected proxies and the versions that they ACKed.
    pub async fn proxies(&self) -> Result<Value> {
        Ok(serde_json::from_str(
            &self.admin.get("/debug/proxies").await?,
        )?)
    }

    /// The page `/debug/changes`, oldest change first.
    pub async fn changes(&self) -> Result<Vec<ReportedChange>> {
        let mut changes: Vec<ReportedChange> =
            serde_json::from_str(&self.admin.get("/debug/changes").await?)?;
        changes.sort_by_key(|change| change.id);
        Ok(changes)
    }

    /// The metrics in Prometheus' text format.
    pub async fn metrics(&self) -> Result<String> {
        self.admin.get("/metrics").await
    }

    /// One metric without labels, such as `evermesh_xds_nacks_total`.
    pub async fn metric(&self, name: &str) -> Result<u64> {
        metric(&self.metrics().await?, name)
    }
}

/// The value of a metric without labels in Prometheus' text format.
fn metric(text: &str, name: &str) -> Result<u64> {
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    let value = value.with_context(|| format!("metric `{name}` does not exist"))?;
    Ok(value.parse()?)
}

/// The addresses of xDS and of the admin pages on a lab host.
fn addresses_on(host: &LabHost) -> [SocketAddr; 2] {
    [
        SocketAddr::from((host.ip(), XDS_PORT)),
        SocketAddr::from((Ipv4Addr::LOCALHOST, ADMIN_PORT)),
    ]
}

fn arguments_of(
    source: &[OsString],
    xds: SocketAddr,
    admin: SocketAddr,
    more: &[&str],
) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = vec!["serve".into()];
    arguments.extend_from_slice(source);
    arguments.extend(["--xds-address".into(), xds.to_string().into()]);
    arguments.extend(["--admin-address".into(), admin.to_string().into()]);
    let chosen = |argument: &&str| argument.starts_with("--xds-authentication");
    if !xds.ip().is_loopback() && !more.iter().any(chosen) {
        // Only the hosts of the lab can connect.
        arguments.push("--xds-authentication=none".into());
    }
    arguments.extend(more.iter().map(Into::into));
    arguments
}

/// The output of `evermesh bootstrap` for a resource name such as `mesh/demo/virtualNode/front_demo`.
///
/// `xds` is `HOST:PORT`; `sotw` selects the state-of-the-world variant instead of delta.
pub fn bootstrap(resource: &str, xds: impl Display, sotw: bool) -> Result<String> {
    bootstrap_with(resource, xds, if sotw { &["--sotw"] } else { &[] })
}

/// Like [`bootstrap`], with more arguments such as `--jaeger`.
pub fn bootstrap_with(resource: &str, xds: impl Display, arguments: &[&str]) -> Result<String> {
    let mut command = Command::new(tools::built("evermesh")?);
    command.args(["bootstrap", "--node", resource, "--xds", &xds.to_string()]);
    process::run(command.args(arguments))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metric_is_found_by_its_whole_name() {
        let text = "# TYPE evermesh_xds_nacks counter\n\
                    evermesh_xds_nacks_total_old 1\n\
                    evermesh_xds_nacks_total{type=\"cluster\"} 2\n\
                    evermesh_xds_nacks_total 3\n";
        assert_eq!(metric(text, "evermesh_xds_nacks_total").unwrap(), 3);
        let error = metric(text, "evermesh_xds_acks_total").unwrap_err();
        assert_eq!(
            error.to_string(),
            "metric `evermesh_xds_acks_total` does not exist"
        );
    }
}
