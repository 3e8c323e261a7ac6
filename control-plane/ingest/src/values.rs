//! Conversion of small API values to types of the model: protocols, ports, durations, names and references.

use std::{net::IpAddr, sync::Arc, time::Duration};

use evermesh_crds::v1beta2;
use evermesh_model::{Kind, Protocol, Reason, Timeout, problem::FieldPath};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::{
    name_index::RefOrArn,
    stage::{ProblemReported, Problems},
};

pub(crate) const fn protocol(protocol: v1beta2::PortProtocol) -> Protocol {
    match protocol {
        v1beta2::PortProtocol::Grpc => Protocol::Grpc,
        v1beta2::PortProtocol::Http => Protocol::Http,
        v1beta2::PortProtocol::Http2 => Protocol::Http2,
        v1beta2::PortProtocol::Tcp => Protocol::Tcp,
    }
}

pub(crate) const fn gateway_protocol(protocol: v1beta2::VirtualGatewayPortProtocol) -> Protocol {
    match protocol {
        v1beta2::VirtualGatewayPortProtocol::Grpc => Protocol::Grpc,
        v1beta2::VirtualGatewayPortProtocol::Http => Protocol::Http,
        v1beta2::VirtualGatewayPortProtocol::Http2 => Protocol::Http2,
    }
}

/// Parses the port of a reference or match, for which the schema allows any number.
pub(crate) fn port(
    port: Option<u64>,
    field: &FieldPath,
    problems: &mut Problems<'_>,
) -> Result<Option<u16>, ProblemReported> {
    let Some(number) = port else {
        return Ok(None);
    };
    match u16::try_from(number) {
        Ok(port) if port != 0 => Ok(Some(port)),
        _ => {
            problems.add(
                field.field("port"),
                Reason::InvalidValue,
                format!("`{number}` is not a valid port; use a number from 1 to 65535"),
            );
            Err(ProblemReported)
        }
    }
}

/// Annotation of a `VirtualNode` or `VirtualGateway`: whether its proxies add the address of the client to
/// `X-Forwarded-For`. App Mesh never did.
const FORWARD_CLIENT_ADDRESS: &str = "evermesh.dev/forward-client-address";

/// Parses the annotation [`FORWARD_CLIENT_ADDRESS`].
pub(crate) fn forwards_client_address(metadata: &ObjectMeta, problems: &mut Problems<'_>) -> bool {
    let otherwise = "the client's address is not forwarded";
    switch(metadata, FORWARD_CLIENT_ADDRESS, otherwise, problems).unwrap_or_default()
}

/// The maximum duration. Envoy's limit is slightly longer: 2^63 nanoseconds.
const MAX_DURATION: Duration = Duration::from_hours(2_500_000);

/// Converts a duration, limited to [`MAX_DURATION`].
pub(crate) fn duration(duration: v1beta2::Duration) -> Duration {
    Duration::from(duration).min(MAX_DURATION)
}

pub(crate) fn http_timeout(timeout: v1beta2::HttpTimeout) -> Timeout {
    let v1beta2::HttpTimeout { per_request, idle } = timeout;
    Timeout {
        per_request: per_request.map(duration),
        idle: idle.map(duration),
    }
}

pub(crate) fn tcp_timeout(timeout: v1beta2::TcpTimeout) -> Timeout {
    let v1beta2::TcpTimeout { idle } = timeout;
    Timeout {
        per_request: None,
        idle: idle.map(duration),
    }
}

/// Parses an annotation that is `true` or `false`. `otherwise` says what applies if it is neither.
pub(crate) fn switch(
    metadata: &ObjectMeta,
    annotation: &str,
    otherwise: &str,
    problems: &mut Problems<'_>,
) -> Option<bool> {
    let text = metadata.annotations.as_ref()?.get(annotation)?;
    let value = text.parse().ok();
    if value.is_none() {
        problems.add(
            FieldPath::root()
                .field("metadata.annotations")
                .key(annotation),
            Reason::InvalidValue,
            format!("`{text}` is neither `true` nor `false`, so {otherwise}; use one of the two"),
        );
    }
    value
}

/// Returns whether the text is usable in node IDs and in names of Envoy resources: 1 to 255 of `A-Z a-z 0-9 . _ -`.
pub(crate) fn is_name(text: &str) -> bool {
    (1..=255).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

/// Returns whether DNS can have an answer for the text: an IP address, or labels of 1 to 63 of `A-Z a-z 0-9 _ -`, joined by
/// dots, of at most 253 bytes, with or without a dot at the end (RFC 1035, section 2.3.4).
pub(crate) fn is_resolvable(text: &str) -> bool {
    if text.parse::<IpAddr>().is_ok() {
        return true;
    }
    let name = text.strip_suffix('.').unwrap_or(text);
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte))
    };
    // A resolver takes a name of numbers for an IPv4 address.
    let is_number = |label: &str| label.bytes().all(|byte| byte.is_ascii_digit());
    name.len() <= 253 && name.split('.').all(is_label) && !name.split('.').all(is_number)
}

/// Validates an `awsName`, whether the user set it or it is the default.
pub(crate) fn name(name: String, problems: &mut Problems<'_>) -> Option<Arc<str>> {
    if is_name(&name) {
        return Some(name.into());
    }
    problems.add(
        FieldPath::spec().field("awsName"),
        Reason::InvalidValue,
        format!("`{name}` is not a valid awsName; use 1 to 255 letters, digits, `.`, `_` and `-`"),
    );
    None
}

/// Combines the fields `…Ref` and `…ARN` of one kind.
pub(crate) fn ref_or_arn<'a>(
    kind: Kind,
    reference: Option<&'a v1beta2::Reference>,
    arn: Option<&'a String>,
) -> RefOrArn<'a> {
    RefOrArn {
        kind,
        object: reference
            .map(|v1beta2::Reference { name, namespace }| (name.as_str(), namespace.as_deref())),
        arn: arn.map(String::as_str),
    }
}
