//! The annotations of a pod: parses them into a [`RequestedProxy`], with App Mesh's default for each that is missing.
//!
//! An annotation with which the API server would refuse the pod, or with which Envoy could not start, counts as
//! malformed.

mod mount;
mod quantity;
mod resources;
mod variable;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    str::FromStr,
};

use serde_json::Value;

pub use self::{
    mount::mount_path,
    quantity::{exceeds, quantity},
};
pub(crate) use self::{
    mount::{Mount, TOKEN_FOLDER, is_same_path},
    variable::SAMPLING_RATE,
};
use self::{
    mount::{Mounted, TakenPaths, mounts},
    variable::{CONCURRENCY, maps, pairs, share, threads},
};
use crate::{
    decide::Member,
    settings::{InjectorSettings, Resources},
};

/// The annotation of pods, and the label of namespaces, that turns injection on and off.
pub const INJECTION: &str = "appmesh.k8s.aws/sidecarInjectorWebhook";
/// The label of pods on AWS Fargate, where the platform sets up interception.
const FARGATE_PROFILE: &str = "eks.amazonaws.com/fargate-profile";

/// Annotations that the patch writes, or that its warnings name.
pub(crate) const PORTS: &str = "appmesh.k8s.aws/ports";
pub(crate) const IGNORED_IPS: &str = "appmesh.k8s.aws/egressIgnoredIPs";
pub(crate) const IGNORED_PORTS: &str = "appmesh.k8s.aws/egressIgnoredPorts";
pub(crate) const VOLUME_MOUNTS: &str = "appmesh.k8s.aws/volumeMounts";
pub(crate) const XRAY_CONFIG: &str = "appmesh.k8s.aws/xrayAgentConfigMount";

/// Characters of an annotation, or of a part of it, that a message shows.
const SHOWN: usize = 200;

/// The proxy that a pod requests in its annotations.
#[derive(Debug, Clone, PartialEq)]
#[allow(clippy::struct_excessive_bools)] // one switch per annotation
pub(crate) struct RequestedProxy {
    /// Ports whose inbound connections are intercepted.
    pub(crate) ports: Vec<u16>,
    pub(crate) ignored_ips: Vec<String>,
    pub(crate) ignored_ports: Vec<u16>,
    pub(crate) ipv6: bool,
    /// Whether the platform's CNI plugin sets up interception, instead of `proxyinit`.
    pub(crate) cni: bool,
    /// Requests and limits of `envoy` and `xray-daemon`.
    pub(crate) resources: Resources,
    /// Requests and limits of `proxyinit`.
    pub(crate) init_resources: Resources,
    pub(crate) secret_mounts: Vec<Mount>,
    pub(crate) volume_mounts: Vec<Mount>,
    /// Variables of Envoy, by name.
    pub(crate) env: BTreeMap<String, String>,
    /// `XRAY_SAMPLING_RATE` among the variables, from 0 to 1.
    pub(crate) sampling_rate: Option<f64>,
    /// `ENVOY_CONCURRENCY` among the variables.
    pub(crate) concurrency: Option<u16>,
    pub(crate) sds: bool,
    pub(crate) keeps_image: bool,
    pub(crate) xray_config: Option<Mount>,
    /// The annotations whose fields differ from what they say.
    pub(crate) replaced: Vec<String>,
}

/// The annotations of a pod, and what is wrong with them.
pub(crate) struct ReadAnnotations {
    pub(crate) requested: RequestedProxy,
    /// A message for each annotation that is malformed. Its default applies instead.
    pub(crate) malformed: Vec<String>,
    /// Warnings about annotations that have another effect than they say.
    pub(crate) warnings: Vec<String>,
}

/// Parses annotations and collects the errors.
struct AnnotationReader<'a> {
    pod: &'a Value,
    replaced: Vec<String>,
    messages: Vec<String>,
    warnings: Vec<String>,
}

impl AnnotationReader<'_> {
    fn read<T>(&mut self, name: &str, parse: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        let key = key(name);
        let text = self.pod["metadata"]["annotations"][&key].as_str()?;
        match parse(text) {
            Ok(value) => Some(value),
            Err(reason) => {
                self.refuse(key, &shown(text), &reason);
                None
            }
        }
    }

    /// Notes that the default applies instead of an annotation.
    fn refuse(&mut self, key: String, value: &str, reason: &str) {
        let message = format!("the annotation `{key}` is `{value}`: {reason}");
        self.messages.push(message);
        self.replaced.push(key);
    }
}

fn key(name: &str) -> String {
    format!("appmesh.k8s.aws/{name}")
}

