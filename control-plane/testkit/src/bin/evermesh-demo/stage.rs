//! The stage: hosts with an application and an Envoy each, Cloud Map, and the control plane.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result, bail};
use evermesh_testkit::{
    control_plane::{ControlPlane, bootstrap},
    envoy::{Envoy, EnvoyOptions, Version},
    hosts::{Host, Lab},
    interception::Interception,
    load::Tally,
    moto::Moto,
    process::Process,
    tools,
};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    sync::mpsc,
};

/// Where `color.demo.local` would lead without a mesh: no host has the address, the proxies answer for it.
const COLOR: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(10, 77, 255, 1)), 80);

/// The instances of color, by version.
const INSTANCES: [(&str, &str); 4] = [("v1", "a"), ("v1", "b"), ("v2", "a"), ("v2", "b")];

/// The Cloud Map namespace and service of the example.
const CLOUD_MAP: (&str, &str) = ("demo.local", "color");

/// Requests per second.
pub(crate) const RATE: u32 = 200;

/// How long a change may take to reach every proxy.
const PATIENCE: Duration = Duration::from_secs(10);

/// Everything that runs; dropping it ends it all.
pub(crate) struct Stage {
    pub(crate) control_plane: ControlPlane,
    moto: Moto,
    front: Host,
    config: PathBuf,
    _proxies: Vec<Envoy>,
    _apps: Vec<Process>,
    _lab: Lab,
}

impl Stage {
    /// Builds it up; `say` hears of each step.
    pub(crate) async fn build(mut say: impl FnMut(&str)) -> Result<Self> {
        say("making hosts: network namespaces, joined by a bridge");
        let mut lab = Lab::start().await?;
        let control = lab.host("control").await?;
        let front = lab.host("front").await?;
        let mut colors = Vec::new();
        for (version, letter) in INSTANCES {
            colors.push((
                version,
                lab.host(&format!("color-{version}-{letter}")).await?,
            ));
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

        say("starting the control plane on a copy of examples/canary");
        let config = control.dir().join("canary");
        copy_manifests(&tools::workspace()?.join("examples/canary"), &config)?;
        let cloud_map = [
            "--cloud-map-endpoint",
            &moto.endpoint(),
            "--cloud-map-interval",
            "1s",
        ];
        let mut control_plane = ControlPlane::start_on(&control, &config, &cloud_map)?;
        control_plane.ready().await?;

        say("starting an application and an Envoy on every host, and intercepting their traffic");
        let xds = control_plane.xds();
        let (mut apps, mut proxies) = (Vec::new(), vec![proxy(&front, "front_demo", xds).await?]);
        Interception::default().install(&front)?;
        for (version, host) in &colors {
            apps.push(
                host.http_app(host.name(), (Ipv4Addr::LOCALHOST, 8080).into())
                    .await?,
            );
            proxies.push(proxy(host, &format!("color-{version}_demo"), xds).await?);
            Interception {
                app_ports: vec![8080],
                ..Interception::default()
            }
            .install(host)?;
        }
        Ok(Self {
            control_plane,
            moto,
            front,
            config,
            _proxies: proxies,
            _apps: apps,
            _lab: lab,
        })
    }

    /// Starts the load on front; a tally comes every second.
    pub(crate) fn load(&self) -> Result<(Process, mpsc::UnboundedReceiver<Tally>)> {
        let mut command: Command = self.front.command(tools::built("evermesh-test-app")?);
        command.args([
            "load",
            "--connect",
            &COLOR.to_string(),
            "--host",
            "color.demo.local",
        ]);
        command.args(["--rate", &RATE.to_string(), "--seconds", "600"]);
        let (process, output) =
            Process::spawn_reading("load", command, &self.front.dir().join("load.log"))?;
        let (sender, tallies) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            let mut lines = BufReader::new(output).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                let Ok(tally) = serde_json::from_str(&line) else {
                    break;
                };
                if sender.send(tally).is_err() {
                    break;
                }
            }
        });
        Ok((process, tallies))
    }

    /// Writes new weights into the route's file; returns the time from then to the last proxy's ACK.
    pub(crate) async fn shift(&self, weights: [u32; 2]) -> Result<Duration> {
        let last = self.last_change().await?;
        let file = self.config.join("route.yaml");
        let text = with_weights(&fs::read_to_string(&file)?, weights);
        let written = SystemTime::now();
        fs::write(&file, text)?;
        self.acked_after(last, written).await
    }

    /// Takes an instance out of Cloud Map; returns the time from then to the last proxy's ACK.
    pub(crate) async fn deregister(&mut self, instance: &str) -> Result<Duration> {
        let last = self.last_change().await?;
        let asked = SystemTime::now();
        self.moto
            .deregister(CLOUD_MAP.0, CLOUD_MAP.1, instance)
            .await?;
        self.acked_after(last, asked).await
    }

    async fn last_change(&self) -> Result<u64> {
        Ok(self
            .control_plane
            .changes()
            .await?
            .last()
            .map_or(0, |change| change.id))
    }

    /// Waits until the change after `last` has its last ACK.
    async fn acked_after(&self, last: u64, since: SystemTime) -> Result<Duration> {
        let search = async {
            loop {
                for change in self.control_plane.changes().await? {
                    let Some(acked) = change.acked_ms.filter(|_| change.id > last) else {
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
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(PATIENCE, search)
            .await
            .with_context(|| {
                format!(
                    "not every proxy ACKed within {PATIENCE:?}; {}",
                    self.control_plane.log()
                )
            })?
    }
}

/// Starts the Envoy of a virtual node on its host and waits for its configuration.
async fn proxy(host: &Host, node: &str, xds: SocketAddr) -> Result<Envoy> {
    let bootstrap = bootstrap(&format!("mesh/demo/virtualNode/{node}"), xds)?;
    let mut envoy = Envoy::start_on(host, &EnvoyOptions::new(Version::Newest, bootstrap))?;
    envoy.ready().await?;
    Ok(envoy)
}

fn copy_manifests(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let path = entry?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "yaml")
        {
            fs::copy(
                &path,
                to.join(path.file_name().context("a file has a name")?),
            )?;
        }
    }
    Ok(())
}

/// The text with its `weight:` lines set, one after the other.
fn with_weights(text: &str, weights: [u32; 2]) -> String {
    let mut weights = weights.iter();
    let lines = text.lines().map(|line| match line.split_once("weight:") {
        Some((before, _)) => weights.next().map_or_else(
            || line.to_owned(),
            |weight| format!("{before}weight: {weight}"),
        ),
        None => line.to_owned(),
    });
    lines.map(|line| line + "\n").collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_set_in_order_and_nothing_else() {
        let text = "# Weights\n- name: a\n  weight: 100\n- name: b\n  weight: 0\n";
        assert_eq!(
            with_weights(text, [90, 10]),
            "# Weights\n- name: a\n  weight: 90\n- name: b\n  weight: 10\n"
        );
    }
}
