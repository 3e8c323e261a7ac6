//! What can be asked for of the xDS listener: who may connect, and how.

use std::path::PathBuf;

use clap::{Args, ValueEnum, builder::NonEmptyStringValueParser};

/// Who may connect to xDS, and how.
#[derive(Debug, Args)]
pub struct XdsArgs {
    /// How a proxy shows who it is. Needed unless --xds-address is loopback, where it is `none`
    #[arg(long, value_name = "HOW", env = "EVERMESH_XDS_AUTHENTICATION")]
    pub xds_authentication: Option<XdsAuthentication>,

    /// The tokens that `token` takes, one a line; read anew for each stream
    #[arg(
        long,
        value_name = "FILE",
        required_if_eq("xds_authentication", "token"),
        env = "EVERMESH_XDS_TOKEN_FILE"
    )]
    pub xds_token_file: Option<PathBuf>,

    /// The audience that a service account's token must be for
    #[arg(
        long,
        value_name = "AUDIENCE",
        value_parser = NonEmptyStringValueParser::new(),
        default_value = "evermesh",
        conflicts_with = "config",
        env = "EVERMESH_XDS_TOKEN_AUDIENCE"
    )]
    pub xds_token_audience: String,

    /// Serve xDS over TLS with this certificate (PEM, the whole chain), taken anew when it changes
    #[arg(
        long,
        value_name = "FILE",
        requires = "xds_tls_key",
        env = "EVERMESH_XDS_TLS_CERT"
    )]
    pub xds_tls_cert: Option<PathBuf>,

    /// The key of --xds-tls-cert (PEM)
    #[arg(
        long,
        value_name = "FILE",
        requires = "xds_tls_cert",
        env = "EVERMESH_XDS_TLS_KEY"
    )]
    pub xds_tls_key: Option<PathBuf>,

    /// Only clients with a certificate of these authorities (PEM) may connect; taken anew when it changes
    #[arg(
        long,
        value_name = "FILE",
        requires = "xds_tls_cert",
        required_if_eq("xds_authentication", "certificate"),
        env = "EVERMESH_XDS_CLIENT_CA"
    )]
    pub xds_client_ca: Option<PathBuf>,

    /// Serve xDS on a Unix socket too, without TLS: whoever may write to the file is believed, whatever
    /// --xds-authentication says. The file must not be there, or be the socket of a process that has ended
    #[arg(long, value_name = "PATH", env = "EVERMESH_XDS_SOCKET")]
    pub xds_socket: Option<PathBuf>,

    /// Who may write to --xds-socket, as chmod has it: 600 is the user that Evermesh runs as, 660 its group too
    #[arg(long, value_name = "MODE", default_value = "600", value_parser = mode, env = "EVERMESH_XDS_SOCKET_MODE")]
    pub xds_socket_mode: u32,
}

/// How a proxy shows who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum XdsAuthentication {
    /// Not at all: whoever connects is believed
    None,
    /// By a token of --xds-token-file, which all proxies share; it may be any of them
    Token,
    /// By a service account's token that is bound to its pod, which the node or gateway must select
    Kubernetes,
    /// The same if it sends a token; without one it is believed, as while proxies of App Mesh are replaced
    KubernetesPermissive,
    /// By a certificate of --xds-client-ca that names the proxy or its service account
    Certificate,
}

/// Reads permissions in octal.
fn mode(text: &str) -> Result<u32, String> {
    let mode = u32::from_str_radix(text, 8).ok();
    mode.filter(|mode| *mode <= 0o777)
        .ok_or_else(|| "permissions in octal are needed, such as 600 or 660".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_permissions() {
        assert_eq!(mode("600"), Ok(0o600));
        assert_eq!(mode("0660"), Ok(0o660));
        for bad in ["", "rw", "8", "1777", "-1"] {
            assert!(mode(bad).is_err(), "{bad}");
        }
    }
}
