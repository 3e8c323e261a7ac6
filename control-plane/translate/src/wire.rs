//! Small values of the Envoy API that several modules build: durations, addresses, the ADS config source.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
    time::Duration,
};

use evermesh_model::{IpFamilyPreference, ObjectRef, ResolvedMesh};
use evermesh_proto::{
    core::{
        Address, AggregatedConfigSource, ApiVersion, CidrRange, ConfigSource, SocketAddress,
        address::Address as AddressKind, config_source::ConfigSourceSpecifier,
        socket_address::PortSpecifier,
    },
    protobuf, route,
};

/// A protobuf duration. A longer duration than protobuf allows becomes the longest that it allows.
pub(crate) fn duration(value: Duration) -> protobuf::Duration {
    /// Seconds in the 10,000 years that `google.protobuf.Duration` allows.
    const LONGEST: u64 = 315_576_000_000;
    let seconds = value.as_secs().min(LONGEST);
    protobuf::Duration {
        seconds: i64::try_from(seconds).unwrap_or(i64::MAX),
        nanos: i32::try_from(value.subsec_nanos()).unwrap_or(0),
    }
}

pub(crate) fn uint32(value: u32) -> protobuf::UInt32Value {
    protobuf::UInt32Value { value }
}

pub(crate) fn bool(value: bool) -> protobuf::BoolValue {
    protobuf::BoolValue { value }
}

/// A TCP address. `host` is an IP address or, in a DNS cluster, a name.
pub(crate) fn address(host: String, port: u16) -> Address {
    Address {
        address: Some(AddressKind::SocketAddress(SocketAddress {
            address: host,
            port_specifier: Some(PortSpecifier::PortValue(port.into())),
            ..Default::default()
        })),
    }
}

/// The range that contains only this address.
pub(crate) fn host_range(address: IpAddr) -> CidrRange {
    CidrRange {
        address_prefix: address.to_string(),
        prefix_len: Some(uint32(if address.is_ipv4() { 32 } else { 128 })),
    }
}

/// The address of a listener that other pods reach: `0.0.0.0`, or `::` with IPv4 compatibility if the mesh has an
/// `ipPreference`.
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

/// The loopback address: `::1` if the mesh is `IPv6_ONLY`, else `127.0.0.1`.
pub(crate) fn loopback(mesh: &ResolvedMesh) -> IpAddr {
    match mesh.ip_preference {
        Some(IpFamilyPreference::Ipv6Only) => Ipv6Addr::LOCALHOST.into(),
        Some(IpFamilyPreference::Ipv4Only) | None => Ipv4Addr::LOCALHOST.into(),
    }
}

/// The ADS stream as config source. `initial_fetch_timeout` is 0, so the proxy waits without a limit: after Envoy's
/// default of 15 seconds a listener would start without its routes and answer 404.
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

/// Matches every path.
pub(crate) fn any_path() -> route::RouteMatch {
    route::RouteMatch {
        path_specifier: Some(route::route_match::PathSpecifier::Prefix("/".into())),
        ..Default::default()
    }
}

/// The text of an object in `Resource::origins`.
pub(crate) fn origin(object: &ObjectRef) -> Arc<str> {
    object.to_string().into()
}

/// Sorts and removes duplicates.
pub(crate) fn sorted(mut names: Vec<Arc<str>>) -> Vec<Arc<str>> {
    names.sort();
    names.dedup();
    names
}
