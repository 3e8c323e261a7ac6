//! Types and reasons of the conditions that Evermesh writes into statuses.
//!
//! All strings in this file are API: `kubectl wait`, dashboards and scripts compare them, and events use the same
//! reasons. An object that is not served as written has the reason of its first error instead
//! ([`evermesh_model::Reason`]).

use evermesh_model::Kind;

/// Condition that is true once every connected proxy concerned has ACKed the object.
pub(super) const PROGRAMMED: &str = "Programmed";
/// Condition whose message is the newest weights that every proxy has ACKed.
pub(super) const WEIGHTS_ACKED: &str = "WeightsAcked";

/// Reason of the event about a deleted node whose instances may remain in Cloud Map, because registration is off.
pub(super) const INSTANCES_REMAIN: &str = "CloudMapInstancesRemain";

/// The condition that App Mesh's controller defined for a kind: true while the object is served as written. `None` for
/// kinds whose status Evermesh does not write; the status of a `BackendGroup` has no fields.
pub(super) const fn active_condition(kind: Kind) -> Option<&'static str> {
    match kind {
        Kind::Mesh => Some("MeshActive"),
        Kind::VirtualNode => Some("VirtualNodeActive"),
        Kind::VirtualService => Some("VirtualServiceActive"),
        Kind::VirtualRouter => Some("VirtualRouterActive"),
        Kind::VirtualGateway => Some("VirtualGatewayActive"),
        Kind::GatewayRoute => Some("GatewayRouteActive"),
        Kind::Route => Some("RouteActive"),
        Kind::BackendGroup
        | Kind::Namespace
        | Kind::Service
        | Kind::EndpointSlice
        | Kind::Pod
        | Kind::Node
        | Kind::Secret => None,
    }
}

/// Reasons of the conditions of mesh objects, beside those of problems.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ConditionReason {
    /// `<Kind>Active` is true: the object is served as written.
    Accepted,
    /// `Programmed` is true: every proxy concerned has ACKed the object.
    Programmed,
    /// `Programmed` is true: no connected proxy uses the object.
    NoProxies,
    /// `Programmed` is false: proxies have yet to answer, or a replica has yet to report.
    Pending,
    /// `Programmed` is false: a proxy has NACKed the object.
    Rejected,
    /// `Programmed` is false: a proxy does not get a private key, because it has not proven its identity or its connection
    /// is not private.
    SecretWithheld,
    /// `WeightsAcked` is true.
    Acked,
}

impl ConditionReason {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "Accepted",
            Self::Programmed => "Programmed",
            Self::NoProxies => "NoProxies",
            Self::Pending => "Pending",
            Self::Rejected => "Rejected",
            Self::SecretWithheld => "SecretWithheld",
            Self::Acked => "Acked",
        }
    }
}

/// Reasons of the readiness gate of a pod that is registered in Cloud Map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum GateReason {
    /// True: Cloud Map lists the pod's instance.
    Registered,
    /// A container of the pod is not ready.
    ContainersNotReady,
    /// Cloud Map does not list the pod's instance yet.
    NotRegistered,
    /// Cloud Map lists the instance and does not report it as healthy yet.
    NotHealthy,
    /// The Route 53 health check of the instance fails.
    Unhealthy,
    /// Another pod with the same IP address is registered.
    AddressTaken,
    /// Cloud Map does not answer, or has no namespace of that name.
    CloudMapUnavailable,
}

impl GateReason {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Registered => "Registered",
            Self::ContainersNotReady => "ContainersNotReady",
            Self::NotRegistered => "NotRegistered",
            Self::NotHealthy => "NotHealthy",
            Self::Unhealthy => "Unhealthy",
            Self::AddressTaken => "AddressTaken",
            Self::CloudMapUnavailable => "CloudMapUnavailable",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn condition_types_and_reasons_are_api() {
        let active: Vec<&str> = Kind::ALL.into_iter().filter_map(active_condition).collect();
        let mut types = [active, vec![PROGRAMMED, WEIGHTS_ACKED]].concat();
        types.sort_unstable();
        let expected = [
            "GatewayRouteActive",
            "MeshActive",
            "Programmed",
            "RouteActive",
            "VirtualGatewayActive",
            "VirtualNodeActive",
            "VirtualRouterActive",
            "VirtualServiceActive",
            "WeightsAcked",
        ];
        assert_eq!(types, expected);
        assert_eq!(INSTANCES_REMAIN, "CloudMapInstancesRemain");

        for (reason, text) in [
            (ConditionReason::Accepted, "Accepted"),
            (ConditionReason::Programmed, "Programmed"),
            (ConditionReason::NoProxies, "NoProxies"),
            (ConditionReason::Pending, "Pending"),
            (ConditionReason::Rejected, "Rejected"),
            (ConditionReason::SecretWithheld, "SecretWithheld"),
            (ConditionReason::Acked, "Acked"),
        ] {
            assert_eq!(reason.as_str(), text);
        }
        for (reason, text) in [
            (GateReason::Registered, "Registered"),
            (GateReason::ContainersNotReady, "ContainersNotReady"),
            (GateReason::NotRegistered, "NotRegistered"),
            (GateReason::NotHealthy, "NotHealthy"),
            (GateReason::Unhealthy, "Unhealthy"),
            (GateReason::AddressTaken, "AddressTaken"),
            (GateReason::CloudMapUnavailable, "CloudMapUnavailable"),
        ] {
            assert_eq!(reason.as_str(), text);
        }
    }
}
