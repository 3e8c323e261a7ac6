//! Local ports: annotations of a `VirtualNode` that replace interception by loopback ports between application and
//! proxy.
//!
//! - `evermesh.dev/backend-ports: "color.shop=9001, tone.shop:80=9002"` makes the proxy listen on loopback port 9001 for
//!   calls to `color.shop` and on 9002 for calls to port 80 of `tone.shop`.
//! - `evermesh.dev/application-ports: "8080=18080"` makes the proxy forward requests for listener 8080 to loopback port
//!   18080, on which the application listens.
//!
//! With either annotation, none of the node's traffic is intercepted. Backends and listeners that are missing from the
//! annotations, or are invalid in them, are not served.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    sync::Arc,
};

use evermesh_crds::v1beta2;
use evermesh_model::{
    Kind, LocalBackend, LocalPorts, ObjectRef, Reason, ServiceName, problem::FieldPath,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::{
    name_index::{IndexEntry, Name as _},
    stage::Problems,
};

const BACKENDS: &str = "evermesh.dev/backend-ports";
const APPLICATION: &str = "evermesh.dev/application-ports";

/// Ports that the proxy uses: 15000 and 15001 for intercepted traffic, 9901 for the admin interface.
const PROXY_PORTS: [u16; 3] = [15000, 15001, 9901];

/// Returns whether a node's traffic is intercepted: whether the node has neither annotation, not even an empty one.
pub fn is_intercepted(node: &ObjectMeta) -> bool {
    [BACKENDS, APPLICATION]
        .into_iter()
        .all(|name| annotation(node, name).is_none())
}

/// Returns the ports of listeners with TLS mode `STRICT` that would accept plaintext from any caller: their traffic is not
/// intercepted, and the annotation does not put the proxy in front of the application.
pub fn unprotected(node: &v1beta2::VirtualNode) -> Vec<u16> {
    let listeners = node.spec.listeners.as_deref().unwrap_or_default();
    let ports = listeners
        .iter()
        .map(|listener| listener.port_mapping.port)
        .collect();
    let object = ObjectRef::new(Kind::VirtualNode, "", "");
    let Some(local) = parse(&node.metadata, &ports, &mut Problems::of(&object)) else {
        return Vec::new();
    };
    let strict = strict_ports(node).into_iter();
    strict
        .filter(|port| !local.application.contains_key(port))
        .collect()
}

/// Returns the ports of listeners that forbid plaintext: those with TLS mode `STRICT`.
pub fn strict_ports(node: &v1beta2::VirtualNode) -> Vec<u16> {
    let listeners = node.spec.listeners.iter().flatten();
    let is_strict = |listener: &&v1beta2::Listener| {
        let tls = listener.tls.as_ref();
        tls.is_some_and(|tls| tls.mode == v1beta2::TlsMode::Strict)
    };
    listeners
        .filter(is_strict)
        .map(|listener| listener.port_mapping.port)
        .collect()
}

/// The parsed annotations, before the backends are looked up.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct UnresolvedLocalPorts {
    backends: Vec<LocalBackendPort>,
    application: BTreeMap<u16, u16>,
}

/// A backend's port and its local port.
#[derive(Debug, Clone, PartialEq)]
struct LocalBackendPort {
    hostname: Arc<str>,
    /// May be absent if the backend has only one port.
    port: Option<u16>,
    local: u16,
}

/// Parses the annotations of a node with these listeners. Returns `None` if the node's traffic is intercepted.
pub(crate) fn parse(
    node: &ObjectMeta,
    listeners: &BTreeSet<u16>,
    problems: &mut Problems<'_>,
) -> Option<UnresolvedLocalPorts> {
    if is_intercepted(node) {
        return None;
    }
    let mut taken: BTreeMap<u16, String> = PROXY_PORTS
        .into_iter()
        .map(|port| (port, "the proxy uses this port".to_owned()))
        .collect();
    for listener in listeners {
        let owner = || "a listener of the node uses this port".to_owned();
        taken.entry(*listener).or_insert_with(owner);
    }
    let application = read_application(node, listeners, &taken, problems);
    for (listener, port) in &application {
        let owner = || format!("the application uses this port for listener {listener}");
        taken.entry(*port).or_insert_with(owner);
    }
    Some(UnresolvedLocalPorts {
        backends: read_backends(node, taken, problems),
        application,
    })
}

