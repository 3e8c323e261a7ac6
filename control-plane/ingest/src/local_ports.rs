//! The annotations of a `VirtualNode` that take the place of interception: the ports on loopback where its application
//! and its proxy meet.
//!
//! `evermesh.dev/backend-ports: "HOST=PORT, HOST:PORT=PORT"` says where the application calls each backend, and
//! `evermesh.dev/application-ports: "PORT=PORT"` where it takes what comes for a listener. With either of them nothing
//! of the node is intercepted; what they leave out, or name wrongly, is not served.
//!
//! Must not change what a listener asks of its callers.

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

/// Ports that the proxy has for itself: two for intercepted traffic, and the usual one of its admin interface.
const PROXY_PORTS: [u16; 3] = [15000, 15001, 9901];

/// Whether a node's traffic is intercepted: unless one of the annotations, even an empty one, says otherwise.
pub fn is_intercepted(node: &ObjectMeta) -> bool {
    [BACKENDS, APPLICATION]
        .into_iter()
        .all(|name| annotation(node, name).is_none())
}

/// The listeners that may not be called in plaintext and that nothing would stand before: neither interception nor a
/// port of the proxy's, because the annotation has none or a wrong one.
pub fn unprotected(node: &v1beta2::VirtualNode) -> Vec<u16> {
    let listeners = node.spec.listeners.as_deref().unwrap_or_default();
    let ports = listeners.iter().map(|it| it.port_mapping.port).collect();
    let object = ObjectRef::new(Kind::VirtualNode, "", "");
    let Some(local) = parse(&node.metadata, &ports, &mut Problems::of(&object)) else {
        return Vec::new();
    };
    let is_strict = |it: &&v1beta2::Listener| {
        let tls = it.tls.as_ref();
        tls.is_some_and(|tls| tls.mode == v1beta2::TlsMode::Strict)
    };
    let strict = listeners.iter().filter(is_strict);
    strict
        .map(|listener| listener.port_mapping.port)
        .filter(|port| !local.application.contains_key(port))
        .collect()
}

/// What the annotations say, before the backends are known.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct UnresolvedLocalPorts {
    backends: Vec<Wanted>,
    application: BTreeMap<u16, u16>,
}

/// A backend's port, and the local one for it.
#[derive(Debug, Clone, PartialEq)]
struct Wanted {
    hostname: Arc<str>,
    /// Absent where the backend has one port.
    port: Option<u16>,
    local: u16,
}

/// Reads the annotations of a node with these listeners; `None` if it is intercepted.
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
        .map(|port| (port, "the proxy has it for itself".to_owned()))
        .collect();
    for listener in listeners {
        let owner = || "it is that of a listener".to_owned();
        taken.entry(*listener).or_insert_with(owner);
    }
    let application = read_application(node, listeners, &taken, problems);
    for (listener, port) in &application {
        let owner = || format!("the application listens there for {listener}");
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
    let mut by_name = BTreeSet::new();
    let mut refuse = |reason, message| problems.add(field(APPLICATION), reason, message);
    for item in items(node, APPLICATION) {
        let Some((listener, own)) = item.split_once('=') else {
            let message = format!("`{item}` is not LISTENER=PORT, such as `8080=18080`");
            refuse(Reason::InvalidValue, message);
            continue;
        };
        let listener = port(listener);
        by_name.extend(listener);
        let (Some(listener), Some(own)) = (listener, port(own)) else {
            refuse(Reason::InvalidValue, not_a_port(item));
            continue;
        };
        if !listeners.contains(&listener) {
            let message = format!("`{item}`: no listener has the port {listener}");
            refuse(Reason::PortNotFound, message);
        } else if PROXY_PORTS.contains(&listener) {
            let message = format!(
                "`{item}`: {listener} cannot be a listener's, {}",
                taken[&listener]
            );
            refuse(Reason::PortConflict, message);
        } else if let Some(owner) = taken.get(&own) {
            let message = format!("`{item}`: {own} cannot be the application's, {owner}");
            refuse(Reason::PortConflict, message);
        } else if let Some(first) = found.get(&listener) {
            let message = format!("`{item}`: `{listener}={first}` is there already and counts");
            refuse(Reason::PortConflict, message);
        } else {
            found.insert(listener, own);
        }
    }
    for listener in listeners.difference(&by_name) {
        let message = format!(
            "nothing is intercepted, so nobody reaches the listener {listener} through the proxy: add `{listener}=PORT` with the port of the application on loopback"
        );
        refuse(Reason::PortRequired, message);
    }
    found
}

