//! Kubernetes Secrets that replace certificates and authorities of ACM, whose private keys only AWS has.
//!
//! ```text
//! Mesh      metadata.annotations[evermesh.dev/acm-secrets]    ARN → NAMESPACE/NAME ──┐
//!                                                                                    ├──► ResolvedSecret, problems
//! Secret    tls.crt, tls.key, ca.crt ──read──► SecretObject ──after──► SecretState ──┘
//! ```
//!
//! Only a mesh, which is cluster-scoped, maps ARNs and allows namespaces to use a certificate, so that no namespace claims
//! the ARN or the private key of another. A Secret that no mesh maps is not part of the graph.
//!
//! If the certificate or the authorities of a newer version cannot be used, those of the last good version stay in force.
//! Problems are those of the mesh. They say what is wrong with an entry and never contain a part of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use evermesh_crds::v1beta2;
use evermesh_model::{
    AllowedNamespaces, KeyPair, Kind, MappedCertificate, ObjectRef, Pem, Problem, Reason,
    ResolvedSecret, SecretName, Severity, SharedMap, problem::FieldPath,
};

use crate::{
    inputs::{Inputs, ObjectMap},
    membership::read_namespaces,
    mesh::MeshIndex,
    object::{is_label, is_subdomain},
    pem,
    schema::quote,
    stage::{CachedValue, KeyedStage, ProblemLists, Problems, StageOutput, WithProblems},
};

/// Annotation of a `Mesh` with one line `ARN: NAMESPACE/NAME` for each ARN.
pub(crate) const ACM_SECRETS: &str = "evermesh.dev/acm-secrets";

/// Limit for an entry of a Secret. A bundle of all public authorities has about 220 kB.
const MAX_ENTRY_BYTES: usize = 512 << 10;

/// The resource of ACM that an ARN names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AcmResource {
    Certificate,
    Authority,
}

impl AcmResource {
    /// Parses `arn:PARTITION:acm:REGION:ACCOUNT:certificate/ID` and
    /// `arn:PARTITION:acm-pca:REGION:ACCOUNT:certificate-authority/ID`.
    fn of(arn: &str) -> Option<Self> {
        let parts: Vec<&str> = arn.split(':').collect();
        let ["arn", partition, service, region, account, resource] = parts[..] else {
            return None;
        };
        let (kind, id) = resource.split_once('/')?;
        let found = match (service, kind) {
            ("acm", "certificate") => Self::Certificate,
            ("acm-pca", "certificate-authority") => Self::Authority,
            _ => return None,
        };
        let is_complete = [partition, region, account, id]
            .iter()
            .all(|part| !part.is_empty() && !part.contains(char::is_whitespace));
        is_complete.then_some(found)
    }

    /// The entries of a Secret that replace the resource.
    const fn entries(self) -> &'static str {
        match self {
            Self::Certificate => "tls.crt and tls.key",
            Self::Authority => "ca.crt",
        }
    }

    /// The effect of a Secret without these entries.
    const fn effect(self) -> &'static str {
        match self {
            Self::Certificate => "listeners with this certificate accept no connection",
            Self::Authority => "connections that trust this authority fail",
        }
    }
}

/// The annotation [`ACM_SECRETS`] of a mesh.
#[derive(Debug, Default)]
pub(crate) struct AcmMappings {
    pub(crate) certificates: BTreeMap<Arc<str>, MappedCertificate>,
    pub(crate) authorities: BTreeMap<Arc<str>, SecretName>,
}

/// Parses the annotation. A bad line is a problem and does not affect the others.
pub(crate) fn read_mappings(mesh: &v1beta2::Mesh, problems: &mut Problems<'_>) -> AcmMappings {
    let annotations = mesh.metadata.annotations.as_ref();
    let text = annotations.and_then(|all| all.get(ACM_SECRETS));
    let mut mappings = AcmMappings::default();
    for (line, number) in text.map_or("", String::as_str).lines().zip(1..) {
        if line.trim().is_empty() {
            continue;
        }
        if let Err(message) = mappings.add(line) {
            let message = format!("line {number} is ignored: {message}");
            problems.add(field(), Reason::InvalidValue, message);
        }
    }
    mappings
}

