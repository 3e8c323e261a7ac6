//! The hosts of an example and the names that they resolve.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::Ipv4Addr,
    path::Path,
    sync::Arc,
    time::Instant,
};

use evermesh::{
    engine::{Engine, EngineOutputs},
    source::{ChangeBatch, file},
};
use evermesh_ingest::IngestSettings;
use evermesh_model::{Discovery, Graph, ResolvedNode};
use evermesh_testkit::{hosts::LabHost, readme::ReadmeStep};

use crate::setup::Setup;

/// The address of services. No host has it, so only an Envoy makes it reachable.
const SERVICES: Ipv4Addr = Ipv4Addr::new(10, 77, 255, 1);

/// The meshes of a folder.
pub(crate) fn graph(folder: &Path) -> Arc<Graph> {
    let outputs = EngineOutputs::unserved();
    let newest = outputs.snapshots.subscribe();
    let mut engine = Engine::new([], IngestSettings::default(), outputs);
    engine.step([ChangeBatch::new(Instant::now(), file::read_once(folder))]);
    let snapshot = Arc::clone(&newest.borrow());
    Arc::clone(&snapshot.graph)
}

/// Copies the files of a folder.
pub(crate) fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in from.read_dir().unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
}

/// The hosts of a node.
pub(crate) fn instances<'a>(node: &'a ResolvedNode, setup: &Setup) -> Vec<&'a str> {
    let name = &*node.object.name;
    let several = setup.instances.iter().find(|(node, _)| *node == name);
    several.map_or_else(|| vec![name], |(_, hosts)| hosts.to_vec())
}

/// The hosts of all nodes and gateways, the servers outside of the mesh, and clients that only a prompt names.
pub(crate) fn host_names(graph: &Graph, setup: &Setup, steps: &[ReadmeStep]) -> BTreeSet<String> {
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
pub(crate) fn resolvable(
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
