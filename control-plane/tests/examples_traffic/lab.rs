//! The hosts of an example: an application and an Envoy for each virtual node and gateway, and the control plane with a
//! copy of the folder.

use std::{
    collections::BTreeMap,
    fs,
    net::{Ipv4Addr, SocketAddr},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use evermesh_model::{Graph, Protocol, ResolvedNode, ResourceName};
use evermesh_testkit::{
    control_plane::{ControlPlane, bootstrap_with},
    envoy::{Envoy, EnvoyOptions, EnvoyVersion},
    hosts::{Lab, LabHost},
    interception::Interception,
    moto::Moto,
    process::Process,
    readme::ReadmeStep,
};
use serde_json::Value;
use tokio::process::Command;

use crate::{
    hosts::{copy, graph, host_names, instances, resolvable},
    services::{ExampleSettings, cloud_map},
    setup::{Setup, setup},
};

/// The port of Envoy's admin page in the bootstrap that `evermesh bootstrap` prints.
const ADMIN_PORT: u16 = 9901;

/// Seconds after which a command is ended.
const COMMAND_LIMIT: &str = "60";

/// The Envoys of a lab and the protocol by which they get their configuration.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ProxyVariant {
    pub(crate) version: EnvoyVersion,
    /// Use state-of-the-world xDS instead of delta.
    pub(crate) sotw: bool,
}

pub(crate) struct ExampleLab {
    variant: ProxyVariant,
    control_plane: ControlPlane,
    control: LabHost,
    hosts: BTreeMap<String, LabHost>,
    envoys: BTreeMap<String, Envoy>,
    /// The folder that contains `examples`, and a folder for each host.
    dir: PathBuf,
    /// Arguments of `evermesh bootstrap`.
    proxy_arguments: Vec<String>,
    apps: Vec<Process>,
    _moto: Option<Moto>,
    _lab: Lab,
}

impl ExampleLab {
    /// Starts the hosts of an example and waits until they are ready.
    pub(crate) async fn build(folder: &Path, steps: &[ReadmeStep], variant: ProxyVariant) -> Self {
        let name = folder.file_name().unwrap().to_str().unwrap();
        let setup = setup(name);
        let graph = graph(folder);
        let mut lab = Lab::start().await.unwrap();
        let control = lab.host("control").await.unwrap();
        let dir = control.dir().join("work");
        let config = dir.join("examples").join(name);
        copy(folder, &config);

        let mut hosts = BTreeMap::new();
        for host in host_names(&graph, &setup, steps) {
            fs::create_dir(dir.join(&host)).unwrap();
            hosts.insert(host.clone(), lab.host(&host).await.unwrap());
        }
        for (name, address) in setup.addresses {
            let host: &LabHost = &hosts[*name];
            host.shell(&format!("ip address add {address}/16 dev eth0"))
                .unwrap();
        }
        let names = resolvable(&graph, &setup, &hosts);
        for host in hosts.values() {
            let names = names
                .iter()
                .map(|(name, address)| (name.as_str(), *address));
            host.resolve(names).unwrap();
        }

        let moto = cloud_map(&graph, &setup, &control, &hosts).await;
        let mut settings = ExampleSettings::default();
        if let Some(moto) = &moto {
            let endpoint = format!("--cloud-map-endpoint={}", moto.endpoint());
            settings.server = vec!["--cloud-map-interval=200ms".to_owned(), endpoint];
        }
        settings.add_certificates(&graph, folder, &control, &hosts);
        let arguments: Vec<&str> = settings.server.iter().map(String::as_str).collect();
        let control_plane = ControlPlane::start_on(&control, &config, &arguments).unwrap();
        let mut built = Self {
            variant,
            control_plane,
            control,
            hosts,
            envoys: BTreeMap::new(),
            dir,
            proxy_arguments: settings.proxies,
            apps: Vec::new(),
            _moto: moto,
            _lab: lab,
        };
        built.start(&graph, &setup).await;
        built
    }

    async fn start(&mut self, graph: &Graph, setup: &Setup) {
        self.control_plane.ready().await.unwrap();
        for node in graph.nodes.values() {
            for host in instances(node, setup) {
                self.start_node(node, setup, host).await;
            }
        }
        for gateway in graph.gateways.values() {
            self.start_envoy(&gateway.object.name, &gateway.name);
        }
        for host in setup.outside {
            for port in [80, 8080] {
                let app = self.hosts[*host].http_app(host, (Ipv4Addr::UNSPECIFIED, port).into());
                self.apps.push(app.await.unwrap());
            }
        }
        for envoy in self.envoys.values_mut() {
            envoy.ready().await.unwrap();
        }
    }

