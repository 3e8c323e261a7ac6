//! The canary example on lab hosts: applications with their Envoys, Cloud Map and the control plane.
//!
//! ```text
//!  control: control plane, Cloud Map
//!     │ xDS
//!  front: Envoy ──► http://color.demo.local ──► color-v1-a, color-v1-b, color-v2-a, color-v2-b: Envoy, application
//! ```
//!
//! Each application answers with the name of its host, so the answers show the split of the traffic.

mod api;
mod manifests;

use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    process::Command,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result, bail};
use tokio::sync::Mutex;

use self::{
    api::CanaryApi,
    manifests::{copy_manifests, with_weights},
};
use crate::{
    control_plane::{ControlPlane, bootstrap},
    envoy::{Envoy, EnvoyOptions, EnvoyVersion},
    hosts::{Lab, LabHost},
    interception::Interception,
    load::LoadStats,
    moto::Moto,
    process::Process,
    report::LoadReport,
    tools,
};

/// The address that front connects to; no host has it, so only interception makes it reachable.
const COLOR: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 77, 255, 1)), 80);

const VERSIONS: [&str; 2] = ["v1", "v2"];

/// The Cloud Map namespace and service.
const CLOUD_MAP: (&str, &str) = ("demo.local", "color");

/// Interval at which the control plane reads Cloud Map.
const CLOUD_MAP_INTERVAL: &str = "200ms";

/// The origin of changes of the instances in `/debug/changes`.
const INSTANCES: &str = "cloud-map:color.demo.local";

/// The file with the weights.
const ROUTE: &str = "route.yaml";

/// Time between two reads of `/debug/changes`. It does not limit the precision: the page has the time of the last ACK.
const POLL: Duration = Duration::from_millis(50);

/// Limit for a change until every proxy has ACKed it.
const LIMIT: Duration = Duration::from_secs(10);

/// Limit for the end of the load client, which waits 20 s for the last response.
const LOAD_END: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, Debug)]
pub struct CanaryLabOptions {
    pub version: EnvoyVersion,
    /// Use state-of-the-world xDS instead of delta.
    pub sotw: bool,
    /// Requests per second.
    pub rate: u32,
    /// Keep the manifests in a Kubernetes API instead of a folder, and apply them with `kubectl`.
    pub kubernetes: bool,
}

impl Default for CanaryLabOptions {
    fn default() -> Self {
        Self {
            version: EnvoyVersion::Newest,
            sotw: false,
            rate: 200,
            kubernetes: false,
        }
    }
}

