//! Counts authenticated and rejected xDS streams by outcome.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};

/// Outcome of the authentication of a stream; the label `outcome` of `xds_authentications`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AuthenticationOutcome {
    /// Accepted with a token.
    Token,
    /// Accepted with a client certificate.
    Certificate,
    /// Accepted without credentials (`kubernetes-permissive`).
    Anonymous,
    /// Rejected: no token and no client certificate.
    NoCredentials,
    /// Rejected: the credentials are not valid.
    BadCredentials,
    /// Rejected: the credentials belong to another proxy.
    WrongProxy,
    /// Rejected: the credentials could not be verified.
    Unchecked,
    /// Rejected: too many token reviews were pending.
    Busy,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    outcome: &'static str,
}

/// The metric family `xds_authentications`. Clones share their counters.
#[derive(Debug, Clone, Default)]
pub struct AuthenticationMetrics(Family<Labels, Counter>);

impl AuthenticationMetrics {
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "xds_authentications",
            "Authenticated and rejected xDS streams, by outcome",
            self.0.clone(),
        );
    }

    pub(super) fn count(&self, outcome: AuthenticationOutcome) {
        let outcome = outcome.as_str();
        self.0.get_or_create(&Labels { outcome }).inc();
    }
}

impl AuthenticationOutcome {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::Certificate => "certificate",
            Self::Anonymous => "anonymous",
            Self::NoCredentials => "no_credentials",
            Self::BadCredentials => "bad_credentials",
            Self::WrongProxy => "wrong_proxy",
            Self::Unchecked => "unchecked",
            Self::Busy => "busy",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_are_these_label_values() {
        use AuthenticationOutcome::{
            Anonymous, BadCredentials, Busy, Certificate, NoCredentials, Token, Unchecked,
            WrongProxy,
        };

        for (outcome, label) in [
            (Token, "token"),
            (Certificate, "certificate"),
            (Anonymous, "anonymous"),
            (NoCredentials, "no_credentials"),
            (BadCredentials, "bad_credentials"),
            (WrongProxy, "wrong_proxy"),
            (Unchecked, "unchecked"),
            (Busy, "busy"),
        ] {
            assert_eq!(outcome.as_str(), label);
        }
    }
}
