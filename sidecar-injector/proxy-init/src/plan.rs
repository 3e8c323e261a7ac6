//! The settings, parsed and checked: which connections are intercepted.
//!
//! No I/O: text becomes an [`InterceptionPlan`] or an error that names the variable.

use std::{collections::BTreeSet, net::IpAddr};

use ipnet::IpNet;

use crate::settings::InterceptionSettings;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct InterceptionPlan {
    /// Envoy's port for inbound connections.
    pub(crate) ingress_port: u16,
    /// Envoy's port for outbound connections.
    pub(crate) egress_port: u16,
    /// Ports of the application whose inbound connections are intercepted.
    pub(crate) app_ports: BTreeSet<u16>,
    /// Connections to which any of these applies are not intercepted. Never empty.
    pub(crate) exempt: Vec<Exempt>,
    /// Destination ports whose outbound connections are not intercepted.
    pub(crate) ignored_ports: BTreeSet<u16>,
    /// Destination networks, IPv4 and IPv6, whose outbound connections are not intercepted.
    pub(crate) ignored_networks: BTreeSet<IpNet>,
    /// Whether IPv6 is intercepted as well, if the kernel has it.
    pub(crate) ipv6: bool,
}

/// The owner of connections that are not intercepted: Envoy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exempt {
    /// A user ID.
    Uid(u32),
    /// A group ID.
    Gid(u32),
    /// A socket mark (`SO_MARK`).
    Mark(u32),
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum InvalidInterceptionSettings {
    #[error("{variable} is `{value}`: {reason}")]
    Value {
        variable: &'static str,
        value: String,
        reason: String,
    },
    #[error(
        "set APPMESH_IGNORE_UID, APPMESH_IGNORE_GID or EVERMESH_IGNORE_MARK; otherwise Envoy's own connections would be redirected to Envoy"
    )]
    NoExemption,
}

