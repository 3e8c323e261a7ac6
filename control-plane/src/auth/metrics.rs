//! How many streams were let in and refused, and why.
//!
//! Must not hold a registry: whoever has one registers the family in it.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};

/// What came of a stream's beginning.
#[derive(Debug, Clone, Copy)]
pub(super) enum AuthenticationOutcome {
    /// Let in by its token.
    Token,
    /// Let in by its certificate.
    Certificate,
    /// Let in though it shows nothing.
    Anonymous,
    /// Refused: it shows nothing.
    NoCredentials,
    /// Refused: what it shows is not accepted.
    BadCredentials,
    /// Refused: it may not be the proxy that it says it is.
    WrongProxy,
    /// Refused: it cannot be checked now.
    Unchecked,
    /// Refused: too many wait to be checked.
    Busy,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    outcome: &'static str,
}

/// The family of authentication. Clones share their figures.
#[derive(Debug, Clone, Default)]
pub struct AuthenticationMetrics(Family<Labels, Counter>);

impl AuthenticationMetrics {
    /// Shows the family on the pages of this registry.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "xds_authentications",
            "Streams that had to show who they are, by what came of it",
            self.0.clone(),
        );
    }

    pub(super) fn count(&self, outcome: AuthenticationOutcome) {
        let outcome = match outcome {
            AuthenticationOutcome::Token => "token",
            AuthenticationOutcome::Certificate => "certificate",
            AuthenticationOutcome::Anonymous => "anonymous",
            AuthenticationOutcome::NoCredentials => "no_credentials",
            AuthenticationOutcome::BadCredentials => "bad_credentials",
            AuthenticationOutcome::WrongProxy => "wrong_proxy",
            AuthenticationOutcome::Unchecked => "unchecked",
            AuthenticationOutcome::Busy => "busy",
        };
        self.0.get_or_create(&Labels { outcome }).inc();
    }
}
