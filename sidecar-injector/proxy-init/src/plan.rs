//! What is asked for, read and checked. Pure.

use std::{collections::BTreeSet, fmt::Display, net::IpAddr, str::FromStr};

use ipnet::IpNet;

use crate::settings::Settings;

/// What to intercept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Envoy's port for what comes in.
    pub(crate) ingress_port: u16,
    /// Envoy's port for what goes out.
    pub(crate) egress_port: u16,
    /// Ports of the application that others reach through Envoy.
    pub(crate) app_ports: BTreeSet<u16>,
    /// Whose connections are not intercepted, each by itself.
    pub(crate) exempt: Vec<Exempt>,
    /// Ports that are called without Envoy.
    pub(crate) ignored_ports: BTreeSet<u16>,
    /// Networks that are called without Envoy.
    pub(crate) ignored_networks: BTreeSet<IpNet>,
    /// Whether IPv6 is intercepted too, where there is some.
    pub(crate) ipv6: bool,
}

/// Whose connections are not intercepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exempt {
    /// Those of this user.
    Uid(u32),
    /// Those of this group.
    Gid(u32),
    /// Those of sockets with this mark.
    Mark(u32),
}

/// What is asked for cannot be read.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum InvalidSettings {
    /// A value is malformed.
    #[error("{variable}: `{value}`: {reason}")]
    Value {
        variable: &'static str,
        value: String,
        reason: String,
    },
    /// Envoy's own connections would come back to it.
    #[error(
        "APPMESH_IGNORE_UID or APPMESH_IGNORE_GID is needed, or Envoy's own connections would come back to it"
    )]
    NobodyIsExempt,
}

impl Plan {
    /// What is asked for; none if nothing is to be done.
    pub(crate) fn read(settings: &Settings) -> Result<Option<Self>, InvalidSettings> {
        let start = &settings.start_enabled;
        if switch("APPMESH_START_ENABLED", start.as_ref())? != Some(true) {
            return Ok(None);
        }
        let exempt = [
            number("APPMESH_IGNORE_UID", settings.ignore_uid.as_ref())?.map(Exempt::Uid),
            number("APPMESH_IGNORE_GID", settings.ignore_gid.as_ref())?.map(Exempt::Gid),
            number("EVERMESH_IGNORE_MARK", settings.ignore_mark.as_ref())?.map(Exempt::Mark),
        ];
        let exempt: Vec<Exempt> = exempt.into_iter().flatten().collect();
        if exempt.is_empty() {
            return Err(InvalidSettings::NobodyIsExempt);
        }
        let ingress = settings.envoy_ingress_port.as_ref();
        let egress = settings.envoy_egress_port.as_ref();
        let ignored_ports = settings.egress_ignored_ports.as_ref();
        Ok(Some(Self {
            ingress_port: one("APPMESH_ENVOY_INGRESS_PORT", ingress, port)?.unwrap_or(15000),
            egress_port: one("APPMESH_ENVOY_EGRESS_PORT", egress, port)?.unwrap_or(15001),
            app_ports: list("APPMESH_APP_PORTS", settings.app_ports.as_ref(), port)?,
            exempt,
            ignored_ports: list("APPMESH_EGRESS_IGNORED_PORTS", ignored_ports, port)?,
            ignored_networks: list(
                "APPMESH_EGRESS_IGNORED_IP",
                settings.egress_ignored_ip.as_ref(),
                network,
            )?,
            ipv6: switch("APPMESH_ENABLE_IPV6", settings.enable_ipv6.as_ref())?.unwrap_or(true),
        }))
    }
}

/// Reads a value; an empty one counts as none, as manifests often have it.
fn one<T>(
    variable: &'static str,
    value: Option<&String>,
    read: impl Fn(&str) -> Result<T, String>,
) -> Result<Option<T>, InvalidSettings> {
    let value = value.map(|value| value.trim());
    let Some(value) = value.filter(|value| !value.is_empty()) else {
        return Ok(None);
    };
    let reading = read(value).map_err(|reason| InvalidSettings::Value {
        variable,
        value: value.to_owned(),
        reason,
    });
    reading.map(Some)
}

/// Reads what is separated by commas.
fn list<T: Ord>(
    variable: &'static str,
    value: Option<&String>,
    read: impl Fn(&str) -> Result<T, String>,
) -> Result<BTreeSet<T>, InvalidSettings> {
    let all = one(variable, value, |value| {
        let parts = value.split(',').map(str::trim);
        parts.filter(|part| !part.is_empty()).map(&read).collect()
    });
    Ok(all?.unwrap_or_default())
}

fn switch(variable: &'static str, value: Option<&String>) -> Result<Option<bool>, InvalidSettings> {
    one(variable, value, |value| match value {
        "1" | "true" => Ok(true),
        "0" | "false" => Ok(false),
        _ => Err("1 or 0 is needed".to_owned()),
    })
}

