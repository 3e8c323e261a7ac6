//! Secrets with the contents of Kubernetes Secrets.
//!
//! Transport sockets refer to them by name (module [`tls`](crate::tls)), and all proxies share them. A resource exists
//! while a view lists it, so nothing is derived for a graph whose proxies refer to no such secret.
//!
//! The authorities of several Kubernetes Secrets are one resource, because a transport socket refers to one secret of
//! authorities. Those that do not exist are left out of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use evermesh_model::{Pem, ResolvedSecret, SecretName};
use evermesh_proto::{
    ProxyView, Resource, ResourceType,
    core::{DataSource, data_source::Specifier},
    tls::{CertificateValidationContext, Secret, TlsCertificate, secret::Type},
};

use crate::{scope::EncodedResources, stage::Dependency, tls, wire};

/// The number of views that list each secret with the contents of a Kubernetes Secret.
#[derive(Debug, Default)]
pub(crate) struct SecretUses(BTreeMap<Arc<str>, usize>);

impl SecretUses {
    pub(crate) fn contains(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// Counts a changed view. Adds the names that a view lists for the first time, or that no view lists any more, to
    /// `changed`.
    pub(crate) fn replace(
        &mut self,
        before: Option<&ProxyView>,
        after: Option<&ProxyView>,
        changed: &mut BTreeSet<Dependency>,
    ) {
        for name in after.into_iter().flat_map(shared_names) {
            let count = self.0.entry(Arc::clone(name)).or_default();
            *count += 1;
            if *count == 1 {
                changed.insert(Dependency::StoredSecret(Arc::clone(name)));
            }
        }
        for name in before.into_iter().flat_map(shared_names) {
            if let Some(count) = self.0.get_mut(name) {
                *count -= 1;
                if *count == 0 {
                    self.0.remove(name);
                    changed.insert(Dependency::StoredSecret(Arc::clone(name)));
                }
            }
        }
    }
}

/// The names of a view's secrets that are not its own.
fn shared_names(view: &ProxyView) -> impl Iterator<Item = &Arc<str>> {
    let keys = view.of_type(ResourceType::Secret).iter();
    keys.filter(|key| key.scope.is_none()).map(|key| &key.name)
}

/// The resource of this name; none while no Kubernetes Secret has what it needs.
pub(crate) fn resource(
    name: &Arc<str>,
    mut look_up: impl FnMut(&SecretName) -> Option<Arc<ResolvedSecret>>,
) -> EncodedResources {
    let encoded = match StoredName::parse(name) {
        Some(StoredName::Certificate(secret)) => {
            look_up(&secret).and_then(|it| certificate(name, &it))
        }
        Some(StoredName::Trust(secrets)) => {
            let secrets: Vec<_> = secrets.iter().filter_map(look_up).collect();
            trust(name, &secrets)
        }
        None => None,
    };
    let resource = encoded.map(|it| (tls::stored_key(Arc::clone(name)), Arc::new(it)));
    resource.into_iter().collect()
}

fn certificate(name: &Arc<str>, secret: &ResolvedSecret) -> Option<Resource> {
    let pair = secret.certificate.as_ref()?;
    let message = Secret {
        name: name.to_string(),
        r#type: Some(Type::TlsCertificate(TlsCertificate {
            certificate_chain: Some(inline([&pair.chain])),
            private_key: Some(inline([&pair.private_key])),
            ..Default::default()
        })),
    };
    let resource = Resource::encode(Arc::clone(name), &message).into_confidential();
    Some(resource.with_origins(origins([secret])))
}

fn trust(name: &Arc<str>, secrets: &[Arc<ResolvedSecret>]) -> Option<Resource> {
    let authorities: Vec<&Pem> = secrets
        .iter()
        .filter_map(|secret| secret.authorities.as_ref())
        .collect();
    if authorities.is_empty() {
        return None;
    }
    let message = Secret {
        name: name.to_string(),
        r#type: Some(Type::ValidationContext(CertificateValidationContext {
            trusted_ca: Some(inline(authorities)),
            ..Default::default()
        })),
    };
    let origins = origins(secrets.iter().map(AsRef::as_ref));
    Some(Resource::encode(Arc::clone(name), &message).with_origins(origins))
}

fn origins<'a>(secrets: impl IntoIterator<Item = &'a ResolvedSecret>) -> Vec<Arc<str>> {
    let meshes = secrets.into_iter().flat_map(|secret| &secret.meshes);
    wire::sorted(meshes.map(wire::origin).collect())
}

fn inline<'a>(texts: impl IntoIterator<Item = &'a Pem>) -> DataSource {
    let text: String = texts.into_iter().map(Pem::expose).collect();
    DataSource {
        specifier: Some(Specifier::InlineBytes(text.into_bytes())),
        ..Default::default()
    }
}

/// A name that [`stored_certificate`](crate::names::stored_certificate) or
/// [`stored_trust`](crate::names::stored_trust) made.
#[derive(Debug, PartialEq, Eq)]
enum StoredName {
    Certificate(SecretName),
    Trust(Vec<SecretName>),
}

impl StoredName {
    /// The names of namespaces and Secrets contain neither `/` nor `+`. So the certificate of the Secret `shop/ca` is not
    /// taken for authorities.
    fn parse(text: &str) -> Option<Self> {
        let text = text.strip_prefix("secret/")?;
        let authorities = text.strip_suffix("/ca");
        let authorities = authorities
            .and_then(|list| list.split('+').map(secret_name).collect::<Option<Vec<_>>>());
        match authorities {
            Some(secrets) => Some(Self::Trust(secrets)),
            None => secret_name(text).map(Self::Certificate),
        }
    }
}

fn secret_name(text: &str) -> Option<SecretName> {
    let (namespace, name) = text.split_once('/')?;
    Some(SecretName {
        namespace: namespace.into(),
        name: name.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names;

    #[test]
    fn names_are_parsed_as_they_are_made() {
        let name = |name: &str| SecretName {
            namespace: "shop".into(),
            name: name.into(),
        };
        for secret in ["color", "ca", "color.tls"] {
            let text = names::stored_certificate(&name(secret));
            let parsed = StoredName::parse(&text);
            assert_eq!(parsed, Some(StoredName::Certificate(name(secret))));
        }
        for secrets in [vec![name("color")], vec![name("ca"), name("color")]] {
            let text = names::stored_trust(&secrets);
            assert_eq!(StoredName::parse(&text), Some(StoredName::Trust(secrets)));
        }
        assert_eq!(StoredName::parse("ingress:authorities:/ca.crt"), None);
    }
}
