//! TLS of listeners and client policies → [`ServerTls`] and [`ClientTls`].
//!
//! Security fails closed: a setting that cannot be served as written is reported, and the listener or the backends that
//! it protects are left out. They are never served in plaintext or without the validation that the setting asks for.

use std::{collections::BTreeSet, sync::Arc};

use evermesh_crds::v1beta2;
use evermesh_model::{
    CertificateSource, ClientTls, PeerValidation, Reason, ResolvedMesh, SecretName, ServerTls,
    TrustSource, problem::FieldPath,
};

use crate::{
    membership::list,
    secrets::ACM_SECRETS,
    stage::{ProblemReported, Problems},
};

/// The client policy of backends: absent without a policy, `Err` if the backends are not served.
pub(crate) type ClientPolicyResult = Result<Option<Arc<ClientTls>>, ProblemReported>;

/// Parses `tls` of a node's listener: absent for plaintext, `Err` if the listener is not served.
pub(crate) fn read_node_listener(
    tls: Option<&v1beta2::ListenerTls>,
    mesh: &ResolvedMesh,
    field: &FieldPath,
    problems: &mut Problems<'_>,
) -> Result<Option<ServerTls>, ProblemReported> {
    let Some(v1beta2::ListenerTls {
        mode,
        certificate,
        validation,
    }) = tls
    else {
        return Ok(None);
    };
    let validation = validation.as_ref().map(
        |v1beta2::ListenerTlsValidation {
             trust,
             subject_alternative_names,
         }| {
            let v1beta2::ListenerTlsTrust { file, sds } = trust;
            let trust = vec![
                ("file", file.as_ref().map(Trust::File)),
                ("sds", sds.as_ref().map(Trust::Sds)),
            ];
            (trust, subject_alternative_names.as_ref())
        },
    );
    TlsReader::of_listener(mesh, problems).listener(*mode, certificate, validation, field)
}

/// Parses `tls` of a gateway's listener: absent for plaintext, `Err` if the listener is not served.
pub(crate) fn read_gateway_listener(
    tls: Option<&v1beta2::VirtualGatewayListenerTls>,
    mesh: &ResolvedMesh,
    field: &FieldPath,
    problems: &mut Problems<'_>,
) -> Result<Option<ServerTls>, ProblemReported> {
    let Some(v1beta2::VirtualGatewayListenerTls {
        mode,
        certificate,
        validation,
    }) = tls
    else {
        return Ok(None);
    };
    let validation = validation.as_ref().map(trust_and_names);
    TlsReader::of_listener(mesh, problems).listener(*mode, certificate, validation, field)
}

/// Parses a client policy. `field` is the parent of the policy. A policy without `tls` is none.
pub(crate) fn read_client_policy(
    policy: Option<&v1beta2::ClientPolicy>,
    mesh: &ResolvedMesh,
    field: &FieldPath,
    problems: &mut Problems<'_>,
) -> ClientPolicyResult {
    let Some(tls) = policy.and_then(|v1beta2::ClientPolicy { tls }| tls.as_ref()) else {
        return Ok(None);
    };
    let mut reader = TlsReader {
        mesh,
        consequence: "the backends to which the policy applies are not served",
        problems,
    };
    reader
        .client(tls, &field.field("clientPolicy.tls"))
        .map(|tls| Some(Arc::new(tls)))
}

/// The fields of a union with their values.
type Union<T> = Vec<(&'static str, Option<T>)>;

type TrustAndNames<'a> = (
    Union<Trust<'a>>,
    Option<&'a v1beta2::SubjectAlternativeNames>,
);