fn number(variable: &'static str, value: Option<&String>) -> Result<Option<u32>, InvalidSettings> {
    one(variable, value, parsed)
}

fn port(text: &str) -> Result<u16, String> {
    match text.parse::<u16>() {
        Ok(0) | Err(_) => Err(format!("`{text}` is no port: 1 to 65535 is needed")),
        Ok(port) => Ok(port),
    }
}

/// An address or a network; of a network only the prefix counts.
fn network(text: &str) -> Result<IpNet, String> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(address.into());
    }
    let network = text.parse::<IpNet>();
    network
        .map(|network| network.trunc())
        .map_err(|_malformed| format!("`{text}` is neither an IP address nor a CIDR"))
}

fn parsed<T: FromStr<Err: Display>>(text: &str) -> Result<T, String> {
    text.parse::<T>().map_err(|error| error.to_string())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// What App Mesh's controller sets, and more.
    pub(crate) fn settings() -> Settings {
        let set = |text: &str| Some(text.to_owned());
        Settings {
            start_enabled: set("1"),
            ignore_uid: set("1337"),
            ignore_gid: set(""),
            envoy_ingress_port: set("15000"),
            envoy_egress_port: set("15001"),
            app_ports: set("8080,443, 443"),
            egress_ignored_ip: set("169.254.169.254,fd00:ec2::254,10.1.2.3/8"),
            egress_ignored_ports: set("22,25"),
            enable_ipv6: set("1"),
            ..Settings::default()
        }
    }

    #[test]
    fn reads_the_variables_of_app_mesh() {
        let plan = Plan::read(&settings()).unwrap().unwrap();
        let networks = ["169.254.169.254/32", "fd00:ec2::254/128", "10.0.0.0/8"];
        let networks = networks.map(|it| it.parse().unwrap());
        let expected = Plan {
            ingress_port: 15000,
            egress_port: 15001,
            app_ports: [443, 8080].into(),
            exempt: vec![Exempt::Uid(1337)],
            ignored_ports: [22, 25].into(),
            ignored_networks: networks.into(),
            ipv6: true,
        };
        assert_eq!(plan, expected);
    }

    #[test]
    fn nothing_is_done_unless_asked_for() {
        for start in [None, Some(""), Some("0")] {
            let settings = Settings {
                start_enabled: start.map(str::to_owned),
                ..settings()
            };
            assert_eq!(Plan::read(&settings), Ok(None), "{start:?}");
        }
    }

    #[test]
    fn without_ports_and_families_there_are_defaults() {
        let settings = Settings {
            start_enabled: Some("1".to_owned()),
            ignore_gid: Some("1337".to_owned()),
            ..Settings::default()
        };
        let plan = Plan::read(&settings).unwrap().unwrap();
        assert_eq!((plan.ingress_port, plan.egress_port), (15000, 15001));
        assert_eq!(plan.exempt, [Exempt::Gid(1337)]);
        assert!(plan.ipv6);
    }

    #[test]
    fn an_error_names_the_variable_the_value_and_the_reason() {
        type Break = fn(&mut Settings);
        let cases: [(Break, &str); 7] = [
            (
                |it| it.start_enabled = Some("yes".into()),
                "APPMESH_START_ENABLED: `yes`: 1 or 0 is needed",
            ),
            (
                |it| it.ignore_uid = Some("envoy".into()),
                "APPMESH_IGNORE_UID: `envoy`: invalid digit found in string",
            ),
            (
                |it| it.envoy_egress_port = Some("0".into()),
                "APPMESH_ENVOY_EGRESS_PORT: `0`: `0` is no port: 1 to 65535 is needed",
            ),
            (
                |it| it.app_ports = Some("80,65536".into()),
                "APPMESH_APP_PORTS: `80,65536`: `65536` is no port: 1 to 65535 is needed",
            ),
            (
                |it| it.egress_ignored_ip = Some("10.0.0.0/33".into()),
                "APPMESH_EGRESS_IGNORED_IP: `10.0.0.0/33`: `10.0.0.0/33` is neither an IP address nor a CIDR",
            ),
            (
                |it| it.enable_ipv6 = Some("2".into()),
                "APPMESH_ENABLE_IPV6: `2`: 1 or 0 is needed",
            ),
            (
                |it| it.ignore_uid = None,
                "APPMESH_IGNORE_UID or APPMESH_IGNORE_GID is needed, or Envoy's own connections would come back to it",
            ),
        ];
        for (spoil, expected) in cases {
            let mut settings = settings();
            spoil(&mut settings);
            assert_eq!(Plan::read(&settings).unwrap_err().to_string(), expected);
        }
    }
}