fn read_application(
    node: &ObjectMeta,
    listeners: &BTreeSet<u16>,
    taken: &BTreeMap<u16, String>,
    problems: &mut Problems<'_>,
) -> BTreeMap<u16, u16> {
    let mut found = BTreeMap::new();
    let mut annotated = BTreeSet::new();
    let mut reject = |reason, message| problems.add(field(APPLICATION), reason, message);
    for item in items(node, APPLICATION) {
        let Some((listener, own)) = item.split_once('=') else {
            let message =
                format!("`{item}` is not of the form LISTENER=PORT, such as `8080=18080`");
            reject(Reason::InvalidValue, message);
            continue;
        };
        let listener = port(listener);
        annotated.extend(listener);
        let (Some(listener), Some(own)) = (listener, port(own)) else {
            reject(Reason::InvalidValue, invalid_port(item));
            continue;
        };
        if !listeners.contains(&listener) {
            let message = format!("`{item}`: the node has no listener on port {listener}");
            reject(Reason::PortNotFound, message);
        } else if PROXY_PORTS.contains(&listener) {
            let message = format!(
                "`{item}`: port {listener} cannot be used for a listener: {}",
                taken[&listener]
            );
            reject(Reason::PortConflict, message);
        } else if let Some(owner) = taken.get(&own) {
            let message =
                format!("`{item}`: port {own} cannot be used for the application: {owner}");
            reject(Reason::PortConflict, message);
        } else if let Some(first) = found.get(&listener) {
            let message = format!(
                "`{item}`: `{listener}={first}` precedes this entry and is used; remove one of the two"
            );
            reject(Reason::PortConflict, message);
        } else {
            found.insert(listener, own);
        }
    }
    for listener in listeners.difference(&annotated) {
        let message = format!(
            "traffic is not intercepted, so listener {listener} is not reachable through the proxy; add `{listener}=PORT` with the application's port on loopback"
        );
        reject(Reason::PortRequired, message);
    }
    found
}

fn read_backends(
    node: &ObjectMeta,
    mut taken: BTreeMap<u16, String>,
    problems: &mut Problems<'_>,
) -> Vec<LocalBackendPort> {
    let mut found = Vec::new();
    let mut reject = |reason, message| problems.add(field(BACKENDS), reason, message);
    for item in items(node, BACKENDS) {
        let parts = item.split_once('=').map(|(backend, local)| {
            let (hostname, own) = backend.split_once(':').unzip();
            (hostname.unwrap_or(backend).trim(), own, local)
        });
        let Some((hostname, own, local)) = parts.filter(|(hostname, ..)| !hostname.is_empty())
        else {
            let message = format!(
                "`{item}` is not of the form HOST=PORT or HOST:PORT=PORT, such as `color.shop=9001`"
            );
            reject(Reason::InvalidValue, message);
            continue;
        };
        let own = own.map(port);
        let (Some(local), false) = (port(local), own == Some(None)) else {
            reject(Reason::InvalidValue, invalid_port(item));
            continue;
        };
        match taken.entry(local) {
            Entry::Occupied(owner) => {
                let message = format!("`{item}`: port {local} is already in use: {}", owner.get());
                reject(Reason::PortConflict, message);
            }
            Entry::Vacant(free) => {
                free.insert(format!("`{item}` uses it"));
                found.push(LocalBackendPort {
                    hostname: ServiceName::fold(&hostname.into()),
                    port: own.flatten(),
                    local,
                });
            }
        }
    }
    found
}

