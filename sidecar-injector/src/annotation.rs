//! What a pod asks for in its annotations, each with App Mesh's default.
//!
//! Must not know what comes of it.

use std::{collections::BTreeMap, net::IpAddr, str::FromStr};

use serde_json::Value;

use crate::{
    decide::Member,
    settings::{Resources, Settings},
};

/// `appmesh.k8s.aws/sidecarInjectorWebhook`, of pods and, as a label, of namespaces.
pub const INJECTION: &str = "appmesh.k8s.aws/sidecarInjectorWebhook";
/// Not empty on pods of Fargate, which sets up interception itself.
const FARGATE: &str = "eks.amazonaws.com/fargate-profile";

/// Names of annotations that are also written.
pub(crate) const PORTS: &str = "appmesh.k8s.aws/ports";
pub(crate) const IGNORED_IPS: &str = "appmesh.k8s.aws/egressIgnoredIPs";
pub(crate) const IGNORED_PORTS: &str = "appmesh.k8s.aws/egressIgnoredPorts";

/// What a pod asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools)] // a switch an annotation
pub(crate) struct Wishes {
    /// The ports at which the application is called through the proxy.
    pub(crate) ports: Vec<u16>,
    pub(crate) ignored_ips: Vec<String>,
    pub(crate) ignored_ports: Vec<u16>,
    pub(crate) ipv6: bool,
    /// Whether the platform sets up interception.
    pub(crate) cni: bool,
    pub(crate) resources: Resources,
    pub(crate) secret_mounts: Vec<Mount>,
    pub(crate) volume_mounts: Vec<Mount>,
    /// By name, the last one of each.
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) sds: bool,
    pub(crate) keeps_image: bool,
    pub(crate) xray_config: Option<Mount>,
}

/// What is mounted, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mount {
    /// A Secret or a volume.
    pub(crate) name: String,
    /// An absolute path.
    pub(crate) path: String,
}

/// Reads annotations one by one and notes what cannot be read.
struct Reader<'a> {
    pod: &'a Value,
    malformed: Vec<String>,
}

impl Reader<'_> {
    fn read<T>(&mut self, name: &str, read: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        let key = key(name);
        let text = self.pod["metadata"]["annotations"][&key].as_str()?;
        read(text)
            .map_err(|reason| {
                let message = format!("the annotation `{key}` is `{text}`: {reason}");
                self.malformed.push(message);
            })
            .ok()
    }
}

fn key(name: &str) -> String {
    format!("appmesh.k8s.aws/{name}")
}

/// Reads them all. What cannot be read has its default, and a message.
pub(crate) fn read(pod: &Value, member: &Member, settings: &Settings) -> (Wishes, Vec<String>) {
    let mut reader = Reader {
        pod,
        malformed: Vec::new(),
    };
    let of_settings = &settings.envoy.resources;
    let mut resource = |name, default: &String| {
        let written = reader.read(name, quantity);
        written.unwrap_or_else(|| default.clone())
    };
    let resources = Resources {
        cpu_request: resource("cpuRequest", &of_settings.cpu_request),
        memory_request: resource("memoryRequest", &of_settings.memory_request),
        cpu_limit: resource("cpuLimit", &of_settings.cpu_limit),
        memory_limit: resource("memoryLimit", &of_settings.memory_limit),
    };
    let fargate = pod["metadata"]["labels"][FARGATE].as_str();
    let on_fargate = fargate.is_some_and(|profile| !profile.is_empty());
    let volumes: Vec<&str> = pod["spec"]["volumes"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|volume| volume["name"].as_str())
        .collect();
    let volume_mounts = |text: &str| {
        let mounts = mounts(text)?;
        match mounts.iter().find(|it| !volumes.contains(&&*it.name)) {
            Some(missing) => Err(format!("the pod has no volume `{}`", missing.name)),
            None => Ok(mounts),
        }
    };
    let mut env = reader.read("sidecarEnv", pairs).unwrap_or_default();
    env.extend(reader.read("sidecarEnvJson", maps).unwrap_or_default());
    let wishes = Wishes {
        ports: reader
            .read("ports", ports)
            .unwrap_or_else(|| member.ports.clone()),
        ignored_ips: reader
            .read("egressIgnoredIPs", networks)
            .unwrap_or_else(|| settings.ignored_ips.clone()),
        ignored_ports: reader
            .read("egressIgnoredPorts", ports)
            .unwrap_or_else(|| vec![22]),
        ipv6: reader.read("ipv6", switch).unwrap_or(true),
        cni: reader.read("appmeshCNI", switch).unwrap_or(on_fargate),
        resources,
        secret_mounts: reader.read("secretMounts", mounts).unwrap_or_default(),
        volume_mounts: reader
            .read("volumeMounts", volume_mounts)
            .unwrap_or_default(),
        env,
        sds: reader.read("sds", switch).unwrap_or(true),
        keeps_image: reader
            .read("virtualGatewaySkipImageOverride", switch)
            .unwrap_or(false),
        xray_config: reader.read("xrayAgentConfigMount", |text| {
            match volume_mounts(text)?.as_slice() {
                [one] => Ok(one.clone()),
                _ => Err("one VOLUME:PATH is needed".to_owned()),
            }
        }),
    };
    (wishes, reader.malformed)
}

