//! A real Envoy: start it, ask it, judge a configuration with it.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    hosts::{LabHost, PROXY_MARK, ProxyIdentity},
    http::Address,
    process::{self, Process},
    tools,
};

/// The first answer of a server that has to fetch its configuration on a busy machine.
const START: Duration = Duration::from_secs(30);

/// The Envoys that we test with.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum EnvoyVersion {
    /// The oldest that we support, 1.36.4.
    Oldest,
    /// The newest that we test with, 1.40.0.
    Newest,
}

impl EnvoyVersion {
    /// Both, oldest first.
    pub const ALL: [Self; 2] = [Self::Oldest, Self::Newest];

    /// The release's number.
    pub const fn number(self) -> &'static str {
        match self {
            Self::Oldest => "1.36.4",
            Self::Newest => "1.40.0",
        }
    }

    /// The program.
    pub fn binary(self) -> Result<PathBuf> {
        Ok(tools::installed(&format!("envoy-{}/envoy", self.number()))?.canonicalize()?)
    }
}

/// What to start.
#[derive(Clone, Debug)]
pub struct EnvoyOptions {
    /// Which Envoy.
    pub version: EnvoyVersion,
    /// The bootstrap, YAML or JSON. Its `admin` is replaced by a Unix socket.
    pub bootstrap: String,
    /// Further arguments, for example `--drain-time-s 1`.
    pub arguments: Vec<String>,
}

impl EnvoyOptions {
    /// The given Envoy with the given bootstrap, and nothing else.
    pub fn new(version: EnvoyVersion, bootstrap: impl Into<String>) -> Self {
        Self {
            version,
            bootstrap: bootstrap.into(),
            arguments: Vec::new(),
        }
    }
}

/// A running Envoy.
#[derive(Debug)]
pub struct Envoy {
    process: Process,
    admin: Address,
    _dir: TempDir,
}

impl Envoy {
    /// Starts an Envoy on this machine; it is not [`ready`](Self::ready) yet.
    pub fn start(options: &EnvoyOptions) -> Result<Self> {
        let program = process::command(options.version.binary()?);
        Self::launch(options, program, &json!({}))
    }

    /// Starts the Envoy of a lab's host, as the user that interception leaves alone.
    pub fn start_on(host: &LabHost, options: &EnvoyOptions) -> Result<Self> {
        let binary = options.version.binary()?;
        // The checkout may lie where only its owner reads.
        let shared = host
            .dir()
            .join(format!("envoy-{}", options.version.number()));
        if !shared.exists() && fs::hard_link(&binary, &shared).is_err() {
            fs::copy(&binary, &shared)?;
        }
        let overrides = match host.proxy_identity() {
            ProxyIdentity::Uid => json!({}),
            ProxyIdentity::Mark => {
                json!({"cluster_manager": {"upstream_bind_config": {"socket_options": [
                    // SOL_SOCKET, SO_MARK
                    {"level": 1, "name": 36, "int_value": PROXY_MARK, "state": "STATE_PREBIND"},
                ]}}})
            }
        };
        Self::launch(options, host.proxy_command(shared), &overrides)
    }

    /// Starts `program` with the bootstrap and what is merged over it.
    fn launch(options: &EnvoyOptions, mut program: Command, overrides: &Value) -> Result<Self> {
        let dir = tools::scratch("envoy")?;
        let socket = dir.path().join("admin");
        let config = write_config(dir.path(), &options.bootstrap)?;
        let mut overrides = overrides.clone();
        // Envoy may be another user than we are.
        overrides["admin"] = json!({"address": {"pipe": {"path": socket, "mode": 0o777}}});
        program
            .arg("--config-path")
            .arg(config)
            .args(["--config-yaml", &overrides.to_string()])
            // Without hot restart there is no shared memory, and so no base id to keep apart.
            .args([
                "--concurrency",
                "1",
                "--disable-hot-restart",
                "--reject-unknown-dynamic-fields",
            ])
            .args(&options.arguments);
        let process = Process::spawn("envoy", program, &dir.path().join("log"))?;
        Ok(Self {
            process,
            admin: Address::Unix(socket),
            _dir: dir,
        })
    }

    /// Waits until Envoy has its first configuration and serves.
    pub async fn ready(&mut self) -> Result<()> {
        let admin = self.admin.clone();
        self.process
            .wait_until("ready", START, async || admin.get("/ready").await.is_ok())
            .await
    }

    /// The admin interface.
    pub fn admin(&self) -> &Address {
        &self.admin
    }

    /// The process: its log, its end.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Every counter and gauge, by name.
    pub async fn stats(&self) -> Result<std::collections::BTreeMap<String, u64>> {
        let text = self.admin.get("/stats?type=Counters").await?
            + &self.admin.get("/stats?type=Gauges").await?;
        let pairs = text.lines().filter_map(|line| {
            let (name, value) = line.rsplit_once(": ")?;
            Some((name.to_owned(), value.parse().ok()?))
        });
        Ok(pairs.collect())
    }

    /// One counter or gauge; a name that Envoy does not know yet counts as zero.
    pub async fn stat(&self, name: &str) -> Result<u64> {
        Ok(self.stats().await?.get(name).copied().unwrap_or_default())
    }

    /// What Envoy runs with, endpoints included.
    pub async fn config_dump(&self) -> Result<Value> {
        Ok(serde_json::from_str(
            &self.admin.get("/config_dump?include_eds").await?,
        )?)
    }

    /// Clusters and their hosts.
    pub async fn clusters(&self) -> Result<Value> {
        Ok(serde_json::from_str(
            &self.admin.get("/clusters?format=json").await?,
        )?)
    }
}

/// Waits for the right to run the Envoy of a virtual gateway outside of a lab, which lasts as long as the file is open.
///
/// Such Envoys talk to themselves on a port that App Mesh has fixed, and listeners share ports: on one machine, two of
/// them would take each other's requests.
pub fn lock_gateway_ports() -> Result<File> {
    let file = File::create(std::env::temp_dir().join("evermesh-gateway.lock"))?;
    file.lock()?;
    Ok(file)
}

/// Lets Envoy judge a bootstrap, YAML or JSON, without running it; the error holds Envoy's own words.
pub fn validate(version: EnvoyVersion, bootstrap: &str) -> Result<()> {
    let dir = tools::scratch("validate")?;
    let config = write_config(dir.path(), bootstrap)?;
    let mut judge = Command::new(version.binary()?);
    judge.args([
        "--mode",
        "validate",
        "--reject-unknown-dynamic-fields",
        "--disable-hot-restart",
        "--config-path",
    ]);
    judge.arg(config);
    process::run(&mut judge)
        .with_context(|| format!("Envoy {} refuses the configuration", version.number()))?;
    Ok(())
}

/// JSON is YAML, so one file name serves both.
fn write_config(dir: &Path, bootstrap: &str) -> Result<PathBuf> {
    let path = dir.join("envoy.yaml");
    fs::write(&path, bootstrap)?;
    Ok(path)
}
