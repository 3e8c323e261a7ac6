//! The real control plane, started as a user starts it.

use std::{
    ffi::OsString,
    fmt::Display,
    net::{Ipv4Addr, SocketAddr},
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

/// Ready means that every source has answered once.
const START: Duration = Duration::from_secs(30);

/// Where the control plane serves Envoys when it runs on a host.
pub const XDS_PORT: u16 = 18000;

/// Where it answers its operators when it runs on a host.
pub const ADMIN_PORT: u16 = 18001;

/// Where probes, metrics and other replicas come when it runs on a host as the chart would.
const METRICS_PORT: u16 = 18002;

/// A running control plane.
#[derive(Debug)]
pub struct ControlPlane {
    place: Option<LabHost>,
    arguments: Vec<OsString>,
    /// The cluster it reads, if it reads one.
    kubeconfig: Option<PathBuf>,
    xds: SocketAddr,
    admin: Address,
    log: PathBuf,
    process: Option<Process>,
    _dir: Option<TempDir>,
}

/// One change and how far it came.
#[derive(Clone, Debug, Deserialize, PartialEq)]
pub struct ChangeRecord {
    /// Counts up.
    pub id: u64,
    /// When it was noticed, in milliseconds since 1970.
    pub at_ms: f64,
    /// What changed: files, Cloud Map services.
    pub origins: Vec<String>,
    /// How many answers of proxies it takes.
    pub deliveries: u64,
    /// How many of them were refusals.
    pub rejected: u64,
    /// The time from when it was noticed until the last answer; none while one is missing.
    pub acked_ms: Option<f64>,
}

impl ControlPlane {
    /// Starts a control plane on loopback that reads the manifests below `config`; it is not ready yet.
    pub fn start(config: &Path, arguments: &[&str]) -> Result<Self> {
        let source = ["--config".into(), config.into()];
        Self::start_on_loopback(&source, None, arguments)
    }

    /// Starts a control plane on loopback that reads the cluster of this kubeconfig; it is not ready yet.
    pub fn start_on_cluster(kubeconfig: &Path, arguments: &[&str]) -> Result<Self> {
        let source = ["--kubernetes".into()];
        Self::start_on_loopback(&source, Some(kubeconfig.to_owned()), arguments)
    }

    /// Starts a control plane on loopback as an installed chart would, by this kubeconfig; it is not ready yet.
    ///
    /// It serves its webhooks at `webhook`, which need not be where the API server calls them.
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

    /// The same on a host of a lab, on whose loopback the API server is; it is not ready yet.
    pub fn start_installed_on(host: &LabHost, installed: &InstalledChart) -> Result<Self> {
        let [xds, admin] = addresses_on(host);
        let metrics = SocketAddr::from((Ipv4Addr::LOCALHOST, METRICS_PORT));
        let arguments = installed.arguments(xds, [admin, metrics], installed.webhook)?;
        let arguments = arguments.into_iter().map(Into::into).collect();
        Self::launch_on(host, Some(installed.kubeconfig.clone()), arguments)
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
        let dir = tools::scratch("control-plane")?;
        let mut control_plane = Self {
            place: None,
            arguments,
            kubeconfig,
            xds,
            admin: Address::Tcp(admin),
            log: dir.path().join("log"),
            process: None,
            _dir: Some(dir),
        };
        control_plane.restart()?;
        Ok(control_plane)
    }

    /// Starts a control plane on a host of a lab, on [`XDS_PORT`] and [`ADMIN_PORT`]; it is not ready yet.
    pub fn start_on(host: &LabHost, config: &Path, arguments: &[&str]) -> Result<Self> {
        let [xds, admin] = addresses_on(host);
        let source = ["--config".into(), config.into()];
        Self::launch_on(host, None, arguments_of(&source, xds, admin, arguments))
    }

    fn launch_on(
        host: &LabHost,
        kubeconfig: Option<PathBuf>,
        arguments: Vec<OsString>,
    ) -> Result<Self> {
        let [xds, _] = addresses_on(host);
        let log = format!("{}.control-plane.log", host.name());
        let mut control_plane = Self {
            place: Some(host.clone()),
            arguments,
            kubeconfig,
            xds,
            admin: host.loopback(ADMIN_PORT),
            log: host.dir().join(log),
            process: None,
            _dir: None,
        };
        control_plane.restart()?;
        Ok(control_plane)
    }

    /// The address for the bootstrap of Envoys.
    pub fn xds(&self) -> SocketAddr {
        self.xds
    }

    /// The admin interface.
    pub fn admin(&self) -> &Address {
        &self.admin
    }

    /// Ends the process at once, as a crash does.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Ends the process as Kubernetes does, and waits for it.
    pub async fn stop(&mut self) -> Result<()> {
        if let Some(mut process) = self.process.take() {
            process.terminate(START).await?;
        }
        Ok(())
    }

    /// Ends the process if it runs, and starts it again.
    pub fn restart(&mut self) -> Result<()> {
        self.kill();
        let binary = tools::built("evermesh")?;
        let mut command: Command = match &self.place {
            Some(host) => host.command(binary),
            None => process::command(binary),
        };
        command.args(&self.arguments);
        // Whoever calls a stand-in for Cloud Map has no use for the credentials of the machine it runs on.
        command.env("AWS_EC2_METADATA_DISABLED", "true");
        if let Some(kubeconfig) = &self.kubeconfig {
            command.env("KUBECONFIG", kubeconfig);
        }
        self.process = Some(Process::spawn("evermesh", command, &self.log)?);
        Ok(())
    }

    /// Waits until it serves.
    pub async fn ready(&mut self) -> Result<()> {
        let admin = self.admin.clone();
        let Some(process) = &mut self.process else {
            anyhow::bail!("the control plane was killed")
        };
        process
            .wait_until("ready", START, async || admin.get("/readyz").await.is_ok())
            .await
    }

    /// The id of its process, while it runs.
    pub fn process_id(&self) -> Option<u32> {
        self.process.as_ref().map(Process::id)
    }

    /// What it printed last.
    pub fn log(&self) -> String {
        self.process.as_ref().map(Process::log).unwrap_or_default()
    }

    /// The connected proxies and what each has taken over.
    pub async fn proxies(&self) -> Result<Value> {
        Ok(serde_json::from_str(
            &self.admin.get("/debug/proxies").await?,
        )?)
    }

    /// The last changes, oldest first.
    pub async fn changes(&self) -> Result<Vec<ChangeRecord>> {
        let mut changes: Vec<ChangeRecord> =
            serde_json::from_str(&self.admin.get("/debug/changes").await?)?;
        changes.sort_by_key(|change| change.id);
        Ok(changes)
    }

    /// The metrics, in Prometheus' text form.
    pub async fn metrics(&self) -> Result<String> {
        self.admin.get("/metrics").await
    }

    /// One metric without labels, such as `evermesh_xds_nacks_total`.
    pub async fn metric(&self, name: &str) -> Result<u64> {
        let text = self.metrics().await?;
        let value = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        let value = value.with_context(|| format!("there is no metric {name}"))?;
        Ok(value.parse()?)
    }
}

/// For xDS and for operators, on a host of a lab.
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
    if !xds.ip().is_loopback() {
        // Nobody else is in the lab.
        arguments.push("--xds-authentication=none".into());
    }
    arguments.extend(more.iter().map(Into::into));
    arguments
}

/// The bootstrap of a proxy that is the given App Mesh resource, such as `mesh/demo/virtualNode/front_demo`,
/// as `evermesh bootstrap` prints it: for delta xDS, or for state-of-the-world xDS; `xds` is `HOST:PORT`.
pub fn bootstrap(resource: &str, xds: impl Display, sotw: bool) -> Result<String> {
    bootstrap_with(resource, xds, if sotw { &["--sotw"] } else { &[] })
}

/// The same with further arguments, such as `--jaeger`.
pub fn bootstrap_with(resource: &str, xds: impl Display, arguments: &[&str]) -> Result<String> {
    let mut command = Command::new(tools::built("evermesh")?);
    command.args(["bootstrap", "--node", resource, "--xds", &xds.to_string()]);
    process::run(command.args(arguments))
}
