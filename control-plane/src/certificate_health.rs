//! When the certificates in use expire and which new ones cannot be used: metrics, and warnings in the log.
//!
//! Each module that takes a certificate into use records its end here. The Secrets that replace certificates of ACM are
//! read from the graph. [`CertificateHealth::follow`] warns of a certificate that expires within [`WARNING_TIME`], at
//! once and then once a day.

use std::{
    collections::BTreeMap,
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use evermesh_model::{ResolvedSecret, SecretName, memo::SharedMap};
use k8s_openapi::jiff::Timestamp;
use parking_lot::Mutex;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, gauge::ConstGauge},
    registry::Unit,
};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::{engine::EngineSnapshot, server_clock::Clock, throttle::LogThrottle};

/// Time before the end of a certificate from which on warnings are logged. Certificates that Evermesh creates are renewed
/// 30 days before their end.
const WARNING_TIME: Duration = Duration::from_hours(7 * 24);
/// Time between two warnings of one certificate.
const WARNING_INTERVAL: Duration = Duration::from_hours(24);
/// Interval of checks without a change.
const CHECK_INTERVAL: Duration = Duration::from_hours(1);

/// The purpose of a certificate or of a list of authorities: the label `certificate` of the metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum CertificateRole {
    /// The certificate of the webhooks.
    Webhooks,
    /// The certificate of the xDS server.
    Xds,
    /// The authorities of `--xds-client-ca`.
    XdsClientAuthorities,
    /// The authority that Evermesh creates, which signs the two certificates above.
    OwnAuthority,
    /// The authorities of `--sidecar-xds-ca`.
    SidecarAuthorities,
    /// The certificate of a Secret that replaces one of ACM.
    Secret,
    /// The authorities of such a Secret.
    SecretAuthorities,
}

impl CertificateRole {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Webhooks => "webhooks",
            Self::Xds => "xds",
            Self::XdsClientAuthorities => "xds_client_authorities",
            Self::OwnAuthority => "own_authority",
            Self::SidecarAuthorities => "sidecar_authorities",
            Self::Secret => "secret",
            Self::SecretAuthorities => "secret_authorities",
        }
    }
}

/// A certificate in use, or a list of authorities.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct CertificateId {
    role: CertificateRole,
    /// Present for the roles of Secrets.
    secret: Option<SecretName>,
}

impl fmt::Display for CertificateId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.role.as_str())?;
        match &self.secret {
            Some(secret) => write!(f, " {secret}"),
            None => Ok(()),
        }
    }
}

/// Ends of the certificates in use, and new certificates that cannot be used.
#[derive(Debug, Default)]
pub struct CertificateHealth {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    ends: BTreeMap<CertificateId, CertificateEnd>,
    /// The newest files of each role that is read from files.
    files: BTreeMap<CertificateRole, Option<RejectedFiles>>,
}

#[derive(Debug)]
struct CertificateEnd {
    at: SystemTime,
    warned_at: Option<SystemTime>,
}

#[derive(Debug)]
struct RejectedFiles {
    error: String,
    log: LogThrottle,
}

/// A certificate of which a warning is due.
#[derive(Debug, PartialEq, Eq)]
struct DueWarning {
    certificate: String,
    end: SystemTime,
    has_expired: bool,
}

impl CertificateHealth {
    /// Records the end of what is in use for a role; `None` if it has none that can be read.
    pub(crate) fn set_end(&self, role: CertificateRole, end: Option<SystemTime>) {
        let id = CertificateId { role, secret: None };
        self.state.lock().set_end(id, end);
        self.changed.notify_one();
    }

    /// Records that the newest files of a role are in use.
    pub(crate) fn files_are_used(&self, role: CertificateRole) {
        self.state.lock().files.insert(role, None);
    }

    /// Records that the newest files of a role cannot be used. Logs a warning at the first call with an error and then
    /// once a day. Returns whether it did.
    pub(crate) fn files_are_rejected(&self, role: CertificateRole, error: String) -> bool {
        let mut state = self.state.lock();
        let files = state.files.entry(role).or_default();
        let known = files.take().filter(|it| it.error == error);
        let rejected = files.insert(known.unwrap_or_else(|| RejectedFiles {
            error,
            log: LogThrottle::once_a_day(),
        }));
        let is_due = rejected.log.pass().is_some();
        if is_due {
            let (error, certificate) = (&rejected.error, role.as_str());
            tracing::warn!(%error, certificate, "cannot use the certificate files, the last good certificate stays in use");
        }
        is_due
    }