impl AcmMappings {
    /// Adds a line `ARN: NAMESPACE/NAME` or `ARN: NAMESPACE/NAME for NAMESPACE, …`.
    fn add(&mut self, line: &str) -> Result<(), String> {
        let Some((arn, secret)) = line.rsplit_once(':') else {
            return Err(format!(
                "{} is not of the form ARN: NAMESPACE/NAME; write for example `arn:aws:acm:eu-west-1:111122223333:certificate/1a2b: shop/front`",
                quote(line.trim())
            ));
        };
        let arn = arn.trim();
        let (name, users) = match secret.split_once(" for ") {
            Some((name, users)) => (name.trim(), Some(users)),
            None => (secret.trim(), None),
        };
        let Some(resource) = AcmResource::of(arn) else {
            return Err(format!(
                "{} is not the ARN of an ACM certificate (arn:aws:acm:REGION:ACCOUNT:certificate/ID) or of a private authority (arn:aws:acm-pca:REGION:ACCOUNT:certificate-authority/ID); use the ARN that the listener or client policy has",
                quote(arn)
            ));
        };
        let Some(secret) = secret_name(name) else {
            return Err(format!(
                "{} does not name a Kubernetes Secret; use NAMESPACE/NAME",
                quote(name)
            ));
        };
        if self.certificates.contains_key(arn) || self.authorities.contains_key(arn) {
            return Err(format!(
                "an earlier line maps {} already; remove one of the two",
                quote(arn)
            ));
        }
        match (resource, users) {
            (AcmResource::Certificate, users) => {
                let users = allowed_namespaces(&secret, users)?;
                let certificate = MappedCertificate { secret, users };
                self.certificates.insert(arn.into(), certificate);
            }
            (AcmResource::Authority, None) => {
                self.authorities.insert(arn.into(), secret);
            }
            (AcmResource::Authority, Some(_)) => {
                return Err(
                    "every namespace may trust an authority; remove `for` and the namespaces"
                        .to_owned(),
                );
            }
        }
        Ok(())
    }
}

/// The namespaces that may use a certificate: that of the Secret, and those that are listed.
fn allowed_namespaces(
    secret: &SecretName,
    listed: Option<&str>,
) -> Result<AllowedNamespaces, String> {
    let own = || BTreeSet::from([Arc::clone(&secret.namespace)]);
    let Some(listed) = listed else {
        return Ok(AllowedNamespaces::Only(own()));
    };
    match read_namespaces(listed) {
        Ok(AllowedNamespaces::All) => Ok(AllowedNamespaces::All),
        Ok(AllowedNamespaces::Only(mut namespaces)) => {
            namespaces.append(&mut own());
            Ok(AllowedNamespaces::Only(namespaces))
        }
        Err(bad) => Err(format!(
            "{} is not a namespace; list namespaces after `for`, separated by commas, or `*` for all",
            quote(bad)
        )),
    }
}

fn secret_name(text: &str) -> Option<SecretName> {
    let (namespace, name) = text.split_once('/')?;
    (is_label(namespace) && is_subdomain(name)).then(|| SecretName {
        namespace: namespace.into(),
        name: name.into(),
    })
}

fn field() -> FieldPath {
    FieldPath::root()
        .field("metadata.annotations")
        .key(ACM_SECRETS)
}

/// The certificate and the authorities of a `v1` Secret, each with the reason why it cannot be used.
///
/// The reason is the rest of a sentence that begins with the Secret's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretObject {
    certificate: Result<KeyPair, String>,
    authorities: Result<Pem, String>,
}

impl SecretObject {
    /// Reads the entries `tls.crt`, `tls.key` and `ca.crt` of a document; all others are dropped.
    pub(crate) fn read(document: &serde_json::Value) -> Self {
        let entry = |key| read_entry(document, key);
        Self {
            certificate: read_certificate(entry("tls.crt"), entry("tls.key")),
            authorities: entry("ca.crt")
                .and_then(|text| text.ok_or_else(|| "has no entry ca.crt".to_owned()))
                .and_then(|text| pem::certificates(&text, "ca.crt")),
        }
    }
}

