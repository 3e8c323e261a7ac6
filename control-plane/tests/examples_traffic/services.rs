//! The services that the hosts of an example use: AWS Cloud Map, certificates, the agent of SPIRE, and an xDS server that
//! sends private keys.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use evermesh_model::{CloudMapService, Discovery, Graph};
use evermesh_testkit::{hosts::LabHost, moto::Moto};

use crate::{certificates::Authority, hosts::instances, setup::Setup};

/// The folder in which examples expect certificates, as a Secret would be mounted.
const CERTIFICATES: &str = "/run/certs";

/// The socket of the secret discovery service of a SPIRE agent.
const SDS: &str = "/run/spire/sockets/agent.sock";

/// Arguments that depend on the example.
#[derive(Default)]
pub(crate) struct ExampleSettings {
    /// Arguments of `evermesh serve`.
    pub(crate) server: Vec<String>,
    /// Arguments of `evermesh bootstrap`.
    pub(crate) proxies: Vec<String>,
}

impl ExampleSettings {
    /// Gives the hosts what the example names: the folder [`CERTIFICATES`], the socket [`SDS`], or an xDS server that
    /// may send private keys.
    pub(crate) fn add_certificates(
        &mut self,
        graph: &Graph,
        folder: &Path,
        control: &LabHost,
        hosts: &BTreeMap<String, LabHost>,
    ) {
        let authority = Authority::new();
        let certificates = control.dir().join("certificates");
        if mentions(folder, CERTIFICATES) {
            let example = folder.file_name().unwrap().to_str().unwrap();
            for (name, host) in hosts {
                let own = certificates.join(name);
                let in_cluster = format!("{name}.{example}.svc.cluster.local");
                authority.write_for_names(&own, &[&in_cluster]);
                provide(host, CERTIFICATES, &own);
            }
        }
        let socket = control.dir().join("sds.sock");
        if authority.serve_sds(graph, &socket) {
            for host in hosts.values() {
                provide(host, SDS, &socket);
            }
            self.proxies
                .extend(["--sds-socket", SDS].map(str::to_owned));
        }
        if graph
            .meshes
            .values()
            .any(|mesh| !mesh.acm_certificates.is_empty())
        {
            let own = certificates.join("control");
            authority.write_for_address(&own, control.ip().into());
            fs::write(own.join("token"), "token").unwrap();
            let file = |name: &str| own.join(name).display().to_string();
            self.server.extend([
                format!("--xds-tls-cert={}", file("tls.crt")),
                format!("--xds-tls-key={}", file("tls.key")),
                "--xds-authentication=token".to_owned(),
                format!("--xds-token-file={}", file("token")),
            ]);
            self.proxies.extend([
                format!("--xds-ca={}", file("ca.crt")),
                format!("--xds-token={}", file("token")),
            ]);
        }
    }
}

/// Whether a file of a folder contains a text.
fn mentions(folder: &Path, text: &str) -> bool {
    let mut files = folder
        .read_dir()
        .unwrap()
        .map(|entry| entry.unwrap().path());
    files.any(|file| fs::read_to_string(file).unwrap().contains(text))
}

/// Lets a path below /run lead to a file or folder, on one host.
fn provide(host: &LabHost, path: &str, target: &Path) {
    let target = target.display();
    let parent = Path::new(path).parent().unwrap().display();
    host.shell(&format!(
        "mount -t tmpfs -o mode=755 tmpfs /run && mkdir -p {parent} && ln -s {target} {path}"
    ))
    .unwrap();
}

/// Cloud Map with the instances of the nodes that it discovers; `None` if there are none.
pub(crate) async fn cloud_map(
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