enum Certificate<'a> {
    Acm(&'a v1beta2::AcmCertificate),
    File(&'a v1beta2::FileCertificate),
    Sds(&'a v1beta2::SdsSecret),
}

enum Trust<'a> {
    Acm(&'a v1beta2::AcmTrust),
    File(&'a v1beta2::FileTrust),
    Sds(&'a v1beta2::SdsSecret),
}

fn trust_and_names(validation: &v1beta2::TlsValidation) -> TrustAndNames<'_> {
    let v1beta2::TlsValidation {
        trust: v1beta2::TlsTrust { acm, file, sds },
        subject_alternative_names,
    } = validation;
    let trust = vec![
        ("acm", acm.as_ref().map(Trust::Acm)),
        ("file", file.as_ref().map(Trust::File)),
        ("sds", sds.as_ref().map(Trust::Sds)),
    ];
    (trust, subject_alternative_names.as_ref())
}

/// Parses one TLS setting and reports what is wrong with it.
struct TlsReader<'a, 'p> {
    mesh: &'a ResolvedMesh,
    /// The effect of a mistake on the traffic that the setting protects, for messages.
    consequence: &'static str,
    problems: &'a mut Problems<'p>,
}

impl<'a, 'p> TlsReader<'a, 'p> {
    fn of_listener(mesh: &'a ResolvedMesh, problems: &'a mut Problems<'p>) -> Self {
        Self {
            mesh,
            consequence: "the listener is not served",
            problems,
        }
    }

    fn listener(
        &mut self,
        mode: v1beta2::TlsMode,
        certificate: &v1beta2::ListenerCertificate,
        validation: Option<TrustAndNames<'_>>,
        field: &FieldPath,
    ) -> Result<Option<ServerTls>, ProblemReported> {
        let allows_plaintext = match mode {
            v1beta2::TlsMode::Disabled => return Ok(None),
            v1beta2::TlsMode::Permissive => true,
            v1beta2::TlsMode::Strict => false,
        };
        let v1beta2::ListenerCertificate { acm, file, sds } = certificate;
        let certificate = vec![
            ("acm", acm.as_ref().map(Certificate::Acm)),
            ("file", file.as_ref().map(Certificate::File)),
            ("sds", sds.as_ref().map(Certificate::Sds)),
        ];
        // Both are read before either is used, so that one look shows all problems.
        let certificate = self.certificate(certificate, &field.field("certificate"));
        let validation = validation
            .map(|validation| self.validation(validation, &field.field("validation")))
            .transpose();
        Ok(Some(ServerTls {
            allows_plaintext,
            certificate: certificate?,
            client_validation: validation?,
        }))
    }

    fn client(
        &mut self,
        tls: &v1beta2::ClientPolicyTls,
        field: &FieldPath,
    ) -> Result<ClientTls, ProblemReported> {
        let v1beta2::ClientPolicyTls {
            enforce,
            ports,
            certificate,
            validation,
        } = tls;
        let certificate = certificate
            .as_ref()
            .map(|v1beta2::ClientCertificate { file, sds }| {
                let certificate = vec![
                    ("file", file.as_ref().map(Certificate::File)),
                    ("sds", sds.as_ref().map(Certificate::Sds)),
                ];
                self.certificate(certificate, &field.field("certificate"))
            })
            .transpose();
        let validation = self.validation(trust_and_names(validation), &field.field("validation"));
        Ok(ClientTls {
            enforce: enforce.unwrap_or(true),
            ports: ports
                .as_ref()
                .filter(|ports| !ports.is_empty())
                .map(|ports| ports.iter().copied().collect::<BTreeSet<u16>>()),
            certificate: certificate?,
            validation: validation?,
        })
    }

    fn certificate(
        &mut self,
        union: Union<Certificate<'_>>,
        field: &FieldPath,
    ) -> Result<CertificateSource, ProblemReported> {
        match self.only(union, field)? {
            Certificate::File(v1beta2::FileCertificate {
                certificate_chain,
                private_key,
            }) => Ok(CertificateSource::File {
                chain: certificate_chain.as_str().into(),
                private_key: private_key.as_str().into(),
            }),
            Certificate::Sds(secret) => self.sds(secret, field).map(CertificateSource::Sds),
            Certificate::Acm(v1beta2::AcmCertificate { certificate_arn }) => {
                let field = field.field("acm.certificateARN");
                self.stored_certificate(certificate_arn, field)
                    .map(CertificateSource::Stored)
            }
        }
    }

    fn validation(
        &mut self,
        (trust, names): TrustAndNames<'_>,
        field: &FieldPath,
    ) -> Result<PeerValidation, ProblemReported> {
        let trust = self.trust(trust, &field.field("trust"));
        let subject_names = names.map_or(Ok(Vec::new()), |names| {
            self.subject_names(names, &field.field("subjectAlternativeNames.match.exact"))
        });
        Ok(PeerValidation {
            trust: trust?,
            subject_names: subject_names?,
        })
    }

    fn trust(
        &mut self,
        union: Union<Trust<'_>>,
        field: &FieldPath,
    ) -> Result<TrustSource, ProblemReported> {
        match self.only(union, field)? {
            Trust::File(v1beta2::FileTrust { certificate_chain }) => {
                Ok(TrustSource::File(certificate_chain.as_str().into()))
            }
            Trust::Sds(secret) => self.sds(secret, field).map(TrustSource::Sds),
            Trust::Acm(v1beta2::AcmTrust {
                certificate_authority_arns,
            }) => {
                let field = field.field("acm.certificateAuthorityARNs");
                let secrets: Vec<_> = certificate_authority_arns
                    .iter()
                    .enumerate()
                    .map(|(index, arn)| self.stored_authority(arn, field.index(index)))
                    .collect();
                let secrets = secrets.into_iter().collect::<Result<BTreeSet<_>, _>>()?;
                Ok(TrustSource::Stored(secrets.into_iter().collect()))
            }
        }
    }

    /// The subject alternative names; the limits are those of AWS.
    fn subject_names(
        &mut self,
        names: &v1beta2::SubjectAlternativeNames,
        field: &FieldPath,
    ) -> Result<Vec<Arc<str>>, ProblemReported> {
        let v1beta2::SubjectAlternativeNames {
            r#match: v1beta2::SubjectAlternativeNameMatchers { exact },
        } = names;
        let consequence = self.consequence;
        let mut result = Ok(());
        if exact.is_empty() {
            result = self.refuse(
                field.clone(),
                Reason::InvalidValue,
                format!("no name is listed, so {consequence}; list a name, or remove subjectAlternativeNames"),
            );
        }
        for (index, name) in exact.iter().enumerate() {
            if !(1..=254).contains(&name.len()) {
                result = self.refuse(
                    field.index(index),
                    Reason::InvalidValue,
                    format!(
                        "the name has {} bytes, so {consequence}; use a DNS name or URI of 1 to 254 bytes",
                        name.len()
                    ),
                );
            }
        }
        result?;
        let names: BTreeSet<Arc<str>> = exact.iter().map(|name| name.as_str().into()).collect();
        Ok(names.into_iter().collect())
    }

    fn sds(
        &mut self,
        v1beta2::SdsSecret { secret_name }: &v1beta2::SdsSecret,
        field: &FieldPath,
    ) -> Result<Arc<str>, ProblemReported> {
        if secret_name.is_empty() {
            let consequence = self.consequence;
            self.refuse(
                field.field("sds.secretName"),
                Reason::InvalidValue,
                format!("the name is empty, so {consequence}; name a secret of the secret discovery service"),
            )?;
        }
        Ok(secret_name.as_str().into())
    }

    /// The Secret that replaces the ACM certificate with this ARN.
    fn stored_certificate(
        &mut self,
        arn: &str,
        field: FieldPath,
    ) -> Result<SecretName, ProblemReported> {
        let Some(certificate) = self.mesh.acm_certificates.get(arn) else {
            return self.unmapped(arn, field);
        };
        let namespace = Arc::clone(&self.problems.object().namespace);
        if certificate.users.contains(&namespace) {
            return Ok(certificate.secret.clone());
        }
        let (consequence, mesh) = (self.consequence, &self.mesh.object);
        self.refuse(
            field,
            Reason::NotAllowed,
            format!(
                "`{mesh}` does not allow the namespace `{namespace}` to use the certificate that replaces `{arn}`, so {consequence}; add `for {namespace}` to the line of the ARN in its annotation {ACM_SECRETS}"
            ),
        )
    }

    /// The Secret that replaces the AWS Private CA with this ARN.
    fn stored_authority(
        &mut self,
        arn: &str,
        field: FieldPath,
    ) -> Result<SecretName, ProblemReported> {
        match self.mesh.acm_authorities.get(arn) {
            Some(secret) => Ok(secret.clone()),
            None => self.unmapped(arn, field),
        }
    }

    fn unmapped<T>(&mut self, arn: &str, field: FieldPath) -> Result<T, ProblemReported> {
        let (consequence, mesh) = (self.consequence, &self.mesh.object);
        self.refuse(
            field,
            Reason::UnsupportedSecurity,
            format!(
                "no Kubernetes Secret replaces `{arn}`, so {consequence}; map the ARN in the annotation {ACM_SECRETS} of `{mesh}`, or use file or sds"
            ),
        )
    }

    /// The value of the only field of a union that is set.
    fn only<T>(&mut self, union: Union<T>, field: &FieldPath) -> Result<T, ProblemReported> {
        let names: Vec<&str> = union.iter().map(|(name, _)| *name).collect();
        let (set, mut values): (Vec<&str>, Vec<T>) = union
            .into_iter()
            .filter_map(|(name, value)| Some((name, value?)))
            .unzip();
        if values.len() == 1
            && let Some(value) = values.pop()
        {
            return Ok(value);
        }
        let consequence = self.consequence;
        let message = if set.is_empty() {
            format!(
                "no field is set, so {consequence}; set one of {}",
                list(&names)
            )
        } else {
            format!("{} are set, so {consequence}; keep one", list(&set))
        };
        self.refuse(field.clone(), Reason::InvalidUnion, message)
    }

    fn refuse<T>(
        &mut self,
        field: FieldPath,
        reason: Reason,
        message: String,
    ) -> Result<T, ProblemReported> {
        self.problems.add(field, reason, message);
        Err(ProblemReported)
    }
}
