//! The API server of a Kubernetes cluster that runs pods: access for the other components, and to the kubelet.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
};

use anyhow::Result;
use serde_json::json;

use super::{ApiServer, pki::Pki};

impl ApiServer {
    /// The additional flags: pods reach the API through the Service `kubernetes`, and the API server calls the kubelet.
    pub(super) fn flags_for_pods(&self, node: Ipv4Addr) -> Result<Vec<String>> {
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

    pub fn pki(&self) -> &Pki {
        &self.pki
    }

    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// Creates a user with a client certificate and returns its kubeconfig, for the host of the API server.
    pub fn certificate_kubeconfig(&self, name: &str, user: &str, group: &str) -> Result<PathBuf> {
        self.pki.client(name, user, group)?;
        let user = json!({
            "client-certificate": self.pki.file(&format!("{name}.crt")),
            "client-key": self.pki.file(&format!("{name}.key")),
        });
        self.write_kubeconfig(name, &user)
    }
}