/// A text of the user, shortened for a message.
fn shown(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// Parses all annotations. One that is malformed keeps its default and adds a message.
pub(crate) fn read(pod: &Value, member: &Member, settings: &InjectorSettings) -> ReadAnnotations {
    let mut reader = AnnotationReader {
        pod,
        replaced: Vec::new(),
        messages: Vec::new(),
        warnings: Vec::new(),
    };
    let (resources, init_resources) = resources::read(&mut reader, &settings.envoy.resources);
    let fargate = pod["metadata"]["labels"][FARGATE_PROFILE].as_str();
    let on_fargate = fargate.is_some_and(|profile| !profile.is_empty());
    let from_pairs = reader.read("sidecarEnv", pairs);
    let from_json = reader.read("sidecarEnvJson", maps);
    let mut env = from_pairs.unwrap_or_default();
    env.extend(from_json.unwrap_or_default());
    let intercepted = reader.read("ports", ports);
    let intercepted = with_listeners(&mut reader, member, intercepted);
    let ignored_ips = reader.read("egressIgnoredIPs", |text| {
        variable::fits("egressIgnoredIPs", text)?;
        networks(text)
    });
    let ignored_ports = reader.read("egressIgnoredPorts", ports);
    let ipv6 = reader.read("ipv6", switch);
    let ipv6 = with_ipv6_listeners(&mut reader, member, settings, ipv6);
    let cni = reader.read("appmeshCNI", switch);
    let sds = reader.read("sds", switch).unwrap_or(true);
    let socket = settings.sds_socket.as_deref().filter(|_| sds);
    let taken = |mounts| TakenPaths { socket, mounts };
    let secret_mounts = reader.read("secretMounts", |text| {
        mounts(text, Mounted::Secret, taken(&[]))
    });
    let secret_mounts = secret_mounts.unwrap_or_default();
    let volume_mounts = reader.read("volumeMounts", |text| {
        mounts(text, Mounted::Volume, taken(&secret_mounts))
    });
    let requested = RequestedProxy {
        ports: intercepted,
        ignored_ips: ignored_ips.unwrap_or_else(|| settings.ignored_ips.clone()),
        ignored_ports: ignored_ports.unwrap_or_else(|| vec![22]),
        ipv6,
        cni: cni.unwrap_or(on_fargate),
        resources,
        init_resources,
        secret_mounts,
        volume_mounts: volume_mounts.unwrap_or_default(),
        sampling_rate: env.get(SAMPLING_RATE).and_then(|it| share(it).ok()),
        concurrency: env.get(CONCURRENCY).and_then(|it| threads(it).ok()),
        env,
        sds,
        keeps_image: reader
            .read("virtualGatewaySkipImageOverride", switch)
            .unwrap_or(false),
        xray_config: reader.read("xrayAgentConfigMount", |text| {
            match mounts(text, Mounted::Volume, TakenPaths::NONE)?.as_slice() {
                [one] => Ok(one.clone()),
                _ => Err("use one VOLUME:PATH".to_owned()),
            }
        }),
        replaced: reader.replaced,
    };
    ReadAnnotations {
        requested,
        malformed: reader.messages,
        warnings: reader.warnings,
    }
}

/// The ports whose inbound connections are intercepted: those of `requested` that have a listener, or those of all
/// listeners. Envoy would close connections to other ports.
fn with_listeners(
    reader: &mut AnnotationReader<'_>,
    member: &Member,
    requested: Option<Vec<u16>>,
) -> Vec<u16> {
    let Some(requested) = requested.filter(|_| member.is_intercepted) else {
        return member.ports.clone();
    };
    let is_none = requested.is_empty();
    let (kept, others): (Vec<u16>, Vec<u16>) = requested
        .into_iter()
        .partition(|port| member.ports.contains(port));
    if !others.is_empty() {
        reader.warnings.push(format!(
            "the annotation `{PORTS}` lists {}, for which {} has no listener; connections to these ports reach the application without Envoy; add a listener, or remove them from the annotation",
            shown(&joined(&others)),
            member.object
        ));
        reader.replaced.push(PORTS.to_owned());
    }
    let open = member.ports.iter().filter(|port| !kept.contains(port));
    let open: Vec<u16> = open.copied().collect();
    let is_strict = open.iter().any(|port| member.strict_ports.contains(port));
    // An empty annotation says that nothing is intercepted.
    if !open.is_empty() && (is_strict || !is_none) {
        reader.warnings.push(format!(
            "the annotation `{PORTS}` does not list {}, for which {} has a listener; connections to these ports reach the application without Envoy{}; add them to the annotation",
            shown(&joined(&open)),
            member.object,
            if is_strict { ", also in plaintext, which the listener forbids" } else { "" }
        ));
    }
    kept
}

/// Whether IPv6 is intercepted: if Envoy listens on it, or if connections past Envoy would lack a protection. These are
/// then refused.
fn with_ipv6_listeners(
    reader: &mut AnnotationReader<'_>,
    member: &Member,
    settings: &InjectorSettings,
    requested: Option<bool>,
) -> bool {
    let is_protected = member.drops_egress || !member.strict_ports.is_empty();
    let is_expected = requested.unwrap_or(settings.has_ipv6);
    if member.is_intercepted && !member.listens_on_ipv6 && is_expected {
        reader.warnings.push(format!(
            "Envoy listens on IPv4 only, because the Mesh of {} has no ipPreference, and IPv6 connections {}; set spec.meshServiceDiscovery.ipPreference of the Mesh to `IPv4_ONLY`, with which Envoy listens on both families, or the annotation `{}` to `disabled`",
            member.object,
            if is_protected {
                "are refused, because the Mesh or a listener forbids them to pass without Envoy"
            } else {
                "are not intercepted"
            },
            key("ipv6")
        ));
    }
    (member.listens_on_ipv6 || is_protected) && requested != Some(false)
}

fn items(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|it| !it.is_empty())
}