    async fn start_node(&mut self, node: &ResolvedNode, setup: &Setup, name: &str) {
        let host = self.hosts[name].clone();
        let is_bare = setup.bare.contains(&name);
        for listener in &node.listeners {
            if setup.broken.contains(&name) {
                continue;
            }
            let local = node.local_ports.as_ref();
            let port = local.and_then(|ports| ports.application.get(&listener.port));
            let ip = if is_bare {
                Ipv4Addr::UNSPECIFIED
            } else {
                Ipv4Addr::LOCALHOST
            };
            let listen = SocketAddr::from((ip, *port.unwrap_or(&listener.port)));
            let app = match listener.protocol {
                Protocol::Tcp => host.tcp_app(name, listen).await,
                Protocol::Http | Protocol::Http2 | Protocol::Grpc => {
                    host.http_app(name, listen).await
                }
            };
            self.apps.push(app.unwrap());
        }
        if is_bare {
            return;
        }
        self.start_envoy(name, &node.name);
        if node.local_ports.is_none() {
            let app_ports = node
                .listeners
                .iter()
                .map(|listener| listener.port)
                .collect();
            let interception = Interception {
                app_ports,
                ..Interception::default()
            };
            interception.install(&host).unwrap();
        }
    }

    /// Starts an Envoy whose output is in the file `envoy.log` of the host's folder.
    fn start_envoy(&mut self, host: &str, proxy: &ResourceName) {
        let arguments = self.proxy_arguments.iter().map(String::as_str);
        let mut arguments: Vec<&str> = arguments.collect();
        if self.variant.sotw {
            arguments.push("--sotw");
        }
        let bootstrap =
            bootstrap_with(&proxy.to_string(), self.control_plane.xds(), &arguments).unwrap();
        let mut options = EnvoyOptions::new(self.variant.version, bootstrap);
        // Envoy writes an access log every ten seconds by default.
        options.arguments = ["--file-flush-interval-msec", "100"]
            .map(str::to_owned)
            .into();
        let started = Envoy::start_with_admin_port_on(&self.hosts[host], &options, ADMIN_PORT);
        let mut envoy = started.unwrap();
        let log = self.dir.join(host).join("envoy.log");
        symlink(envoy.process().log_file(), log).unwrap();
        self.envoys.insert(host.to_owned(), envoy);
    }

    /// Runs a command of the README and returns what a terminal would show.
    pub(crate) async fn run(&self, step: &ReadmeStep) -> String {
        let (host, folder) = match &step.host {
            Some(name) => (&self.hosts[name], self.dir.join(name)),
            None => (&self.control, self.dir.clone()),
        };
        let mut command = host.command("timeout");
        let script = format!("cd {} && exec 2>&1\n{}", folder.display(), step.command);
        command.args([COMMAND_LIMIT, "bash", "-c", &script]);
        let output = Command::from(command).output().await.unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Whether every Envoy is connected with the protocol of the variant and has ACKed every resource.
    pub(crate) async fn is_accepted(&self) -> bool {
        let proxies = self.control_plane.proxies().await.unwrap();
        let proxies = proxies.as_array().unwrap();
        let flavour = if self.variant.sotw { "sotw" } else { "delta" };
        let is_acked = |resource: &Value| {
            resource["rejected"].is_null()
                && !resource["sent"].is_null()
                && resource["acked"] == resource["sent"]
        };
        proxies.len() == self.envoys.len()
            && proxies.iter().all(|proxy| {
                let resources = proxy["resources"].as_array().unwrap();
                proxy["flavour"] == flavour && resources.iter().all(is_acked)
            })
    }

    /// The counters of rejected updates, which are not zero, of all Envoys.
    pub(crate) async fn rejected(&self) -> Vec<String> {
        let mut rejected = Vec::new();
        for (name, envoy) in &self.envoys {
            let stats = envoy.stats().await.unwrap();
            let stats = stats.iter().filter(|(_, count)| **count > 0);
            let stats = stats.filter(|(stat, _)| stat.ends_with(".update_rejected"));
            rejected.extend(stats.map(|(stat, count)| format!("{name}: {stat}: {count}")));
        }
        rejected
    }

    /// Problems of the manifests, and Envoy's counters of requests and connections, for the message of a failure.
    pub(crate) async fn report(&self) -> String {
        let problems = self.control_plane.admin().get("/debug/problems").await;
        let mut report = vec![format!("problems: {}", problems.unwrap_or_default())];
        for (name, envoy) in &self.envoys {
            let stats = envoy.stats().await.unwrap_or_default();
            let stats = stats.iter().filter(|(_, count)| **count > 0);
            let stats = stats.filter(|(stat, _)| stat.contains("_rq_") || stat.contains("_cx_"));
            report.extend(stats.map(|(stat, count)| format!("{name}: {stat}: {count}")));
        }
        report.join("\n")
    }
}