    /// Follows the Secrets of the graph and warns of what expires, until `shutdown`.
    pub(crate) async fn follow(
        self: Arc<Self>,
        mut snapshots: watch::Receiver<Arc<EngineSnapshot>>,
        clock: Clock,
        shutdown: CancellationToken,
    ) {
        let mut last = SharedMap::default();
        loop {
            let secrets = SharedMap::clone(&snapshots.borrow_and_update().graph.secrets);
            if !Arc::ptr_eq(&secrets, &last) {
                self.set_secrets(&secrets);
                last = secrets;
            }
            for DueWarning {
                certificate,
                end,
                has_expired,
            } in self.due_warnings(clock())
            {
                let end =
                    Timestamp::try_from(end).map_or_else(|it| it.to_string(), |it| it.to_string());
                if has_expired {
                    tracing::error!(%certificate, %end, "a certificate has expired");
                } else {
                    tracing::warn!(%certificate, %end, "a certificate expires within 7 days");
                }
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                Ok(()) = snapshots.changed() => {}
                () = self.changed.notified() => {}
                () = tokio::time::sleep(CHECK_INTERVAL) => {}
            }
        }
    }

    fn set_secrets(&self, secrets: &BTreeMap<SecretName, Arc<ResolvedSecret>>) {
        let mut state = self.state.lock();
        let is_present =
            |id: &CertificateId| id.secret.as_ref().is_none_or(|it| secrets.contains_key(it));
        state.ends.retain(|id, _| is_present(id));
        for (name, secret) in secrets {
            let pair = secret.certificate.as_ref();
            let chain = pair.and_then(|it| chain_end(it.chain.expose().as_bytes()));
            let authorities = secret.authorities.as_ref();
            let authorities = authorities.and_then(|it| authorities_end(it.expose().as_bytes()));
            for (role, end) in [
                (CertificateRole::Secret, chain),
                (CertificateRole::SecretAuthorities, authorities),
            ] {
                let secret = Some(name.clone());
                state.set_end(CertificateId { role, secret }, end);
            }
        }
    }

    /// The certificates of which a warning is due at `now`. They count as warned.
    fn due_warnings(&self, now: SystemTime) -> Vec<DueWarning> {
        let mut state = self.state.lock();
        let due = state.ends.iter_mut().filter_map(|(id, end)| {
            let left = end.at.duration_since(now).unwrap_or_default();
            let since = |at: SystemTime| now.duration_since(at).unwrap_or(WARNING_INTERVAL);
            let was_warned = end.warned_at.is_some_and(|it| since(it) < WARNING_INTERVAL);
            if left > WARNING_TIME || was_warned {
                return None;
            }
            end.warned_at = Some(now);
            Some(DueWarning {
                certificate: id.to_string(),
                end: end.at,
                has_expired: left.is_zero(),
            })
        });
        due.collect()
    }
}

impl State {
    fn set_end(&mut self, id: CertificateId, end: Option<SystemTime>) {
        match end {
            None => drop(self.ends.remove(&id)),
            Some(at) if self.ends.get(&id).is_some_and(|it| it.at == at) => {}
            Some(at) => {
                let end = CertificateEnd {
                    at,
                    warned_at: None,
                };
                self.ends.insert(id, end);
            }
        }
    }
}

/// The metrics of a [`CertificateHealth`].
#[derive(Debug)]
pub(crate) struct CertificateCollector(pub(crate) Arc<CertificateHealth>);

impl Collector for CertificateCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let state = self.0.state.lock();
        let mut family = encoder.encode_descriptor(
            "certificate_expiration_timestamp",
            "Time at which a certificate in use expires, in seconds since 1970",
            Some(&Unit::Seconds),
            MetricType::Gauge,
        )?;
        for (CertificateId { role, secret }, end) in &state.ends {
            let mut labels = vec![("certificate", role.as_str())];
            if let Some(secret) = secret {
                labels.push(("namespace", &*secret.namespace));
                labels.push(("name", &*secret.name));
            }
            let since = end
                .at
                .duration_since(SystemTime::UNIX_EPOCH)
                .unwrap_or_default();
            let value = ConstGauge::new(i64::try_from(since.as_secs()).unwrap_or(i64::MAX));
            value.encode(family.encode_family(&labels)?)?;
        }
        let mut family = encoder.encode_descriptor(
            "certificate_rejected",
            "1 while the newest files of a certificate cannot be used, 0 while they are in use",
            None,
            MetricType::Gauge,
        )?;
        for (role, rejected) in &state.files {
            let value = ConstGauge::new(i64::from(rejected.is_some()));
            value.encode(family.encode_family(&[("certificate", role.as_str())])?)?;
        }
        Ok(())
    }
}

/// The time from which on a chain is not valid: the earliest end of its certificates.
pub(crate) fn chain_end(pem: &[u8]) -> Option<SystemTime> {
    ends(pem).min()
}

/// The time from which on no authority of a list is valid: their latest end.
pub(crate) fn authorities_end(pem: &[u8]) -> Option<SystemTime> {
    ends(pem).max()
}

fn ends(pem: &[u8]) -> impl Iterator<Item = SystemTime> {
    CertificateDer::pem_slice_iter(pem).filter_map(|der| {
        let der = der.ok()?;
        let (_, certificate) = x509_parser::parse_x509_certificate(&der).ok()?;
        let seconds = certificate
            .validity()
            .not_after
            .timestamp()
            .try_into()
            .ok()?;
        SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
    })
}

#[cfg(test)]
mod tests;