/// Returns the bytes of an entry; absent if it is empty, as in a Secret whose certificate is not issued yet.
/// `stringData` takes precedence, as in an API server.
fn read_entry(document: &serde_json::Value, key: &str) -> Result<Option<Vec<u8>>, String> {
    let plain = &document["stringData"][key];
    let encoded = &document["data"][key];
    let bytes = match (plain.as_str(), encoded.as_str()) {
        (Some(plain), _) => plain.as_bytes().to_vec(),
        (None, Some(encoded)) => pem::from_base64(encoded)
            .ok_or_else(|| format!("has an entry {key} that is not base64"))?,
        (None, None) if plain.is_null() && encoded.is_null() => Vec::new(),
        (None, None) => return Err(format!("has an entry {key} that is not a text")),
    };
    if bytes.len() > MAX_ENTRY_BYTES {
        return Err(format!(
            "has an entry {key} of {} bytes, more than the limit of {MAX_ENTRY_BYTES}",
            bytes.len()
        ));
    }
    Ok(Some(bytes).filter(|bytes| !bytes.is_empty()))
}

fn read_certificate(
    chain: Result<Option<Vec<u8>>, String>,
    key: Result<Option<Vec<u8>>, String>,
) -> Result<KeyPair, String> {
    match (chain?, key?) {
        (Some(chain), Some(key)) => pem::key_pair(&chain, &key),
        (None, None) => Err("has no entries tls.crt and tls.key".to_owned()),
        (Some(_), None) => Err("has an entry tls.crt and no entry tls.key".to_owned()),
        (None, Some(_)) => Err("has an entry tls.key and no entry tls.crt".to_owned()),
    }
}

/// A Secret in the inputs: what is in force of it, and what is wrong with its newest version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretState {
    certificate: SecretPart<KeyPair>,
    authorities: SecretPart<Pem>,
}

impl SecretState {
    /// The state after a new version of the Secret.
    pub(crate) fn after(last: Option<&Self>, newest: &SecretObject) -> Self {
        Self {
            certificate: SecretPart::after(last.map(|last| &last.certificate), &newest.certificate),
            authorities: SecretPart::after(last.map(|last| &last.authorities), &newest.authorities),
        }
    }
}

/// The certificate or the authorities of a Secret.
#[derive(Debug, Clone, PartialEq, Eq)]
struct SecretPart<T> {
    /// The newest one that can be used.
    last_good: Option<T>,
    /// The reason why that of the newest version cannot be used.
    fault: Option<String>,
}

impl<T: Clone> SecretPart<T> {
    fn after(last: Option<&Self>, newest: &Result<T, String>) -> Self {
        match newest {
            Ok(good) => Self {
                last_good: Some(good.clone()),
                fault: None,
            },
            Err(fault) => Self {
                last_good: last.and_then(|last| last.last_good.clone()),
                fault: Some(fault.clone()),
            },
        }
    }

    /// The fault of the newest version and its effect, which is `without` unless an older version is in force.
    fn fault<'a>(&'a self, without: &'a str) -> (Option<&'a str>, &'a str) {
        let effect = match self.last_good {
            Some(_) => "the last good version stays in force",
            None => without,
        };
        (self.fault.as_deref(), effect)
    }
}

/// An ARN that a mesh maps to a Secret.
#[derive(Debug, PartialEq)]
struct SecretUse {
    mesh: ObjectRef,
    arn: Arc<str>,
    resource: AcmResource,
}

/// The meshes that map an ARN to a Secret, and its contents.
type SecretInput = (Arc<Vec<SecretUse>>, Option<Arc<SecretState>>);
type UsesByName = BTreeMap<SecretName, Arc<Vec<SecretUse>>>;
type ResolvedSecrets = StageOutput<SecretName, ResolvedSecret>;

/// Memo of the stage of Secrets.
#[derive(Debug, Default)]
pub(crate) struct SecretMemo {
    uses: CachedValue<Arc<MeshIndex>, UsesByName>,
    resolved: KeyedStage<SecretName, SecretInput, ResolvedSecret>,
    all: CachedValue<(Arc<UsesByName>, ObjectMap<SecretState>), ResolvedSecrets>,
}

impl SecretMemo {
    /// Resolves the Secrets that a mesh maps.
    pub(crate) fn update(
        &mut self,
        meshes: &Arc<MeshIndex>,
        inputs: &Inputs,
        problems: &mut ProblemLists,
    ) -> SharedMap<SecretName, ResolvedSecret> {
        let uses = self.uses.update(Arc::clone(meshes), |meshes| uses(meshes));
        let resolved = &mut self.resolved;
        let input = (uses, Arc::clone(&inputs.secrets));
        let output = self.all.update(input, |(uses, secrets)| {
            let mut problems = ProblemLists::new();
            let pairs = uses.iter().map(|(name, uses)| {
                let object = object_ref(name);
                (name, (uses, secrets.get(&object)))
            });
            let values = resolved.update(
                pairs,
                |name, (uses, state)| resolve(name, uses, state.as_deref()),
                &mut problems,
            );
            StageOutput { values, problems }
        });
        problems.extend(output.problems.iter().cloned());
        Arc::clone(&output.values)
    }
}

