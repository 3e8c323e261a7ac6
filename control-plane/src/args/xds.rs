//! Flags of the xDS listener: TLS, the Unix socket and the authentication of proxies.

use std::{path::PathBuf, time::Duration};

use clap::{Args, ValueEnum, builder::NonEmptyStringValueParser};

use super::{NamespacedName, duration, heading};

#[derive(Debug, Args)]
#[command(next_help_heading = heading::XDS)]
pub struct XdsArgs {
    /// Method by which proxies authenticate; required unless --xds-address is loopback
    ///
    /// On a loopback address the default is `none`.
    #[arg(
        long,
        value_name = "METHOD",
        env = "EVERMESH_XDS_AUTHENTICATION",
        help_heading = heading::IDENTITY
    )]
    pub xds_authentication: Option<XdsAuthentication>,

    /// File with the tokens for --xds-authentication=token, one token per line
    ///
    /// Evermesh reads the file for each new stream, so a change takes effect at once.
    #[arg(
        long,
        value_name = "FILE",
        required_if_eq("xds_authentication", "token"),
        env = "EVERMESH_XDS_TOKEN_FILE",
        help_heading = heading::IDENTITY,
        hide_short_help = true
    )]
    pub xds_token_file: Option<PathBuf>,

    /// Audience that service account tokens of proxies must have
    ///
    /// Used with --xds-authentication=kubernetes and kubernetes-permissive.
    #[arg(
        long,
        value_name = "AUDIENCE",
        value_parser = NonEmptyStringValueParser::new(),
        default_value = "evermesh",
        conflicts_with = "config",
        env = "EVERMESH_XDS_TOKEN_AUDIENCE",
        help_heading = heading::IDENTITY,
        hide_short_help = true
    )]
    pub xds_token_audience: String,

    /// Certificate chain (PEM) of the xDS server; turns TLS on
    ///
    /// Evermesh reloads the file when it changes. Requires --xds-tls-key.
    #[arg(
        long,
        value_name = "FILE",
        requires = "xds_tls_key",
        env = "EVERMESH_XDS_TLS_CERT"
    )]
    pub xds_tls_cert: Option<PathBuf>,

    /// Private key (PEM) of --xds-tls-cert
    ///
    /// Evermesh reloads the file when it changes.
    #[arg(
        long,
        value_name = "FILE",
        requires = "xds_tls_cert",
        env = "EVERMESH_XDS_TLS_KEY"
    )]
    pub xds_tls_key: Option<PathBuf>,

    /// Kubernetes Service for which Evermesh creates the certificate of the xDS server; turns TLS on
    ///
    /// The certificate is the one that Evermesh creates for its webhooks, so this flag requires --webhook-address and
    /// excludes --webhook-certificates. Sidecars trust its authority, without --sidecar-xds-ca.
    #[arg(
        long,
        value_name = "NAMESPACE/NAME",
        requires = "webhook_address",
        conflicts_with_all = ["config", "xds_tls_cert", "webhook_certificates", "sidecar_xds_ca"],
        env = "EVERMESH_XDS_TLS_SERVICE",
        hide_short_help = true
    )]
    pub xds_tls_service: Option<NamespacedName>,

    /// CA certificates (PEM) for client certificates; other clients cannot connect
    ///
    /// Evermesh reloads the file when it changes. Requires --xds-tls-cert; required by
    /// --xds-authentication=certificate.
    #[arg(
        long,
        value_name = "FILE",
        requires = "xds_tls_cert",
        required_if_eq("xds_authentication", "certificate"),
        env = "EVERMESH_XDS_CLIENT_CA",
        help_heading = heading::IDENTITY,
        hide_short_help = true
    )]
    pub xds_client_ca: Option<PathBuf>,

    /// Mean age at which the stream of a proxy ends, such as 30m; 0 for never
    ///
    /// Each stream ends up to a tenth earlier or later. The proxy reconnects at once, is authenticated again, may reach
    /// another replica, and is sent only what has changed.
    #[arg(
        long,
        value_name = "DURATION",
        default_value = "30m",
        value_parser = age,
        env = "EVERMESH_MAX_STREAM_AGE",
        hide_short_help = true
    )]
    pub max_stream_age: Duration,

    /// Path of a Unix socket on which xDS is served in addition to --xds-address
    ///
    /// The socket has no TLS, and every process that can write to the file is trusted, whatever --xds-authentication
    /// says. The file must not exist, unless it is the socket of a process that has ended.
    #[arg(
        long,
        value_name = "PATH",
        env = "EVERMESH_XDS_SOCKET",
        hide_short_help = true
    )]
    pub xds_socket: Option<PathBuf>,

    /// Permissions of --xds-socket in octal, as for chmod
    ///
    /// 600 admits the user that Evermesh runs as, 660 the group of Evermesh too.
    #[arg(
        long,
        value_name = "MODE",
        default_value = "600",
        value_parser = mode,
        env = "EVERMESH_XDS_SOCKET_MODE",
        hide_short_help = true
    )]
    pub xds_socket_mode: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum XdsAuthentication {
    /// No authentication: every client may use any node ID
    None,
    /// Bearer token from --xds-token-file, shared by all proxies, for any node ID
    Token,
    /// Service account token bound to a pod that the virtual node or gateway selects
    Kubernetes,
    /// As `kubernetes`, but proxies without a token are trusted, for a migration from App Mesh
    KubernetesPermissive,
    /// Client certificate, signed by --xds-client-ca, that names the proxy or its service account
    Certificate,
}

impl XdsArgs {
    /// The flag by which proxies without credentials are served, if one says so.
    pub(crate) fn open_access(&self) -> Option<&'static str> {
        match self.xds_authentication? {
            XdsAuthentication::None => Some("--xds-authentication=none"),
            XdsAuthentication::KubernetesPermissive => {
                Some("--xds-authentication=kubernetes-permissive")
            }
            XdsAuthentication::Token
            | XdsAuthentication::Kubernetes
            | XdsAuthentication::Certificate => None,
        }
    }

    /// The mean age at which a stream ends; `None` for never.
    pub fn max_stream_age(&self) -> Option<Duration> {
        Some(self.max_stream_age).filter(|age| !age.is_zero())
    }
}

/// Parses an age, or `0` for none.
fn age(text: &str) -> Result<Duration, String> {
    match text {
        "0" => Ok(Duration::ZERO),
        _ => duration(text).map_err(|error| format!("{error}, or 0 for never")),
    }
}

/// Parses file permissions in octal.
fn mode(text: &str) -> Result<u32, String> {
    let mode = u32::from_str_radix(text, 8).ok();
    mode.filter(|mode| *mode <= 0o777)
        .ok_or_else(|| "use permissions in octal, such as 600 or 660".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stream_age_is_a_duration_or_zero() {
        assert_eq!(age("0"), Ok(Duration::ZERO));
        assert_eq!(age("30m"), Ok(Duration::from_mins(30)));
        for bad in ["", "0s", "30", "never"] {
            assert!(age(bad).unwrap_err().ends_with("or 0 for never"), "{bad}");
        }
    }

    #[test]
    fn socket_mode_is_parsed_as_octal_permissions() {
        assert_eq!(mode("600"), Ok(0o600));
        assert_eq!(mode("0660"), Ok(0o660));
        for bad in ["", "rw", "8", "1777", "-1"] {
            assert!(mode(bad).is_err(), "{bad}");
        }
    }
}