/// The running example; dropping it ends all processes.
#[derive(Debug)]
pub struct CanaryLab {
    pub control_plane: ControlPlane,
    options: CanaryLabOptions,
    moto: Mutex<Moto>,
    front: LabHost,
    /// Version and host of each instance of color.
    colors: Vec<(&'static str, LabHost)>,
    config: PathBuf,
    /// The Kubernetes API with the manifests, if they are not in a folder.
    api: Option<CanaryApi>,
    proxies: Vec<Envoy>,
    _apps: Vec<Process>,
    _lab: Lab,
}

/// Requests that front sends to color.
#[derive(Debug)]
pub struct LabTraffic {
    process: Process,
    pub report: LoadReport,
}

impl CanaryLab {
    /// Starts the example; `progress` gets a line for each step.
    pub async fn build(options: CanaryLabOptions, mut progress: impl FnMut(&str)) -> Result<Self> {
        progress("creating hosts: network namespaces that are joined by a bridge");
        let mut lab = Lab::start().await?;
        let control = lab.host("control").await?;
        let front = lab.host("front").await?;
        let mut colors = Vec::new();
        for version in VERSIONS {
            for letter in ["a", "b"] {
                let name = format!("color-{version}-{letter}");
                colors.push((version, lab.host(&name).await?));
            }
        }

        progress("starting Cloud Map (moto) and registering two instances of each version");
        let mut moto = Moto::start_on(&control).await?;
        let (namespace, service) = CLOUD_MAP;
        moto.create_http_namespace(namespace).await?;
        moto.create_service(namespace, service).await?;
        for (version, host) in &colors {
            moto.register(
                namespace,
                service,
                host.name(),
                host.ip(),
                &[("version", version)],
            )
            .await?;
        }

        let config = control.dir().join("canary");
        copy_manifests(&tools::workspace()?.join("examples/canary"), &config)?;
        let cloud_map = [
            ("--cloud-map-endpoint", moto.endpoint()),
            ("--cloud-map-interval", CLOUD_MAP_INTERVAL.to_owned()),
        ];
        let cloud_map = cloud_map.map(|(flag, value)| format!("{flag}={value}"));
        let (api, control_plane) = if options.kubernetes {
            let (api, control_plane) =
                CanaryApi::build(&control, &cloud_map, &mut progress).await?;
            for command in api.apply_all(&config).await? {
                progress(&command);
            }
            (Some(api), control_plane)
        } else {
            progress("starting the control plane with a copy of examples/canary");
            let cloud_map = cloud_map.each_ref().map(String::as_str);
            let mut control_plane = ControlPlane::start_on(&control, &config, &cloud_map)?;
            control_plane.ready().await?;
            (None, control_plane)
        };

        progress(
            "starting an application and an Envoy on each host, and intercepting their traffic",
        );
        let xds = control_plane.xds();
        let mut apps = Vec::new();
        let mut proxies = vec![proxy(&front, "front_demo", xds, options).await?];
        Interception::default().install(&front)?;
        for (version, host) in &colors {
            apps.push(
                host.http_app(host.name(), (Ipv4Addr::LOCALHOST, 8080).into())
                    .await?,
            );
            proxies.push(proxy(host, &format!("color-{version}_demo"), xds, options).await?);
            Interception {
                app_ports: vec![8080],
                ..Interception::default()
            }
            .install(host)?;
        }
        Ok(Self {
            control_plane,
            options,
            moto: Mutex::new(moto),
            front,
            colors,
            config,
            api,
            proxies,
            _apps: apps,
            _lab: lab,
        })
    }

    /// The Envoy of front, followed by those of the instances of color.
    pub fn proxies(&self) -> &[Envoy] {
        &self.proxies
    }

    /// Starts to send requests from front to color.
    pub fn traffic(&self) -> Result<LabTraffic> {
        let mut command: Command = self.front.command(tools::built("evermesh-test-app")?);
        command.args([
            "load",
            "--connect",
            &COLOR.to_string(),
            "--host",
            "color.demo.local",
        ]);
        command.args(["--rate", &self.options.rate.to_string(), "--seconds", "600"]);
        let (process, output) =
            Process::spawn_reading("load", command, &self.front.dir().join("load.log"))?;
        Ok(LabTraffic {
            process,
            report: LoadReport::read(output),
        })
    }

    /// Changes the weights of the route and returns the time until the last proxy ACKed them.
    ///
    /// The weights must differ from the current ones; otherwise no proxy gets a change to ACK.
    pub async fn shift(&self, weights: [u32; 2]) -> Result<Duration> {
        let last = self.last_change().await?;
        let file = self.config.join(ROUTE);
        let text = with_weights(&fs::read_to_string(&file)?, weights);
        let written = SystemTime::now();
        fs::write(&file, text)?;
        let origin = match &self.api {
            Some(api) => api.apply(&file).await?,
            None => ROUTE,
        };
        self.acked_after(last, origin, written).await
    }

    /// Waits until the status of the route is about the newest weights and returns a `kubectl` command with its output,
    /// or `None` if the manifests are in a folder.
    pub async fn kubectl_get(&self) -> Result<Option<String>> {
        let Some(api) = &self.api else {
            return Ok(None);
        };
        api.kubectl_get().await.map(Some)
    }

