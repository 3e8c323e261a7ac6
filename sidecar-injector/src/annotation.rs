//! The annotations of a pod: parses them into a [`RequestedProxy`], with App Mesh's default for each that is missing.

use std::{collections::BTreeMap, net::IpAddr, str::FromStr};

use serde_json::Value;

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

/// The share of requests that X-Ray samples. The only variable of Evermesh that annotations can override.
pub(crate) const SAMPLING_RATE: &str = "XRAY_SAMPLING_RATE";
/// The number of Envoy's worker threads.
const CONCURRENCY: &str = "ENVOY_CONCURRENCY";

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
    pub(crate) resources: Resources,
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
    /// The annotations that cannot be parsed. Their fields have the default.
    pub(crate) malformed: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mount {
    /// The name of a Secret or a volume.
    pub(crate) name: String,
    /// An absolute path.
    pub(crate) path: String,
}

/// Parses annotations and collects the errors.
struct AnnotationReader<'a> {
    pod: &'a Value,
    malformed: Vec<String>,
    messages: Vec<String>,
}

impl AnnotationReader<'_> {
    fn read<T>(&mut self, name: &str, parse: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        let key = key(name);
        let text = self.pod["metadata"]["annotations"][&key].as_str()?;
        match parse(text) {
            Ok(value) => Some(value),
            Err(reason) => {
                let message = format!("the annotation `{key}` is `{text}`: {reason}");
                self.messages.push(message);
                self.malformed.push(key);
                None
            }
        }
    }
}

fn key(name: &str) -> String {
    format!("appmesh.k8s.aws/{name}")
}

/// Parses all annotations. One that cannot be parsed keeps its default and adds a message.
pub(crate) fn read(
    pod: &Value,
    member: &Member,
    settings: &InjectorSettings,
) -> (RequestedProxy, Vec<String>) {
    let mut reader = AnnotationReader {
        pod,
        malformed: Vec::new(),
        messages: Vec::new(),
    };
    let defaults = &settings.envoy.resources;
    let mut resource = |name, default: &String| {
        let requested = reader.read(name, quantity);
        requested.unwrap_or_else(|| default.clone())
    };
    let resources = Resources {
        cpu_request: resource("cpuRequest", &defaults.cpu_request),
        memory_request: resource("memoryRequest", &defaults.memory_request),
        cpu_limit: resource("cpuLimit", &defaults.cpu_limit),
        memory_limit: resource("memoryLimit", &defaults.memory_limit),
    };
    let fargate = pod["metadata"]["labels"][FARGATE_PROFILE].as_str();
    let on_fargate = fargate.is_some_and(|profile| !profile.is_empty());
    let from_pairs = reader.read("sidecarEnv", |text| checked(pairs(text)?));
    let from_json = reader.read("sidecarEnvJson", |text| checked(maps(text)?));
    let mut env = from_pairs.unwrap_or_default();
    env.extend(from_json.unwrap_or_default());
    let requested = RequestedProxy {
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
        volume_mounts: reader.read("volumeMounts", mounts).unwrap_or_default(),
        sampling_rate: env.get(SAMPLING_RATE).and_then(|it| share(it).ok()),
        concurrency: env.get(CONCURRENCY).and_then(|it| threads(it).ok()),
        env,
        sds: reader.read("sds", switch).unwrap_or(true),
        keeps_image: reader
            .read("virtualGatewaySkipImageOverride", switch)
            .unwrap_or(false),
        xray_config: reader.read("xrayAgentConfigMount", |text| {
            match mounts(text)?.as_slice() {
                [one] => Ok(one.clone()),
                _ => Err("use one VOLUME:PATH".to_owned()),
            }
        }),
        malformed: reader.malformed,
    };
    (requested, reader.messages)
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
    let port = |item: &str| {
        let port = item.parse().ok().filter(|port| *port != 0);
        port.ok_or_else(|| {
            format!("`{item}` is not a port from 1 to 65535; separate ports by commas")
        })
    };
    items(text).map(port).collect()
}

/// Parses addresses and CIDRs that are separated by commas, such as `10.0.0.1, fd00::/64`.
///
/// # Errors
/// If an item is not an address or a CIDR.
pub fn networks(text: &str) -> Result<Vec<String>, String> {
    let network = |item: &str| {
        let (address, length) = match item.split_once('/') {
            Some((address, length)) => (address, length.parse::<u8>().ok()),
            None => (item, Some(0)),
        };
        let limit = match IpAddr::from_str(address) {
            Ok(IpAddr::V4(_)) => 32,
            Ok(IpAddr::V6(_)) => 128,
            Err(_) => return Err(format!("`{item}` is not an IP address or a CIDR")),
        };
        match length {
            Some(length) if length <= limit => Ok(item.to_owned()),
            _ => Err(format!(
                "the prefix length of `{item}` must be a number from 0 to {limit}"
            )),
        }
    };
    items(text).map(network).collect()
}

