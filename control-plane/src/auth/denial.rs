//! Reasons why streams are rejected, with the gRPC status and the words in logs and metrics for each.

use evermesh_ingest::identity::IdentityMismatch;
use tonic::Status;

use super::{metrics::AuthenticationOutcome, waiting::WAITING_LIMIT};

/// Reason why a stream is rejected, or ended later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StreamDenial {
    NoCredentials,
    BadCredentials,
    /// The workload is authenticated, but is not a pod of the virtual node or gateway.
    IdentityMismatch(IdentityMismatch),
    /// The certificate names other proxies only.
    OtherProxy,
    /// The credentials cannot be verified: the API server or the token file is not available.
    Unchecked,
    /// Too many token reviews are pending.
    Busy,
    /// Too many streams of the workload wait for its pod, or for the virtual node or gateway.
    Waiting,
}

impl StreamDenial {
    /// The gRPC status for the caller.
    pub(super) fn status(self) -> Status {
        match self {
            Self::NoCredentials => Status::unauthenticated(
                "unauthenticated: send a bearer token or a client certificate",
            ),
            Self::BadCredentials => {
                Status::unauthenticated("unauthenticated: the token is not valid for this server")
            }
            Self::IdentityMismatch(_) | Self::OtherProxy => Status::permission_denied(
                "the credentials are not valid for the proxy that node.id names",
            ),
            Self::Unchecked | Self::Busy => {
                Status::unavailable("the credentials cannot be verified now; try again later")
            }
            Self::Waiting => Status::resource_exhausted(format!(
                "{WAITING_LIMIT} streams of the workload already wait for its pod, or for the proxy that node.id names: keep one stream open"
            )),
        }
    }

    /// The reason in log lines.
    pub(super) const fn reason(self) -> &'static str {
        match self {
            Self::IdentityMismatch(IdentityMismatch::PodNotFound) => "pod_not_found",
            Self::IdentityMismatch(IdentityMismatch::ProxyNotFound) => "proxy_not_found",
            Self::IdentityMismatch(IdentityMismatch::NotSelected) => "not_selected",
            Self::NoCredentials
            | Self::BadCredentials
            | Self::OtherProxy
            | Self::Unchecked
            | Self::Busy => self.outcome().as_str(),
            Self::Waiting => "waiting",
        }
    }

    pub(super) const fn outcome(self) -> AuthenticationOutcome {
        match self {
            Self::NoCredentials => AuthenticationOutcome::NoCredentials,
            Self::BadCredentials => AuthenticationOutcome::BadCredentials,
            Self::IdentityMismatch(_) | Self::OtherProxy => AuthenticationOutcome::WrongProxy,
            Self::Unchecked => AuthenticationOutcome::Unchecked,
            Self::Busy | Self::Waiting => AuthenticationOutcome::Busy,
        }
    }
}
