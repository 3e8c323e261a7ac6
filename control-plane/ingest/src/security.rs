//! TLS settings, which are not implemented yet. They fail closed: a listener or backend that requires TLS is left out
//! and never served in plaintext.

use evermesh_crds::v1beta2;
use evermesh_model::{Reason, Severity, problem::FieldPath};

use crate::stage::Problems;

/// Returns whether a listener with this TLS mode is served: only without TLS.
pub(crate) fn listener_is_served(
    mode: Option<v1beta2::TlsMode>,
    field: &FieldPath,
    problems: &mut Problems<'_>,
) -> bool {
    let mode = match mode {
        None | Some(v1beta2::TlsMode::Disabled) => return true,
        Some(v1beta2::TlsMode::Permissive) => "PERMISSIVE",
        Some(v1beta2::TlsMode::Strict) => "STRICT",
    };
    problems.add(
        field.field("tls"),
        Reason::UnsupportedSecurity,
        format!(
            "TLS termination is not supported yet, so the listener is not served; to serve it in plaintext, remove tls or change its mode from {mode} to DISABLED"
        ),
    );
    false
}

/// Returns whether backends with this client policy are served. `field` is the parent of the policy.
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
        "TLS to backends is not supported yet, so backends that require it are not served; to call them in plaintext, set enforce to false"
    } else {
        "TLS to backends is not supported yet; backends are called in plaintext, because enforce is false"
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