/// Checks a Kubernetes quantity, such as `10m`, `0.5`, `32Mi` or `1e3`, and returns it unchanged.
///
/// # Errors
/// If the text is not a quantity, or a negative one.
pub fn quantity(text: &str) -> Result<String, String> {
    let digits = |it: char| it.is_ascii_digit();
    let suffix = text.trim_start_matches(|it| digits(it) || it == '.');
    let number = &text[..text.len() - suffix.len()];
    let is_number = number.contains(digits) && number.matches('.').count() <= 1;
    let exponent = suffix
        .strip_prefix(['e', 'E'])
        .map(|rest| rest.strip_prefix(['+', '-']).unwrap_or(rest));
    let is_exponent = exponent.is_some_and(|it| !it.is_empty() && it.chars().all(digits));
    let is_unit = [
        "", "n", "u", "m", "k", "M", "G", "T", "P", "E", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei",
    ]
    .contains(&suffix);
    if is_number && (is_unit || is_exponent) {
        Ok(text.to_owned())
    } else {
        Err("not a valid Kubernetes quantity such as `10m` or `64Mi`".to_owned())
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
        _ => Err(format!(
            "`{item}` is not of the form NAME:PATH with an absolute path"
        )),
    };
    items(text).map(mount).collect()
}

fn pairs(text: &str) -> Result<BTreeMap<String, String>, String> {
    let pair = |item: &str| match item.split_once('=') {
        Some((name, value)) if !name.trim().is_empty() => {
            Ok((name.trim().to_owned(), value.trim().to_owned()))
        }
        _ => Err(format!(
            "`{item}` is not of the form NAME=VALUE; use `{}` for values with commas",
            key("sidecarEnvJson")
        )),
    };
    items(text).map(pair).collect()
}

fn maps(text: &str) -> Result<BTreeMap<String, String>, String> {
    serde_json::from_str::<Vec<BTreeMap<String, String>>>(text)
        .map(|maps| maps.into_iter().flatten().collect())
        .map_err(|error| {
            format!(
                "not a JSON list of objects with string values such as `[{{\"A\":\"b\"}}]`: {error}"
            )
        })
}

/// Returns the variables if those that Evermesh reads are valid.
fn checked(env: BTreeMap<String, String>) -> Result<BTreeMap<String, String>, String> {
    if let Some(rate) = env.get(SAMPLING_RATE) {
        share(rate)?;
    }
    if let Some(number) = env.get(CONCURRENCY) {
        threads(number)?;
    }
    Ok(env)
}

fn share(text: &str) -> Result<f64, String> {
    let share = text.parse().ok().filter(|it| (0.0..=1.0).contains(it));
    share.ok_or_else(|| format!("`{SAMPLING_RATE}` is `{text}`, but must be a number from 0 to 1"))
}

fn threads(text: &str) -> Result<u16, String> {
    let number = text.parse().ok();
    number
        .ok_or_else(|| format!("`{CONCURRENCY}` is `{text}`, but must be a number from 0 to 65535"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_those_of_kubernetes() {
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
    fn networks_are_addresses_or_cidrs() {
        let good = "10.0.0.1, 10.0.0.0/8,::1,fd00::/64, ";
        assert_eq!(networks(good).unwrap().len(), 4);
        assert_eq!(networks("").unwrap(), [""; 0]);
        for bad in ["a", "10.0.0", "10.0.0.0/33", "::/129", "10.0.0.0/"] {
            assert!(networks(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn variables_are_pairs_or_json() {
        let env = pairs("A=b, C = d=e,").unwrap();
        assert_eq!(env["A"], "b");
        assert_eq!(env["C"], "d=e");
        assert!(pairs("A").is_err());
        assert_eq!(maps(r#"[{"A":"b,c"},{"D":""}]"#).unwrap()["A"], "b,c");
        assert!(maps(r#"{"A":"b"}"#).is_err());
    }

    #[test]
    fn sampling_rate_and_concurrency_are_checked() {
        let env = |name: &str, value: &str| checked([(name.to_owned(), value.to_owned())].into());
        for good in ["0", "1", "0.05", "1e-3"] {
            assert!(env(SAMPLING_RATE, good).is_ok(), "{good}");
        }
        for bad in ["", "abc", "2", "-1", "NaN", "inf", "5%"] {
            assert!(env(SAMPLING_RATE, bad).is_err(), "{bad}");
        }
        for good in ["0", "4", "65535"] {
            assert!(env(CONCURRENCY, good).is_ok(), "{good}");
        }
        for bad in ["", "abc", "-1", "1.5", "65536"] {
            assert!(env(CONCURRENCY, bad).is_err(), "{bad}");
        }
        assert!(env("OTHER", "abc").is_ok());
    }
}
