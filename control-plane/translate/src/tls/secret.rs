//! References to secrets, and the secrets with the paths of files.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use evermesh_model::{CertificateSource, TrustSource};
use evermesh_proto::{
    Resource, ResourceKey, ResourceType,
    core::{
        ApiConfigSource, ApiVersion, ConfigSource, DataSource, GrpcService,
        api_config_source::ApiType,
        config_source::ConfigSourceSpecifier,
        data_source::Specifier,
        grpc_service::{EnvoyGrpc, TargetSpecifier},
    },
    tls::{CertificateValidationContext, SdsSecretConfig, Secret, TlsCertificate, secret::Type},
};

use crate::{
    names,
    scope::{EncodedResources, ProxyScope},
    wire,
};

/// The time for which a listener or cluster waits for a secret before it starts without it. A proxy is ready once all
/// have started, so a missing secret of one backend delays its readiness by this time and no more.
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);

/// The cluster of the bootstrap that reaches the secret discovery service by a Unix socket.
const SDS_CLUSTER: &str = "static_cluster_sds_unix_socket";

/// The part of a proxy that names a secret. A file that both parts name becomes a secret of each, because a resource
/// belongs to one derivation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SecretDirection {
    /// Listeners of a node or gateway.
    Ingress,
    /// Clusters by which a proxy calls others.
    Egress,
}

impl SecretDirection {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }
}

/// The secrets to which one side of a proxy refers. Collected while its transport sockets are built.
#[derive(Debug)]
pub(crate) struct ProxySecrets {
    direction: SecretDirection,
    scope: ProxyScope,
    files: BTreeMap<Arc<str>, Type>,
    /// The secrets that were referred to since the last [`take_keys`](Self::take_keys).
    keys: BTreeSet<ResourceKey>,
}

impl ProxySecrets {
    pub(crate) const fn new(direction: SecretDirection, scope: ProxyScope) -> Self {
        Self {
            direction,
            scope,
            files: BTreeMap::new(),
            keys: BTreeSet::new(),
        }
    }

    /// Refers to a certificate with its private key.
    pub(crate) fn certificate(&mut self, source: &CertificateSource) -> SdsSecretConfig {
        match source {
            CertificateSource::File { chain, private_key } => {
                let name = names::file_certificate(self.direction, chain, private_key);
                let secret = Type::TlsCertificate(TlsCertificate {
                    certificate_chain: Some(file(chain)),
                    private_key: Some(file(private_key)),
                    ..Default::default()
                });
                self.file(name, secret)
            }
            CertificateSource::Sds(name) => from_socket(name),
            CertificateSource::Stored(secret) => self.stored(names::stored_certificate(secret)),
        }
    }

    /// Refers to certificate authorities.
    pub(crate) fn trust(&mut self, source: &TrustSource) -> SdsSecretConfig {
        match source {
            TrustSource::File(path) => {
                let name = names::file_trust(self.direction, path);
                let secret = Type::ValidationContext(CertificateValidationContext {
                    trusted_ca: Some(file(path)),
                    ..Default::default()
                });
                self.file(name, secret)
            }
            TrustSource::Sds(name) => from_socket(name),
            TrustSource::Stored(secrets) => self.stored(names::stored_trust(secrets)),
        }
    }

    /// The keys of the secrets over ADS that were referred to since the last call.
    pub(crate) fn take_keys(&mut self) -> BTreeSet<ResourceKey> {
        std::mem::take(&mut self.keys)
    }

    /// The secrets of files, which only this proxy gets.
    pub(crate) fn into_files(self, origins: &[Arc<str>]) -> EncodedResources {
        let scope = self.scope;
        let files = self.files.into_iter().map(|(name, contents)| {
            let secret = Secret {
                name: name.to_string(),
                r#type: Some(contents),
            };
            scope.scoped(Resource::encode(name, &secret).with_origins(origins))
        });
        files.collect()
    }

    fn file(&mut self, name: Arc<str>, contents: Type) -> SdsSecretConfig {
        let reference = from_ads(&name);
        let key = self.scope.key(ResourceType::Secret, Arc::clone(&name));
        self.keys.insert(key);
        self.files.insert(name, contents);
        reference
    }

    fn stored(&mut self, name: Arc<str>) -> SdsSecretConfig {
        let reference = from_ads(&name);
        self.keys.insert(stored_key(name));
        reference
    }
}

/// The key of a secret with the contents of a Kubernetes Secret.
pub(crate) fn stored_key(name: Arc<str>) -> ResourceKey {
    ResourceKey {
        kind: ResourceType::Secret,
        name,
        scope: None,
    }
}

/// Refers to a secret that Evermesh serves.
pub(super) fn from_ads(name: &str) -> SdsSecretConfig {
    SdsSecretConfig {
        name: name.to_owned(),
        sds_config: Some(ConfigSource {
            initial_fetch_timeout: Some(wire::duration(FETCH_TIMEOUT)),
            ..wire::ads()
        }),
    }
}

/// Refers to a secret of the service that the proxy reaches by a Unix socket.
fn from_socket(name: &str) -> SdsSecretConfig {
    let service = GrpcService {
        target_specifier: Some(TargetSpecifier::EnvoyGrpc(EnvoyGrpc {
            cluster_name: SDS_CLUSTER.to_owned(),
            ..Default::default()
        })),
        ..Default::default()
    };
    SdsSecretConfig {
        name: name.to_owned(),
        sds_config: Some(ConfigSource {
            resource_api_version: ApiVersion::V3.into(),
            initial_fetch_timeout: Some(wire::duration(FETCH_TIMEOUT)),
            config_source_specifier: Some(ConfigSourceSpecifier::ApiConfigSource(
                ApiConfigSource {
                    api_type: ApiType::Grpc.into(),
                    transport_api_version: ApiVersion::V3.into(),
                    grpc_services: vec![service],
                    ..Default::default()
                },
            )),
            ..Default::default()
        }),
    }
}

/// A file. Envoy reads the files of a secret again when something is moved into the folder of one of them, as Kubernetes
/// does when it replaces the files of a volume.
fn file(path: &str) -> DataSource {
    DataSource {
        specifier: Some(Specifier::Filename(path.to_owned())),
        ..Default::default()
    }
}
