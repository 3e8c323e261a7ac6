//! Real Envoys: start one, read its admin interface, validate a configuration.

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

/// Limit for an Envoy to fetch its configuration and to become ready on a busy machine.
const START: Duration = Duration::from_secs(30);

/// The releases of Envoy that the tests run.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum EnvoyVersion {
    /// 1.36.4, the oldest supported release.
    Oldest,
    /// 1.40.0, the newest tested release.
    Newest,
}

impl EnvoyVersion {
    /// All of them, oldest first.
    pub const ALL: [Self; 2] = [Self::Oldest, Self::Newest];

    pub const fn number(self) -> &'static str {
        match self {
            Self::Oldest => "1.36.4",
            Self::Newest => "1.40.0",
        }
    }

    pub fn binary(self) -> Result<PathBuf> {
        Ok(tools::installed(&format!("envoy-{}/envoy", self.number()))?.canonicalize()?)
    }
}

#[derive(Clone, Debug)]
pub struct EnvoyOptions {
    pub version: EnvoyVersion,
    /// The bootstrap as YAML or JSON. Its `admin` is replaced by a Unix socket.
    pub bootstrap: String,
    /// More arguments, for example `--drain-time-s 1`.
    pub arguments: Vec<String>,
}

impl EnvoyOptions {
    /// Options without more arguments.
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
    /// Starts an Envoy on this machine, without waiting until it is [`ready`](Self::ready).
    pub fn start(options: &EnvoyOptions) -> Result<Self> {
        let program = process::command(options.version.binary()?);
        Self::launch(options, program, json!({}), None)
    }

    /// Starts an Envoy on a lab host, as the user whose traffic interception does not redirect.
    pub fn start_on(host: &LabHost, options: &EnvoyOptions) -> Result<Self> {
        Self::launch_on(host, options, None)
    }

    /// Like [`Self::start_on`], with the admin interface on a port of the host's loopback, for programs that run there.
    pub fn start_with_admin_port_on(
        host: &LabHost,
        options: &EnvoyOptions,
        port: u16,
    ) -> Result<Self> {
        Self::launch_on(host, options, Some(port))
    }

    fn launch_on(host: &LabHost, options: &EnvoyOptions, port: Option<u16>) -> Result<Self> {
        let binary = options.version.binary()?;
        // Envoy's user may not be able to read the folder of the checkout.
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
        let admin = port.map(|port| (host, port));
        Self::launch(options, host.proxy_command(shared), overrides, admin)
    }

    /// Starts `program` with the bootstrap; `overrides` are merged over it. Without a port for the admin interface, that
    /// is a Unix socket.
    fn launch(
        options: &EnvoyOptions,
        mut program: Command,
        mut overrides: Value,
        admin_port: Option<(&LabHost, u16)>,
    ) -> Result<Self> {
        let dir = tools::scratch("envoy")?;
        let config = write_config(dir.path(), &options.bootstrap)?;
        let (address, admin) = if let Some((host, port)) = admin_port {
            let socket = json!({"socket_address": {"address": "127.0.0.1", "port_value": port}});
            (socket, host.loopback(port))
        } else {
            let path = dir.path().join("admin");
            // Envoy may run as another user than this process.
            let pipe = json!({"pipe": {"path": path, "mode": 0o777}});
            (pipe, Address::Unix(path))
        };
        overrides["admin"] = json!({"address": address});
        program
            .arg("--config-path")
            .arg(config)
            .args(["--config-yaml", &overrides.to_string()])
            // Hot restart uses shared memory by base ID, which concurrent Envoys would have to keep apart.
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
            admin,
            _dir: dir,
        })
    }

    /// Waits until Envoy has its configuration and accepts traffic.
    pub async fn ready(&mut self) -> Result<()> {
        let admin = self.admin.clone();
        self.process
            .wait_until("ready", START, async || admin.get("/ready").await.is_ok())
            .await
    }

    pub fn admin(&self) -> &Address {
        &self.admin
    }

    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// The file with the output of the process, which contains an access log to `/dev/stdout`.
    pub fn log_file(&self) -> &Path {
        self.process.log_file()
    }

    /// All counters and gauges, by name.
    pub async fn stats(&self) -> Result<std::collections::BTreeMap<String, u64>> {
        let text = self.admin.get("/stats?type=Counters").await?
            + &self.admin.get("/stats?type=Gauges").await?;
        let pairs = text.lines().filter_map(|line| {
            let (name, value) = line.rsplit_once(": ")?;
            Some((name.to_owned(), value.parse().ok()?))
        });
        Ok(pairs.collect())
    }

    /// One counter or gauge; zero if Envoy has not created it yet.
    pub async fn stat(&self, name: &str) -> Result<u64> {
        Ok(self.stats().await?.get(name).copied().unwrap_or_default())
    }

    /// Envoy's configuration dump with endpoints.
    pub async fn config_dump(&self) -> Result<Value> {
        Ok(serde_json::from_str(
            &self.admin.get("/config_dump?include_eds").await?,
        )?)
    }

    /// The admin page of clusters and their hosts, as JSON.
    pub async fn clusters(&self) -> Result<Value> {
        Ok(serde_json::from_str(
            &self.admin.get("/clusters?format=json").await?,
        )?)
    }
}

/// The bootstrap (YAML or JSON) with another limit for the size of regular expressions, as JSON. Such an Envoy refuses
/// expressions that Evermesh accepts.
pub fn with_expression_limit(bootstrap: &str, limit: u32) -> Result<String> {
    let mut bootstrap: Value = serde_saphyr::from_str(bootstrap).context("parsing a bootstrap")?;
    let layer = json!({ "re2.max_program_size.error_level": limit });
    let layers = &mut bootstrap["layered_runtime"]["layers"];
    if layers.is_null() {
        *layers = json!([]);
    }
    let layers = layers.as_array_mut().context("the layers are not a list")?;
    layers.push(json!({ "name": "expression_limit", "static_layer": layer }));
    Ok(bootstrap.to_string())
}

/// Waits for the lock of the ports that a gateway's Envoy binds outside of a lab; it lasts while the file is open.
///
/// App Mesh fixes a port on which such an Envoy calls itself, and Envoy's listeners share ports (`SO_REUSEPORT`).
/// Two of them on one machine would get each other's requests.
pub fn lock_gateway_ports() -> Result<File> {
    let file = File::create(std::env::temp_dir().join("evermesh-gateway.lock"))?;
    file.lock()?;
    Ok(file)
}

/// Validates a bootstrap (YAML or JSON) with `envoy --mode validate`; the error quotes Envoy.
pub fn validate(version: EnvoyVersion, bootstrap: &str) -> Result<()> {
    let dir = tools::scratch("validate")?;
    let config = write_config(dir.path(), bootstrap)?;
    let mut envoy = Command::new(version.binary()?);
    envoy.args([
        "--mode",
        "validate",
        "--reject-unknown-dynamic-fields",
        "--disable-hot-restart",
        "--config-path",
    ]);
    envoy.arg(config);
    process::run(&mut envoy)
        .with_context(|| format!("Envoy {} rejects the configuration", version.number()))?;
    Ok(())
}

/// Writes YAML or JSON; JSON is YAML, so the suffix fits both.
fn write_config(dir: &Path, bootstrap: &str) -> Result<PathBuf> {
    let path = dir.join("envoy.yaml");
    fs::write(&path, bootstrap)?;
    Ok(path)
}
