//! Meshes: settings that apply to all members.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use serde::Serialize;

use crate::{ObjectRef, SecretName};

/// A resolved `Mesh`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ResolvedMesh {
    /// `awsName`, which is part of node IDs, ARNs and cluster names.
    pub name: Arc<str>,
    /// The object from which the mesh was read.
    pub object: ObjectRef,
    /// The destinations that a node may call in addition to its backends.
    pub egress: EgressPolicy,
    /// The IP family of endpoints and listeners; both families if absent.
    pub ip_preference: Option<IpFamilyPreference>,
    /// Whether DNS names of Kubernetes Services are served from EndpointSlices. Absent if the mesh uses the setting of
    /// the control plane. Source: the annotation `evermesh.dev/endpoint-slices` of the `Mesh`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint_slices: Option<bool>,
    /// From the ARN of an ACM certificate to the Kubernetes Secret that replaces it.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub acm_certificates: BTreeMap<Arc<str>, MappedCertificate>,
    /// From the ARN of an AWS Private CA to the Kubernetes Secret whose `ca.crt` replaces it.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub acm_authorities: BTreeMap<Arc<str>, SecretName>,
    /// The Cloud Map services in which namespaces may register pods. Absent if every namespace may use every service, as
    /// in App Mesh.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cloud_map_registration: Option<Vec<RegistrationRule>>,
}

/// The namespaces that may register pods in a Cloud Map service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RegistrationRule {
    /// The name of the Cloud Map namespace.
    pub namespace: Arc<str>,
    /// The name of the service; absent for every service without a rule of its own.
    pub service: Option<Arc<str>>,
    /// The namespaces of the Kubernetes cluster.
    pub users: AllowedNamespaces,
}

/// A Kubernetes Secret that replaces an ACM certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MappedCertificate {
    /// The name of the Secret.
    pub secret: SecretName,
    /// The namespaces whose listeners may use the certificate.
    pub users: AllowedNamespaces,
}

/// The namespaces to which a mesh allows something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum AllowedNamespaces {
    /// Every namespace.
    All,
    /// These namespaces.
    Only(BTreeSet<Arc<str>>),
}

impl AllowedNamespaces {
    /// Returns whether the namespace is allowed.
    pub fn contains(&self, namespace: &str) -> bool {
        match self {
            Self::All => true,
            Self::Only(namespaces) => namespaces.contains(namespace),
        }
    }
}

/// App Mesh `egressFilter.type`, and the annotation that limits `DROP_ALL` further.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub enum EgressPolicy {
    /// Only backends, and TLS on port 443 with a server name below `amazonaws.com`.
    #[default]
    DropAll,
    /// Only backends.
    BackendsOnly,
    /// Traffic that belongs to no backend passes to its original destination.
    AllowAll,
}

/// App Mesh `meshServiceDiscovery.ipPreference`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum IpFamilyPreference {
    /// `IPv4_ONLY`
    Ipv4Only,
    /// `IPv6_ONLY`
    Ipv6Only,
}
