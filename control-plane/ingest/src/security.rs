//! TLS that is asked for and not served yet. It fails closed: what it protects is left out.
//!
//! Must not let a protected listener or backend through in plaintext.

use evermesh_crds::v1beta2;
use evermesh_model::{Reason, Severity, problem::FieldPath};

use crate::stage::Problems;

/// Whether a listener is served under this TLS mode: only where it is switched off.
pub(crate) fn listener_is_served(
    mode: Option<v1beta2::TlsMode>,
    field: &FieldPath,
    problems: &mut Problems<'_>,
) -> bool {
    let word = match mode {
        None | Some(v1beta2::TlsMode::Disabled) => return true,
        Some(v1beta2::TlsMode::Permissive) => "PERMISSIVE",
        Some(v1beta2::TlsMode::Strict) => "STRICT",
    };
    problems.add(
        field.field("tls"),
        Reason::UnsupportedSecurity,
        format!(
            "TLS is not served yet, and the listener is not served without it; remove tls or set its mode from {word} to DISABLED to serve it in plaintext"
        ),
    );
    false
}

/// Whether backends are served under this client policy. `field` is where the policy stands.
pub(crate) fn backends_are_served(
    policy: Option<&v1beta2::ClientPolicy>,
    field: &FieldPath,
    problems: &mut Problems<'_>,
) -> bool {
    let Some(v1beta2::ClientPolicyTls {
        enforce,
        ports: _,
        certificate: _,
        validation: _,
    }) = policy.and_then(|v1beta2::ClientPolicy { tls }| tls.as_ref())
    else {
        return true;
    };
    let is_enforced = *enforce != Some(false);
    let message = if is_enforced {
        "TLS is not served yet, and what must not be called without it is not served; set enforce to false to call it in plaintext"
    } else {
        "TLS is not served yet: calls are made in plaintext, as enforce is false"
    };
    problems.add_with_severity(
        field.field("clientPolicy.tls"),
        Reason::UnsupportedSecurity,
        if is_enforced {
            Severity::Error
        } else {
            Severity::Warning
        },
        message,
    );
    !is_enforced
}
