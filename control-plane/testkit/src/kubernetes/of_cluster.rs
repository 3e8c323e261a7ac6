//! The API server of a whole cluster, whose other parts ask it and which asks the kubelet.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
};

use anyhow::Result;
use serde_json::json;

use super::{ApiServer, pki::Pki};

impl ApiServer {
    /// What differs where there are pods: they reach the API by its Service, and it reaches their kubelet.
    pub(super) fn cluster_flags(&self, node: Ipv4Addr) -> Result<Vec<String>> {
        self.pki
            .client("kubelet-client", "kube-apiserver", "system:masters")?;
        let file = |name: &str| self.pki.file(name).display().to_string();
        Ok(vec![
            "--bind-address=0.0.0.0".to_owned(),
            format!("--advertise-address={node}"),
            "--endpoint-reconciler-type=lease".to_owned(),
            format!(
                "--kubelet-client-certificate={}",
                file("kubelet-client.crt")
            ),
            format!("--kubelet-client-key={}", file("kubelet-client.key")),
            format!("--kubelet-certificate-authority={}", file("ca.crt")),
            "--kubelet-preferred-address-types=InternalIP".to_owned(),
        ])
    }

    /// The certificates of this cluster.
    pub fn pki(&self) -> &Pki {
        &self.pki
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// The kubeconfig of a user with a certificate, for what runs where the API server does.
    pub fn certificate_kubeconfig(&self, name: &str, user: &str, group: &str) -> Result<PathBuf> {
        self.pki.client(name, user, group)?;
        let user = json!({
            "client-certificate": self.pki.file(&format!("{name}.crt")),
            "client-key": self.pki.file(&format!("{name}.key")),
        });
        self.write_kubeconfig(name, &user)
    }
}