    /// Registers an instance again and returns the time until the last proxy ACKed the change.
    pub async fn register(&self, instance: &str) -> Result<Duration> {
        let (version, host) = self
            .colors
            .iter()
            .find(|(_, host)| host.name() == instance)
            .with_context(|| format!("instance `{instance}` does not exist"))?;
        let last = self.last_change().await?;
        let start = SystemTime::now();
        self.moto
            .lock()
            .await
            .register(
                CLOUD_MAP.0,
                CLOUD_MAP.1,
                instance,
                host.ip(),
                &[("version", version)],
            )
            .await?;
        self.acked_after(last, INSTANCES, start).await
    }

    /// Removes an instance from Cloud Map and returns the time until the last proxy ACKed the change.
    ///
    /// The application keeps running, as during a graceful shutdown.
    pub async fn deregister(&self, instance: &str) -> Result<Duration> {
        let last = self.last_change().await?;
        let start = SystemTime::now();
        self.moto
            .lock()
            .await
            .deregister(CLOUD_MAP.0, CLOUD_MAP.1, instance)
            .await?;
        self.acked_after(last, INSTANCES, start).await
    }

    async fn last_change(&self) -> Result<u64> {
        Ok(self
            .control_plane
            .changes()
            .await?
            .last()
            .map_or(0, |change| change.id))
    }

    /// Waits until every proxy ACKed a change of `origin` that is newer than `last`; returns the time from `since` to
    /// the last ACK.
    async fn acked_after(&self, last: u64, origin: &str, since: SystemTime) -> Result<Duration> {
        let search = async {
            loop {
                for change in self.control_plane.changes().await? {
                    let is_awaited =
                        change.id > last && change.origins.iter().any(|name| name.contains(origin));
                    let Some(acked) = change.acked_ms.filter(|_| is_awaited) else {
                        continue;
                    };
                    if change.rejected > 0 {
                        bail!(
                            "a proxy rejected the change of {}",
                            change.origins.join(", ")
                        );
                    }
                    let at = SystemTime::UNIX_EPOCH
                        + Duration::from_secs_f64((change.at_ms + acked) / 1000.0);
                    return Ok(at.duration_since(since).unwrap_or_default());
                }
                tokio::time::sleep(POLL).await;
            }
        };
        match tokio::time::timeout(LIMIT, search).await {
            Ok(found) => found,
            Err(_) => bail!(
                "not every proxy ACKed within {LIMIT:?}; the newest change after {last} is {:?}; {}",
                self.control_plane.changes().await?.last(),
                self.control_plane.log()
            ),
        }
    }
}

impl LabTraffic {
    /// Stops the load client, waits for the last response, and returns the statistics of the whole run.
    pub async fn finish(mut self) -> Result<LoadStats> {
        self.process.terminate(LOAD_END).await?;
        self.report.total().await
    }
}

/// The number of answers of v1 and v2. Instances are called `color-v1-a` and so on.
pub fn by_version(answers: &BTreeMap<String, u64>) -> [u64; 2] {
    VERSIONS.map(|version| {
        answers
            .iter()
            .filter(|(answer, _)| answer.starts_with(&format!("color-{version}-")))
            .map(|(_, count)| count)
            .sum()
    })
}

/// Starts the Envoy of a virtual node on its host and waits until it is ready.
async fn proxy(
    host: &LabHost,
    node: &str,
    xds: SocketAddr,
    options: CanaryLabOptions,
) -> Result<Envoy> {
    let bootstrap = bootstrap(&format!("mesh/demo/virtualNode/{node}"), xds, options.sotw)?;
    let mut envoy = Envoy::start_on(host, &EnvoyOptions::new(options.version, bootstrap))?;
    envoy.ready().await?;
    Ok(envoy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_count_for_the_version_of_their_instance() {
        let answers = [
            ("color-v1-a", 1),
            ("color-v1-b", 2),
            ("color-v2-a", 4),
            ("upstream reset", 8),
        ];
        let answers = answers
            .map(|(answer, count)| (answer.to_owned(), count))
            .into();
        assert_eq!(by_version(&answers), [3, 4]);
    }
}