impl UnresolvedLocalPorts {
    /// Looks up the annotated backends among the valid backends of the node. Each backend comes with whether it needs a
    /// local port.
    pub(crate) fn resolve<'a>(
        &self,
        backends: impl Iterator<Item = (&'a IndexEntry<ServiceName>, bool)>,
        problems: &mut Problems<'_>,
    ) -> LocalPorts {
        let backends: BTreeMap<Arc<str>, (&IndexEntry<ServiceName>, bool)> = backends
            .map(|(entry, needs_port)| (entry.name.folded().1, (entry, needs_port)))
            .collect();
        let mut found = BTreeMap::new();
        for annotated in &self.backends {
            let backend = backends.get(&annotated.hostname).map(|(entry, _)| *entry);
            match annotated.look_up(backend) {
                Ok(backend) => drop(found.insert(annotated.local, backend)),
                Err((reason, message)) => problems.add(field(BACKENDS), reason, message),
            }
        }
        let annotated: BTreeSet<&Arc<str>> = self
            .backends
            .iter()
            .map(|backend| &backend.hostname)
            .collect();
        for (hostname, (entry, needs_port)) in &backends {
            if *needs_port && !annotated.contains(hostname) && !entry.ports.is_empty() {
                let message = format!(
                    "traffic is not intercepted, so the application cannot call `{hostname}`; add `{hostname}=PORT` with a free loopback port"
                );
                problems.add(field(BACKENDS), Reason::PortRequired, message);
            }
        }
        LocalPorts {
            backends: found,
            application: self.application.clone(),
        }
    }
}

impl LocalBackendPort {
    fn look_up(
        &self,
        backend: Option<&IndexEntry<ServiceName>>,
    ) -> Result<LocalBackend, (Reason, String)> {
        let Self {
            hostname,
            port,
            local,
        } = self;
        let Some(entry) = backend else {
            let message = format!(
                "`{hostname}` is not a valid backend of the node; list its virtual service in spec.backends"
            );
            return Err((Reason::ReferenceNotFound, message));
        };
        let ports: Vec<u16> = entry.ports.iter().map(|port| port.port).collect();
        let port = match (port, ports.as_slice()) {
            (Some(port), _) if ports.contains(port) => *port,
            (None, [only]) => *only,
            (None, [first, _, ..]) => {
                let message = format!(
                    "`{hostname}` has several ports ({}); choose one, for example `{hostname}:{first}={local}`",
                    list(&ports)
                );
                return Err((Reason::PortRequired, message));
            }
            (_, []) => {
                let message =
                    format!("`{hostname}` has no provider and therefore no port; set its provider");
                return Err((Reason::PortNotFound, message));
            }
            (Some(port), _) => {
                let message = format!(
                    "`{hostname}` has no port {port}; its ports are {}",
                    list(&ports)
                );
                return Err((Reason::PortNotFound, message));
            }
        };
        Ok(LocalBackend {
            service: Arc::clone(&entry.name.hostname),
            port,
        })
    }
}

fn annotation<'a>(node: &'a ObjectMeta, name: &str) -> Option<&'a String> {
    node.annotations.as_ref()?.get(name)
}

/// The non-empty items of a comma-separated annotation.
fn items<'a>(node: &'a ObjectMeta, name: &str) -> impl Iterator<Item = &'a str> {
    let text = annotation(node, name).map_or("", String::as_str);
    text.split(',')
        .map(str::trim)
        .filter(|item| !item.is_empty())
}

fn port(text: &str) -> Option<u16> {
    text.trim().parse().ok().filter(|port| *port != 0)
}

fn invalid_port(item: &str) -> String {
    format!("`{item}`: ports must be numbers from 1 to 65535")
}

fn list(ports: &[u16]) -> String {
    let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
    ports.join(", ")
}

fn field(annotation: &str) -> FieldPath {
    FieldPath::root()
        .field("metadata.annotations")
        .key(annotation)
}

#[cfg(test)]
mod tests;
