//! The hosts of an example: an application and an Envoy for each virtual node and gateway, and the control plane with a
//! copy of the folder.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::{Ipv4Addr, SocketAddr},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use evermesh::{
    engine::{Engine, EngineOutputs},
    source::{ChangeBatch, file},
};
use evermesh_ingest::IngestSettings;
use evermesh_model::{CloudMapService, Discovery, Graph, Protocol, ResolvedNode, ResourceName};
use evermesh_testkit::{
    control_plane::{ControlPlane, bootstrap},
    envoy::{Envoy, EnvoyOptions, EnvoyVersion},
    hosts::{Lab, LabHost},
    interception::Interception,
    moto::Moto,
    process::Process,
};
use tokio::process::Command;

use crate::{
    readme::Step,
    setup::{Setup, setup},
};

/// The address of services. No host has it, so only an Envoy makes it reachable.
const SERVICES: Ipv4Addr = Ipv4Addr::new(10, 77, 255, 1);

/// The port of Envoy's admin page in the bootstrap that `evermesh bootstrap` prints.
const ADMIN_PORT: u16 = 9901;

/// Seconds after which a command is ended.
const COMMAND_LIMIT: &str = "60";

pub(crate) struct ExampleLab {
    control_plane: ControlPlane,
    control: LabHost,
    hosts: BTreeMap<String, LabHost>,
    envoys: BTreeMap<String, Envoy>,
    /// The folder that contains `examples`, and a folder for each host.
    dir: PathBuf,
    apps: Vec<Process>,
    _moto: Option<Moto>,
    _lab: Lab,
}

impl ExampleLab {
    /// Starts the hosts of an example and waits until they are ready.
    pub(crate) async fn build(folder: &Path, steps: &[Step]) -> Self {
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
        let endpoint = moto.as_ref().map(Moto::endpoint).unwrap_or_default();
        let arguments = [
            "--cloud-map-interval=200ms",
            "--cloud-map-endpoint",
            &endpoint,
        ];
        let arguments = if moto.is_some() { &arguments[..] } else { &[] };
        let control_plane = ControlPlane::start_on(&control, &config, arguments).unwrap();
        let mut built = Self {
            control_plane,
            control,
            hosts,
            envoys: BTreeMap::new(),
            dir,
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
        let bootstrap = bootstrap(&proxy.to_string(), self.control_plane.xds(), false).unwrap();
        let mut options = EnvoyOptions::new(EnvoyVersion::Newest, bootstrap);
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
    pub(crate) async fn run(&self, step: &Step) -> String {
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

/// The meshes of a folder.
fn graph(folder: &Path) -> Arc<Graph> {
    let outputs = EngineOutputs::unserved();
    let newest = outputs.snapshots.subscribe();
    let mut engine = Engine::new([], IngestSettings::default(), outputs);
    engine.step([ChangeBatch::new(Instant::now(), file::read_once(folder))]);
    let snapshot = Arc::clone(&newest.borrow());
    Arc::clone(&snapshot.graph)
}

/// Copies the files of a folder.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in from.read_dir().unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
}

/// The hosts of a node.
fn instances<'a>(node: &'a ResolvedNode, setup: &Setup) -> Vec<&'a str> {
    let name = &*node.object.name;
    let several = setup.instances.iter().find(|(node, _)| *node == name);
    several.map_or_else(|| vec![name], |(_, hosts)| hosts.to_vec())
}

/// The hosts of all nodes and gateways, the servers outside of the mesh, and clients that only a prompt names.
fn host_names(graph: &Graph, setup: &Setup, steps: &[Step]) -> BTreeSet<String> {
    let nodes = graph.nodes.values().flat_map(|node| instances(node, setup));
    let gateways = graph.gateways.values().map(|gateway| &*gateway.object.name);
    let mut names: BTreeSet<String> = nodes.chain(gateways).map(str::to_owned).collect();
    for known in setup.broken.iter().chain(setup.bare) {
        assert!(names.contains(*known), "{known} is not a host");
    }
    for (node, _) in setup.instances {
        let mut nodes = graph.nodes.values();
        assert!(
            nodes.any(|it| *it.object.name == **node),
            "{node} is not a node"
        );
    }
    names.extend(setup.outside.iter().map(|&name| name.to_owned()));
    names.extend(steps.iter().filter_map(|step| step.host.clone()));
    names
}

/// The names that every host resolves: nodes to the addresses of their hosts, services to an address that only Envoy
/// handles, gateways and servers outside of the mesh to their own address.
fn resolvable(
    graph: &Graph,
    setup: &Setup,
    hosts: &BTreeMap<String, LabHost>,
) -> Vec<(String, Ipv4Addr)> {
    let mut names = Vec::new();
    for node in graph.nodes.values() {
        if let Some(Discovery::Dns { hostname, .. }) = &node.discovery {
            let instances = instances(node, setup).into_iter();
            names.extend(instances.map(|host| (hostname.to_string(), hosts[host].ip())));
        }
    }
    for service in graph.services.values() {
        if !names
            .iter()
            .any(|(name, _)| **name == *service.name.hostname)
        {
            names.push((service.name.hostname.to_string(), SERVICES));
        }
    }
    let gateways = graph.gateways.values().map(|gateway| &*gateway.object.name);
    for host in gateways.chain(setup.outside.iter().copied()) {
        names.push((host.to_owned(), hosts[host].ip()));
    }
    names
}

/// Cloud Map with the instances of the nodes that it discovers; `None` if there are none.
async fn cloud_map(
    graph: &Graph,
    setup: &Setup,
    control: &LabHost,
    hosts: &BTreeMap<String, LabHost>,
) -> Option<Moto> {
    let discovered = graph
        .nodes
        .values()
        .filter_map(|node| match &node.discovery {
            Some(Discovery::CloudMap {
                service,
                attributes,
                ..
            }) => Some((node, service, attributes)),
            _ => None,
        });
    let discovered: Vec<_> = discovered.collect();
    let services: BTreeSet<_> = discovered.iter().map(|(_, service, _)| *service).collect();
    let namespaces: BTreeSet<_> = services.iter().map(|service| &service.namespace).collect();
    if discovered.is_empty() {
        return None;
    }
    let mut moto = Moto::start_on(control).await.unwrap();
    for namespace in namespaces {
        moto.create_http_namespace(namespace).await.unwrap();
    }
    for CloudMapService { namespace, service } in services {
        moto.create_service(namespace, service).await.unwrap();
    }
    for (node, CloudMapService { namespace, service }, attributes) in discovered {
        let attributes = attributes.iter().map(|(key, value)| (&**key, &**value));
        let attributes: Vec<_> = attributes.collect();
        for host in instances(node, setup) {
            let ip = hosts[host].ip();
            let registered = moto.register(namespace, service, host, ip, &attributes);
            registered.await.unwrap();
        }
    }
    Some(moto)
}
