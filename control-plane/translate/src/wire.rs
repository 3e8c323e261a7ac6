//! Values of the Envoy API that are written everywhere: durations, addresses, the ADS source.
//!
//! Must not decide anything about a mesh.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
    time::Duration,
};

use evermesh_model::{IpFamilyPreference, ObjectRef, ResolvedMesh};
use evermesh_proto::{
    core::{
        Address, AggregatedConfigSource, ApiVersion, ConfigSource, SocketAddress,
        address::Address as AddressKind, config_source::ConfigSourceSpecifier,
        socket_address::PortSpecifier,
    },
    protobuf, route,
};

/// Seconds and nanoseconds; what protobuf cannot hold becomes its longest.
pub(crate) fn duration(value: Duration) -> protobuf::Duration {
    /// `google.protobuf.Duration` ends at 10,000 years.
    const LONGEST: u64 = 315_576_000_000;
    let seconds = value.as_secs().min(LONGEST);
    protobuf::Duration {
        seconds: i64::try_from(seconds).unwrap_or(i64::MAX),
        nanos: i32::try_from(value.subsec_nanos()).unwrap_or(0),
    }
}

/// A wrapped `uint32`.
pub(crate) fn uint32(value: u32) -> protobuf::UInt32Value {
    protobuf::UInt32Value { value }
}

/// A wrapped `bool`.
pub(crate) fn bool(value: bool) -> protobuf::BoolValue {
    protobuf::BoolValue { value }
}

/// A TCP address: an IP address or a name to resolve.
pub(crate) fn address(host: String, port: u16) -> Address {
    Address {
        address: Some(AddressKind::SocketAddress(SocketAddress {
            address: host,
            port_specifier: Some(PortSpecifier::PortValue(port.into())),
            ..Default::default()
        })),
    }
}

/// Where a listener that anyone may reach binds: any IPv4 address; once the mesh states a preference, any address
/// of both families.
pub(crate) fn any_address(mesh: &ResolvedMesh, port: u16) -> Address {
    if mesh.ip_preference.is_none() {
        return address(Ipv4Addr::UNSPECIFIED.to_string(), port);
    }
    Address {
        address: Some(AddressKind::SocketAddress(SocketAddress {
            address: Ipv6Addr::UNSPECIFIED.to_string(),
            port_specifier: Some(PortSpecifier::PortValue(port.into())),
            ipv4_compat: true,
            ..Default::default()
        })),
    }
}

/// The address of the proxy's own pod or host: `::1` where the mesh is IPv6 only.
pub(crate) fn loopback(mesh: &ResolvedMesh) -> IpAddr {
    match mesh.ip_preference {
        Some(IpFamilyPreference::Ipv6Only) => Ipv6Addr::LOCALHOST.into(),
        Some(IpFamilyPreference::Ipv4Only) | None => Ipv4Addr::LOCALHOST.into(),
    }
}

/// The stream on which the listener or cluster itself came. The proxy waits for the answer without a limit:
/// ours always comes, and a listener without its routes would answer 404.
pub(crate) fn ads() -> ConfigSource {
    ConfigSource {
        resource_api_version: ApiVersion::V3.into(),
        initial_fetch_timeout: Some(duration(Duration::ZERO)),
        config_source_specifier: Some(
            ConfigSourceSpecifier::Ads(AggregatedConfigSource::default()),
        ),
        ..Default::default()
    }
}

/// A route for every path.
pub(crate) fn any_path() -> route::RouteMatch {
    route::RouteMatch {
        path_specifier: Some(route::route_match::PathSpecifier::Prefix("/".into())),
        ..Default::default()
    }
}

/// The user's object in `origins` of a resource.
pub(crate) fn origin(object: &ObjectRef) -> Arc<str> {
    object.to_string().into()
}

/// Ascending, each once.
pub(crate) fn sorted(mut names: Vec<Arc<str>>) -> Vec<Arc<str>> {
    names.sort();
    names.dedup();
    names
}
