//! The canary example on real hosts: each with an application and an Envoy, Cloud Map, and the control plane.
//!
//! `front` calls `http://color.demo.local`; two instances of each of two versions answer with their names.

mod cluster;
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
    cluster::CanaryApi,
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

/// Where `color.demo.local` would lead without a mesh: no host has the address, the proxies answer for it.
const COLOR: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 77, 255, 1)), 80);

/// The versions of color.
const VERSIONS: [&str; 2] = ["v1", "v2"];

/// The Cloud Map namespace and service of the example.
const CLOUD_MAP: (&str, &str) = ("demo.local", "color");

/// How often Cloud Map is asked for changes.
const CLOUD_MAP_INTERVAL: &str = "200ms";

/// How the control plane calls changes of the service's instances.
const INSTANCES: &str = "cloud-map:color.demo.local";

/// The file that holds the weights.
const ROUTE: &str = "route.yaml";

/// How often the control plane is asked for ACKs; it knows itself when they came.
const POLL: Duration = Duration::from_millis(50);

/// How long a change may take to reach every proxy.
const PATIENCE: Duration = Duration::from_secs(10);

/// Longer than the load client waits for an answer.
const LAST_ANSWER: Duration = Duration::from_secs(30);

/// How the stage is built.
#[derive(Clone, Copy, Debug)]
pub struct CanaryLabOptions {
    /// The Envoy on every host.
    pub version: EnvoyVersion,
    /// Whether the proxies speak state-of-the-world xDS instead of delta.
    pub sotw: bool,
    /// Requests per second.
    pub rate: u32,
    /// Whether the manifests are in a cluster's API, written by `kubectl`, instead of a folder.
    pub cluster: bool,
}

impl Default for CanaryLabOptions {
    fn default() -> Self {
        Self {
            version: EnvoyVersion::Newest,
            sotw: false,
            rate: 200,
            cluster: false,
        }
    }
}

/// Everything that runs; dropping it ends it all.
#[derive(Debug)]
pub struct CanaryLab {
    /// The control plane; it reads a copy of the example.
    pub control_plane: ControlPlane,
    options: CanaryLabOptions,
    moto: Mutex<Moto>,
    front: LabHost,
    /// The instances of color and their versions.
    colors: Vec<(&'static str, LabHost)>,
    config: PathBuf,
    /// The API that the manifests are in, if they are in one.
    cluster: Option<CanaryApi>,
    proxies: Vec<Envoy>,
    _apps: Vec<Process>,
    _lab: Lab,
}

/// The requests of front while they are sent.
#[derive(Debug)]
pub struct LabTraffic {
    process: Process,
    /// What came back so far.
    pub report: LoadReport,
}

impl CanaryLab {
    /// Builds it up; `say` hears of each step.
    pub async fn build(options: CanaryLabOptions, mut say: impl FnMut(&str)) -> Result<Self> {
        say("making hosts: network namespaces, joined by a bridge");
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

        say("starting Cloud Map (moto) and registering two instances of each version");
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
        let (cluster, control_plane) = if options.cluster {
            let (cluster, control_plane) = CanaryApi::build(&control, &cloud_map, &mut say).await?;
            for command in cluster.apply_all(&config).await? {
                say(&command);
            }
            (Some(cluster), control_plane)
        } else {
            say("starting the control plane on a copy of examples/canary");
            let cloud_map = cloud_map.each_ref().map(String::as_str);
            let mut control_plane = ControlPlane::start_on(&control, &config, &cloud_map)?;
            control_plane.ready().await?;
            (None, control_plane)
        };

        say("starting an application and an Envoy on every host, and intercepting their traffic");
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
            cluster,
            proxies,
            _apps: apps,
            _lab: lab,
        })
    }

    /// The Envoy of front, then those of the instances.
    pub fn proxies(&self) -> &[Envoy] {
        &self.proxies
    }

    /// Starts the requests of front.
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

    /// Writes new weights into the route's file; returns the time from then to the last proxy's ACK.
    ///
    /// The weights must be others than before: without a change nobody ACKs.
    pub async fn shift(&self, weights: [u32; 2]) -> Result<Duration> {
        let last = self.last_change().await?;
        let file = self.config.join(ROUTE);
        let text = with_weights(&fs::read_to_string(&file)?, weights);
        let written = SystemTime::now();
        fs::write(&file, text)?;
        let origin = match &self.cluster {
            Some(cluster) => cluster.apply(&file).await?,
            None => ROUTE,
        };
        self.acked_after(last, origin, written).await
    }

    /// What `kubectl` shows of the route once its status is about the newest weights, as commands and their outputs;
    /// nothing without a cluster.
    pub async fn shown(&self) -> Result<Option<String>> {
        let Some(cluster) = &self.cluster else {
            return Ok(None);
        };
        cluster.shown().await.map(Some)
    }

    /// Registers an instance that was deregistered; returns the time from then to the last proxy's ACK.
    pub async fn register(&self, instance: &str) -> Result<Duration> {
        let (version, host) = self
            .colors
            .iter()
            .find(|(_, host)| host.name() == instance)
            .with_context(|| format!("there is no instance {instance}"))?;
        let last = self.last_change().await?;
        let asked = SystemTime::now();
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
        self.acked_after(last, INSTANCES, asked).await
    }

    /// Takes an instance out of Cloud Map; returns the time from then to the last proxy's ACK.
    ///
    /// It keeps running, as an instance does that is about to leave.
    pub async fn deregister(&self, instance: &str) -> Result<Duration> {
        let last = self.last_change().await?;
        let asked = SystemTime::now();
        self.moto
            .lock()
            .await
            .deregister(CLOUD_MAP.0, CLOUD_MAP.1, instance)
            .await?;
        self.acked_after(last, INSTANCES, asked).await
    }

    async fn last_change(&self) -> Result<u64> {
        Ok(self
            .control_plane
            .changes()
            .await?
            .last()
            .map_or(0, |change| change.id))
    }

    /// Waits until the change of `origin` after `last` has its last ACK.
    async fn acked_after(&self, last: u64, origin: &str, since: SystemTime) -> Result<Duration> {
        let search = async {
            loop {
                for change in self.control_plane.changes().await? {
                    let awaited =
                        change.id > last && change.origins.iter().any(|name| name.contains(origin));
                    let Some(acked) = change.acked_ms.filter(|_| awaited) else {
                        continue;
                    };
                    if change.rejected > 0 {
                        bail!(
                            "a proxy refused the change of {}",
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
        match tokio::time::timeout(PATIENCE, search).await {
            Ok(found) => found,
            Err(_) => bail!(
                "not every proxy ACKed within {PATIENCE:?}; after change {last} came {:?}; {}",
                self.control_plane.changes().await?.last(),
                self.control_plane.log()
            ),
        }
    }
}

impl LabTraffic {
    /// Sends no more, waits for every answer, and returns the sum of all that was sent.
    pub async fn finish(mut self) -> Result<LoadStats> {
        self.process.terminate(LAST_ANSWER).await?;
        self.report.total().await
    }
}

/// Answers of v1 and v2; instances are called `color-v1-a` and so on.
pub fn by_version(answers: &BTreeMap<String, u64>) -> [u64; 2] {
    VERSIONS.map(|version| {
        answers
            .iter()
            .filter(|(answer, _)| answer.starts_with(&format!("color-{version}-")))
            .map(|(_, count)| count)
            .sum()
    })
}

/// Starts the Envoy of a virtual node on its host and waits for its configuration.
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
    fn instances_count_for_their_version() {
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
