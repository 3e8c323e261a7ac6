//! Reads the CA certificates of the xDS server that sidecars get in their bootstrap (`--sidecar-xds-ca`).

use std::path::Path;

use anyhow::Context;

/// Limit in bytes of the CA certificates as a JSON string. The bootstrap is one argument of Envoy, Linux limits an
/// argument to 128 KiB (`MAX_ARG_STRLEN`), and the rest of the bootstrap is far below 32 KiB.
const AUTHORITY_LIMIT: usize = 96 * 1024;

/// Reads the certificates in a file.
pub(super) fn authority(file: &Path) -> anyhow::Result<String> {
    let read = || checked_authority(&std::fs::read(file)?);
    read().with_context(|| format!("--sidecar-xds-ca {}", file.display()))
}

/// The contents of a file with CA certificates. Rejects a private key, since many users can read pods.
pub(crate) fn checked_authority(contents: &[u8]) -> anyhow::Result<String> {
    let pem = std::str::from_utf8(contents)?;
    let is_sound = pem.contains("BEGIN CERTIFICATE") && !pem.contains("PRIVATE KEY");
    anyhow::ensure!(
        is_sound,
        "the file must hold PEM certificates and no private key"
    );
    let length = serde_json::to_string(pem)?.len();
    anyhow::ensure!(
        length <= AUTHORITY_LIMIT,
        "the certificates take {length} bytes in the bootstrap of every pod, and the limit is {AUTHORITY_LIMIT}; keep only the CA certificates of the xDS server"
    );
    Ok(pem.to_owned())
}

#[cfg(test)]
mod tests {
    use evermesh_injector::bootstrap::{
        Authority, BootstrapOptions, ControlPlaneTls, StatsD, Tracing, bootstrap, render_line,
    };
    use evermesh_model::{ProxyKind, ResourceName};

    use super::*;

    #[test]
    fn file_with_a_private_key_is_rejected() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ca.crt");
        authority(&file).unwrap_err();
        let certificate = "-----BEGIN CERTIFICATE-----\n";
        std::fs::write(&file, certificate).unwrap();
        assert_eq!(authority(&file).unwrap(), certificate);
        for bad in [
            "",
            "-----BEGIN CERTIFICATE-----\n-----BEGIN PRIVATE KEY-----\n",
        ] {
            std::fs::write(&file, bad).unwrap();
            let error = format!("{:#}", authority(&file).unwrap_err());
            assert!(
                error.contains("ca.crt: the file must hold PEM certificates"),
                "{error}"
            );
        }
    }

    #[test]
    fn bootstrap_with_the_longest_authority_fits_into_an_argument() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ca.crt");
        let pem = |length| format!("-----BEGIN CERTIFICATE-----{}", "A".repeat(length - 29));
        std::fs::write(&file, pem(AUTHORITY_LIMIT + 1)).unwrap();
        let error = format!("{:#}", authority(&file).unwrap_err());
        assert!(
            error.contains("98305 bytes in the bootstrap of every pod"),
            "{error}"
        );
        std::fs::write(&file, pem(AUTHORITY_LIMIT)).unwrap();

        let name = "n".repeat(255);
        let node = ResourceName::new(name.clone(), ProxyKind::VirtualGateway, name.clone());
        let text = || Some(name.clone());
        let longest = BootstrapOptions {
            id: Some(node.to_string()),
            metadata: ["pod", "image"]
                .map(|key| (key.to_owned(), name.clone()))
                .into(),
            zone: text(),
            tls: Some(ControlPlaneTls {
                authority: Authority::Inline(authority(&file).unwrap()),
                identity: None,
            }),
            token: text(),
            statsd: Some(StatsD::Socket(name.clone())),
            tracing: Some(Tracing::XRay {
                port: 2000,
                sampling_rate: 0.05,
            }),
            sds_socket: text(),
            ..BootstrapOptions::new(node, format!("{name}:18000").parse().unwrap())
        };
        let line = render_line(&bootstrap(&longest)).unwrap();
        assert!(line.len() < 128 * 1024 - 16 * 1024, "{}", line.len());
    }
}