impl InterceptionPlan {
    /// Parses the settings. Nothing if `APPMESH_START_ENABLED` is not 1.
    pub(crate) fn read(
        settings: &InterceptionSettings,
    ) -> Result<Option<Self>, InvalidInterceptionSettings> {
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
            return Err(InvalidInterceptionSettings::NoExemption);
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

/// Parses a value. An empty value counts as unset, because manifests often contain empty variables.
fn one<T>(
    variable: &'static str,
    value: Option<&String>,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Result<Option<T>, InvalidInterceptionSettings> {
    let value = value.map(|value| value.trim());
    let Some(value) = value.filter(|value| !value.is_empty()) else {
        return Ok(None);
    };
    let parsed = parse(value).map_err(|reason| InvalidInterceptionSettings::Value {
        variable,
        value: value.to_owned(),
        reason,
    });
    parsed.map(Some)
}

/// Parses a list whose items are separated by commas.
fn list<T: Ord>(
    variable: &'static str,
    value: Option<&String>,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Result<BTreeSet<T>, InvalidInterceptionSettings> {
    let all = one(variable, value, |value| {
        let parts = value.split(',').map(str::trim);
        parts.filter(|part| !part.is_empty()).map(&parse).collect()
    });
    Ok(all?.unwrap_or_default())
}

fn switch(
    variable: &'static str,
    value: Option<&String>,
) -> Result<Option<bool>, InvalidInterceptionSettings> {
    one(variable, value, |value| match value {
        "1" | "true" => Ok(true),
        "0" | "false" => Ok(false),
        _ => Err("must be 1 or 0".to_owned()),
    })
}

fn number(
    variable: &'static str,
    value: Option<&String>,
) -> Result<Option<u32>, InvalidInterceptionSettings> {
    one(variable, value, |value| {
        let number = value.parse();
        number.map_err(|_error| format!("must be a number from 0 to {}", u32::MAX))
    })
}

fn port(text: &str) -> Result<u16, String> {
    match text.parse::<u16>() {
        Ok(0) | Err(_) => Err(format!("`{text}` is not a port from 1 to 65535")),
        Ok(port) => Ok(port),
    }
}

/// Parses an address or a network. The host bits of a network are set to zero.
fn network(text: &str) -> Result<IpNet, String> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(address.into());
    }
    let network = text.parse::<IpNet>();
    network
        .map(|network| network.trunc())
        .map_err(|_error| format!("`{text}` is not an IP address or a CIDR"))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// The variables that App Mesh's controller sets, and some more.
    pub(crate) fn settings() -> InterceptionSettings {
        let set = |text: &str| Some(text.to_owned());
        InterceptionSettings {
            start_enabled: set("1"),
            ignore_uid: set("1337"),
            ignore_gid: set(""),
            envoy_ingress_port: set("15000"),
            envoy_egress_port: set("15001"),
            app_ports: set("8080,443, 443"),
            egress_ignored_ip: set("169.254.169.254,fd00:ec2::254,10.1.2.3/8"),
            egress_ignored_ports: set("22,25"),
            enable_ipv6: set("1"),
            ..InterceptionSettings::default()
        }
    }

    #[test]
    fn variables_of_app_mesh_become_a_plan() {
        let plan = InterceptionPlan::read(&settings()).unwrap().unwrap();
        let networks = ["169.254.169.254/32", "fd00:ec2::254/128", "10.0.0.0/8"];
        let networks = networks.map(|it| it.parse().unwrap());
        let expected = InterceptionPlan {
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
    fn no_plan_unless_start_is_enabled() {
        for start in [None, Some(""), Some("0")] {
            let settings = InterceptionSettings {
                start_enabled: start.map(str::to_owned),
                ..settings()
            };
            assert_eq!(InterceptionPlan::read(&settings), Ok(None), "{start:?}");
        }
    }

    #[test]
    fn envoy_ports_and_ipv6_have_defaults() {
        let settings = InterceptionSettings {
            start_enabled: Some("1".to_owned()),
            ignore_gid: Some("1337".to_owned()),
            ..InterceptionSettings::default()
        };
        let plan = InterceptionPlan::read(&settings).unwrap().unwrap();
        assert_eq!((plan.ingress_port, plan.egress_port), (15000, 15001));
        assert_eq!(plan.exempt, [Exempt::Gid(1337)]);
        assert!(plan.ipv6);
    }

    #[test]
    fn error_names_the_variable_the_value_and_the_reason() {
        type Mutation = fn(&mut InterceptionSettings);
        let cases: [(Mutation, &str); 7] = [
            (
                |it| it.start_enabled = Some("yes".into()),
                "APPMESH_START_ENABLED is `yes`: must be 1 or 0",
            ),
            (
                |it| it.ignore_uid = Some("envoy".into()),
                "APPMESH_IGNORE_UID is `envoy`: must be a number from 0 to 4294967295",
            ),
            (
                |it| it.envoy_egress_port = Some("0".into()),
                "APPMESH_ENVOY_EGRESS_PORT is `0`: `0` is not a port from 1 to 65535",
            ),
            (
                |it| it.app_ports = Some("80,65536".into()),
                "APPMESH_APP_PORTS is `80,65536`: `65536` is not a port from 1 to 65535",
            ),
            (
                |it| it.egress_ignored_ip = Some("10.0.0.0/33".into()),
                "APPMESH_EGRESS_IGNORED_IP is `10.0.0.0/33`: `10.0.0.0/33` is not an IP address or a CIDR",
            ),
            (
                |it| it.enable_ipv6 = Some("2".into()),
                "APPMESH_ENABLE_IPV6 is `2`: must be 1 or 0",
            ),
            (
                |it| it.ignore_uid = None,
                "set APPMESH_IGNORE_UID, APPMESH_IGNORE_GID or EVERMESH_IGNORE_MARK; otherwise Envoy's own connections would be redirected to Envoy",
            ),
        ];
        for (mutate, expected) in cases {
            let mut settings = settings();
            mutate(&mut settings);
            assert_eq!(
                InterceptionPlan::read(&settings).unwrap_err().to_string(),
                expected
            );
        }
    }
}