fn switch(text: &str) -> Result<bool, String> {
    match text.to_lowercase().as_str() {
        "enabled" => Ok(true),
        "disabled" => Ok(false),
        _ => Err("use `enabled` or `disabled`".to_owned()),
    }
}

fn ports(text: &str) -> Result<Vec<u16>, String> {
    let mut ports = Vec::new();
    let mut seen = BTreeSet::new();
    for item in items(text) {
        let port = item.parse().ok().filter(|port| *port != 0);
        let port: u16 = port.ok_or_else(|| {
            format!(
                "`{}` is not a port from 1 to 65535; separate ports by commas",
                shown(item)
            )
        })?;
        if seen.insert(port) {
            ports.push(port);
        }
    }
    variable::fits("ports", &joined(&ports))?;
    Ok(ports)
}

/// The text of a list of ports, as annotations and `proxyinit` have it.
pub(crate) fn joined(ports: &[u16]) -> String {
    let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
    ports.join(",")
}

/// Parses addresses and CIDRs that are separated by commas, such as `10.0.0.1, fd00::/64`.
///
/// # Errors
/// If an item is not an address or a CIDR.
pub fn networks(text: &str) -> Result<Vec<String>, String> {
    let network = |item: &str| {
        let (address, length) = match item.split_once('/') {
            Some((address, length)) => (
                address,
                length
                    .parse::<u8>()
                    .ok()
                    .filter(|it| it.to_string() == length),
            ),
            None => (item, Some(0)),
        };
        let limit = match IpAddr::from_str(address) {
            Ok(IpAddr::V4(_)) => 32,
            Ok(IpAddr::V6(_)) => 128,
            Err(_) => {
                return Err(format!("`{}` is not an IP address or a CIDR", shown(item)));
            }
        };
        match length {
            Some(length) if length <= limit => Ok(item.to_owned()),
            _ => Err(format!(
                "the prefix length of `{}` must be a number from 0 to {limit}",
                shown(item)
            )),
        }
    };
    items(text).map(network).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_addresses_or_cidrs() {
        let good = "10.0.0.1, 10.0.0.0/8,::1,fd00::/64, ";
        assert_eq!(networks(good).unwrap().len(), 4);
        assert_eq!(networks("").unwrap(), [""; 0]);
        for bad in [
            "a",
            "10.0.0",
            "10.0.0.0/33",
            "::/129",
            "10.0.0.0/",
            "10.0.0.0/+8",
            "10.0.0.0/08",
        ] {
            assert!(networks(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn ports_are_listed_once() {
        assert_eq!(ports("8080, 22,8080,").as_deref(), Ok(&[8080, 22][..]));
        for bad in ["0", "65536", "http", "80-90", "-1"] {
            assert!(ports(bad).is_err(), "{bad}");
        }
        let all: Vec<u16> = (1..=u16::MAX).collect();
        let error = ports(&joined(&all)).unwrap_err();
        assert!(error.contains("Linux allows"), "{error}");
    }

    #[test]
    fn message_shows_the_beginning_of_a_long_annotation() {
        assert_eq!(shown(&"é".repeat(SHOWN)), "é".repeat(SHOWN));
        let expected = format!("{}…", "é".repeat(SHOWN));
        assert_eq!(shown(&"é".repeat(SHOWN + 1)), expected);
    }
}