fn read_backends(
    node: &ObjectMeta,
    mut taken: BTreeMap<u16, String>,
    problems: &mut Problems<'_>,
) -> Vec<Wanted> {
    let mut found = Vec::new();
    let mut refuse = |reason, message| problems.add(field(BACKENDS), reason, message);
    for item in items(node, BACKENDS) {
        let parts = item.split_once('=').map(|(backend, local)| {
            let (hostname, own) = backend.split_once(':').unzip();
            (hostname.unwrap_or(backend).trim(), own, local)
        });
        let Some((hostname, own, local)) = parts.filter(|(hostname, ..)| !hostname.is_empty())
        else {
            let message =
                format!("`{item}` is not HOST=PORT or HOST:PORT=PORT, such as `color.shop=9001`");
            refuse(Reason::InvalidValue, message);
            continue;
        };
        let own = own.map(port);
        let (Some(local), false) = (port(local), own == Some(None)) else {
            refuse(Reason::InvalidValue, not_a_port(item));
            continue;
        };
        match taken.entry(local) {
            Entry::Occupied(owner) => {
                let message = format!("`{item}`: {local} is taken, {}", owner.get());
                refuse(Reason::PortConflict, message);
            }
            Entry::Vacant(free) => {
                free.insert(format!("`{item}` has it"));
                found.push(Wanted {
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
    /// Looks the backends up, among those that the node may call.
    pub(crate) fn resolve<'a>(
        &self,
        backends: impl Iterator<Item = &'a IndexEntry<ServiceName>>,
        problems: &mut Problems<'_>,
    ) -> LocalPorts {
        let backends: BTreeMap<Arc<str>, &IndexEntry<ServiceName>> = backends
            .map(|entry| (entry.name.folded().1, entry))
            .collect();
        let mut found = BTreeMap::new();
        for wanted in &self.backends {
            match wanted.look_up(backends.get(&wanted.hostname).copied()) {
                Ok(backend) => drop(found.insert(wanted.local, backend)),
                Err((reason, message)) => problems.add(field(BACKENDS), reason, message),
            }
        }
        let by_name: BTreeSet<&Arc<str>> = self.backends.iter().map(|it| &it.hostname).collect();
        for (hostname, entry) in &backends {
            if !by_name.contains(hostname) && !entry.ports.is_empty() {
                let message = format!(
                    "nothing is intercepted, so the application cannot call `{hostname}`: add `{hostname}=PORT` with a port on loopback"
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

impl Wanted {
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
                "`{hostname}` is not among the backends that are served: list its virtual service in spec.backends"
            );
            return Err((Reason::ReferenceNotFound, message));
        };
        let ports: Vec<u16> = entry.ports.iter().map(|it| it.port).collect();
        let port = match (port, ports.as_slice()) {
            (Some(port), _) if ports.contains(port) => *port,
            (None, [only]) => *only,
            (None, [first, _, ..]) => {
                let message = format!(
                    "`{hostname}` has the ports {ports:?}: write `{hostname}:{first}={local}` for the first of them"
                );
                return Err((Reason::PortRequired, message));
            }
            (_, []) => {
                let message = format!("`{hostname}` has no provider, and so no port to call");
                return Err((Reason::PortNotFound, message));
            }
            (Some(port), _) => {
                let message = format!("`{hostname}` has no port {port}, only {ports:?}");
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

/// What stands between commas.
fn items<'a>(node: &'a ObjectMeta, name: &str) -> impl Iterator<Item = &'a str> {
    let text = annotation(node, name).map_or("", String::as_str);
    text.split(',').map(str::trim).filter(|it| !it.is_empty())
}

fn port(text: &str) -> Option<u16> {
    text.trim().parse().ok().filter(|port| *port != 0)
}

fn not_a_port(item: &str) -> String {
    format!("`{item}`: a port is a number from 1 to 65535")
}

fn field(annotation: &str) -> FieldPath {
    FieldPath::root()
        .field("metadata.annotations")
        .key(annotation)
}

#[cfg(test)]
mod tests;