fn items(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|it| !it.is_empty())
}

fn switch(text: &str) -> Result<bool, String> {
    match text.to_lowercase().as_str() {
        "enabled" => Ok(true),
        "disabled" => Ok(false),
        _ => Err("it must be `enabled` or `disabled`".to_owned()),
    }
}

fn ports(text: &str) -> Result<Vec<u16>, String> {
    let port = |item: &str| {
        let port = item.parse().ok().filter(|port| *port != 0);
        port.ok_or_else(|| format!("`{item}` is no port, 1 to 65535; separate several by commas"))
    };
    items(text).map(port).collect()
}

/// Reads addresses and networks, separated by commas: `10.0.0.1, fd00::/64`; the annotation `egressIgnoredIPs`.
///
/// # Errors
/// One of them is neither.
pub fn networks(text: &str) -> Result<Vec<String>, String> {
    let network = |item: &str| {
        let (address, length) = match item.split_once('/') {
            Some((address, length)) => (address, length.parse::<u8>().ok()),
            None => (item, Some(0)),
        };
        let limit = match IpAddr::from_str(address) {
            Ok(IpAddr::V4(_)) => 32,
            Ok(IpAddr::V6(_)) => 128,
            Err(_) => return Err(format!("`{item}` is neither an address nor a network")),
        };
        match length {
            Some(length) if length <= limit => Ok(item.to_owned()),
            _ => Err(format!("`{item}` has no prefix length of 0 to {limit}")),
        }
    };
    items(text).map(network).collect()
}

/// Reads a quantity as Kubernetes writes it: `10m`, `0.5`, `32Mi`, `1e3`; the annotations `cpuRequest` and its like.
///
/// # Errors
/// It is none.
pub fn quantity(text: &str) -> Result<String, String> {
    let digits = |it: char| it.is_ascii_digit();
    let number = text.trim_start_matches(|it| digits(it) || it == '.');
    let written = &text[..text.len() - number.len()];
    let is_number = written.contains(digits) && written.matches('.').count() <= 1;
    let exponent = number
        .strip_prefix(['e', 'E'])
        .map(|rest| rest.strip_prefix(['+', '-']).unwrap_or(rest));
    let is_exponent = exponent.is_some_and(|it| !it.is_empty() && it.chars().all(digits));
    let is_unit = [
        "", "n", "u", "m", "k", "M", "G", "T", "P", "E", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei",
    ]
    .contains(&number);
    if is_number && (is_unit || is_exponent) {
        Ok(text.to_owned())
    } else {
        Err("it is no quantity, such as `10m` or `64Mi`".to_owned())
    }
}

fn mounts(text: &str) -> Result<Vec<Mount>, String> {
    let mount = |item: &str| match item.split_once(':') {
        Some((name, path)) if !name.trim().is_empty() && path.trim().starts_with('/') => {
            Ok(Mount {
                name: name.trim().to_owned(),
                path: path.trim().to_owned(),
            })
        }
        _ => Err(format!("`{item}` is not NAME:PATH with an absolute path")),
    };
    items(text).map(mount).collect()
}

fn pairs(text: &str) -> Result<BTreeMap<String, String>, String> {
    let pair = |item: &str| match item.split_once('=') {
        Some((name, value)) if !name.trim().is_empty() => {
            Ok((name.trim().to_owned(), value.trim().to_owned()))
        }
        _ => Err(format!(
            "`{item}` is not NAME=VALUE; values with commas go into `{}`",
            key("sidecarEnvJson")
        )),
    };
    items(text).map(pair).collect()
}

fn maps(text: &str) -> Result<BTreeMap<String, String>, String> {
    serde_json::from_str::<Vec<BTreeMap<String, String>>>(text)
        .map(|maps| maps.into_iter().flatten().collect())
        .map_err(|error| {
            format!("it is no JSON list of objects of strings such as [{{\"A\":\"b\"}}]: {error}")
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_quantities_as_kubernetes_does() {
        for good in [
            "1", "10m", "0.5", ".5", "1.", "32Mi", "1e3", "1E-3", "2E", "12k",
        ] {
            assert_eq!(quantity(good).as_deref(), Ok(good));
        }
        for bad in ["", ".", "m", "-1", "1 Mi", "1MB", "1.2.3", "1ee3", "1e"] {
            assert!(quantity(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn reads_networks() {
        let good = "10.0.0.1, 10.0.0.0/8,::1,fd00::/64, ";
        assert_eq!(networks(good).unwrap().len(), 4);
        assert_eq!(networks("").unwrap(), [""; 0]);
        for bad in ["a", "10.0.0", "10.0.0.0/33", "::/129", "10.0.0.0/"] {
            assert!(networks(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn reads_variables() {
        let env = pairs("A=b, C = d=e,").unwrap();
        assert_eq!(env["A"], "b");
        assert_eq!(env["C"], "d=e");
        assert!(pairs("A").is_err());
        assert_eq!(maps(r#"[{"A":"b,c"},{"D":""}]"#).unwrap()["A"], "b,c");
        assert!(maps(r#"{"A":"b"}"#).is_err());
    }
}