fn uses(meshes: &MeshIndex) -> UsesByName {
    let mut found: BTreeMap<SecretName, Vec<SecretUse>> = BTreeMap::new();
    for mesh in meshes.by_name.values() {
        let certificates = mesh.acm_certificates.iter();
        let certificates =
            certificates.map(|(arn, it)| (arn, &it.secret, AcmResource::Certificate));
        let authorities = mesh.acm_authorities.iter();
        let authorities = authorities.map(|(arn, name)| (arn, name, AcmResource::Authority));
        for (arn, name, resource) in certificates.chain(authorities) {
            found.entry(name.clone()).or_default().push(SecretUse {
                mesh: mesh.object.clone(),
                arn: Arc::clone(arn),
                resource,
            });
        }
    }
    let shared = found.into_iter().map(|(name, uses)| (name, Arc::new(uses)));
    shared.collect()
}

fn resolve(
    name: &SecretName,
    uses: &[SecretUse],
    state: Option<&SecretState>,
) -> WithProblems<ResolvedSecret> {
    let object = object_ref(name);
    let mut problems = Problems::of(&object);
    for it in uses {
        problems.extend(match state {
            Some(state) => it.fault(&object, state),
            None => Some(it.missing(&object)),
        });
    }
    let mut meshes: Vec<ObjectRef> = uses.iter().map(|it| it.mesh.clone()).collect();
    meshes.sort();
    meshes.dedup();
    let has_certificate = uses
        .iter()
        .any(|it| it.resource == AcmResource::Certificate);
    let resolved = state.map(|state| ResolvedSecret {
        name: name.clone(),
        meshes,
        certificate: state
            .certificate
            .last_good
            .clone()
            .filter(|_| has_certificate),
        authorities: state.authorities.last_good.clone(),
    });
    let resolved = resolved.filter(|it| it.certificate.is_some() || it.authorities.is_some());
    WithProblems::new(resolved, problems)
}

fn object_ref(SecretName { namespace, name }: &SecretName) -> ObjectRef {
    ObjectRef::new(Kind::Secret, Arc::clone(namespace), Arc::clone(name))
}

impl SecretUse {
    fn problem(&self, severity: Severity, message: String) -> Problem {
        Problem {
            severity,
            ..Problem::new(&self.mesh, field(), Reason::ReferenceNotFound, message)
        }
    }

    fn missing(&self, secret: &ObjectRef) -> Problem {
        let Self { arn, resource, .. } = self;
        let (entries, effect) = (resource.entries(), resource.effect());
        let message = format!(
            "`{secret}`, which replaces `{arn}`, does not exist or cannot be read, so {effect}; create it with {entries} and, in a Kubernetes cluster, with the label `evermesh.dev/certificate: \"true\"` in a namespace that --secret-namespace lists"
        );
        self.problem(Severity::Error, message)
    }

    /// The fault of the newest version of the Secret that affects this use.
    fn fault(
        &self,
        secret: &ObjectRef,
        SecretState {
            certificate,
            authorities,
        }: &SecretState,
    ) -> Option<Problem> {
        let Self { arn, resource, .. } = self;
        let subject = format!("`{secret}`, which replaces `{arn}`,");
        let (fault, effect) = match resource {
            AcmResource::Certificate => certificate.fault(resource.effect()),
            AcmResource::Authority => authorities.fault(resource.effect()),
        };
        if let Some(fault) = fault {
            let entries = resource.entries();
            let message = format!("{subject} {fault}, so {effect}; correct {entries}");
            return Some(self.problem(Severity::Error, message));
        }
        // Every fault of a mapped authority was reported above. Callers without a client policy validate an ACM
        // certificate by the authority that signed it.
        let (fault, effect) = authorities
            .fault("virtual nodes without a client policy do not accept this certificate");
        let message = format!(
            "{subject} {}, so {effect}; correct ca.crt, unless only virtual gateways use the certificate",
            fault?
        );
        Some(self.problem(Severity::Warning, message))
    }
}

#[cfg(test)]
mod tests;
