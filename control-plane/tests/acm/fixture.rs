//! A control plane with a folder, in which a node `color` has a listener with an ACM certificate, and a node `front` calls
//! it. Both nodes have local ports, so their Envoys run on this machine without interception.

use std::{fs, path::Path};

use evermesh_testkit::{
    app,
    authority::TestCertificate,
    control_plane::{ControlPlane, bootstrap_with},
    envoy::{Envoy, EnvoyOptions, EnvoyVersion},
    port::ReservedPort,
    tools,
};
use tempfile::TempDir;
use tokio::net::TcpListener;

use crate::authority::Authority;

const MANIFESTS: &str = include_str!("mesh.yaml");

pub(crate) struct Fixture {
    pub(crate) control_plane: ControlPlane,
    /// The listener of `color` with TLS.
    pub(crate) listener: ReservedPort,
    /// The listener of `color` without TLS.
    pub(crate) open: ReservedPort,
    /// The local port on which `front` calls `color`.
    pub(crate) caller: ReservedPort,
    /// The manifests.
    config: TempDir,
    /// The certificate of the xDS server and the token of proxies.
    files: TempDir,
}

impl Fixture {
    /// Serves xDS over TLS to proxies with a token.
    pub(crate) async fn with_tls(authority: &Authority, certificate: &TestCertificate) -> Self {
        let server = authority.sign();
        let files = tools::scratch("xds").unwrap();
        let path = |name: &str| files.path().join(name).display().to_string();
        for (name, text) in [
            ("ca.crt", &authority.pem()),
            ("tls.crt", &server.chain),
            ("tls.key", &server.key),
            ("token", &"token".to_owned()),
        ] {
            fs::write(path(name), text).unwrap();
        }
        let arguments = [
            "--log=trace".to_owned(),
            format!("--xds-tls-cert={}", path("tls.crt")),
            format!("--xds-tls-key={}", path("tls.key")),
            "--xds-authentication=token".to_owned(),
            format!("--xds-token-file={}", path("token")),
        ];
        Self::start(files, authority, certificate, &arguments).await
    }

    /// Serves xDS in plaintext and without authentication.
    pub(crate) async fn plaintext(authority: &Authority, certificate: &TestCertificate) -> Self {
        let files = tools::scratch("xds").unwrap();
        Self::start(files, authority, certificate, &[]).await
    }

    async fn start(
        files: TempDir,
        authority: &Authority,
        certificate: &TestCertificate,
        arguments: &[String],
    ) -> Self {
        let app = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let app_port = app.local_addr().unwrap().port();
        tokio::spawn(async move { app::serve_http_on(app, "color").await.unwrap() });
        let [listener, open, caller] = [(); 3].map(|()| ReservedPort::reserve().unwrap());
        let config = tools::scratch("config").unwrap();
        let manifests = [
            ("LISTENER", listener.address().port()),
            ("OPEN", open.address().port()),
            ("CALLER", caller.address().port()),
            ("APPLICATION", app_port),
        ]
        .into_iter()
        .fold(MANIFESTS.to_owned(), |text, (word, port)| {
            text.replace(word, &port.to_string())
        });
        fs::write(config.path().join("mesh.yaml"), manifests).unwrap();
        write_secret(config.path(), certificate, &authority.pem());
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let mut control_plane = ControlPlane::start(config.path(), &arguments).unwrap();
        control_plane.ready().await.unwrap();
        Self {
            control_plane,
            listener,
            open,
            caller,
            config,
            files,
        }
    }

    pub(crate) fn folder(&self) -> &Path {
        self.config.path()
    }

    pub(crate) fn write_secret(&self, certificate: &TestCertificate, authorities: &str) {
        write_secret(self.folder(), certificate, authorities);
    }

    /// Starts the Envoy of a node, which trusts the xDS server and sends the token, and waits until it is ready.
    pub(crate) async fn start_envoy(&self, version: EnvoyVersion, node: &str) -> Envoy {
        let path = |name: &str| self.files.path().join(name).display().to_string();
        let bootstrap = bootstrap_with(
            &format!("mesh/shop/virtualNode/{node}_shop"),
            self.control_plane.xds(),
            &["--xds-ca", &path("ca.crt"), "--xds-token", &path("token")],
        );
        let mut envoy = Envoy::start(&EnvoyOptions::new(version, bootstrap.unwrap())).unwrap();
        envoy.ready().await.unwrap();
        envoy
    }

    /// A page of the admin interface.
    pub(crate) async fn page(&self, path: &str) -> String {
        self.control_plane.admin().get(path).await.unwrap()
    }
}

/// Writes the Secret as `kubectl get secret --output yaml` would show it.
fn write_secret(folder: &Path, certificate: &TestCertificate, authorities: &str) {
    let secret = serde_json::json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "color-tls", "namespace": "shop"},
        "type": "kubernetes.io/tls",
        "stringData": {
            "tls.crt": certificate.chain,
            "tls.key": certificate.key,
            "ca.crt": authorities,
        },
    });
    // A rename is atomic; the control plane never reads half of the file.
    let draft = folder.join("secret.draft");
    fs::write(&draft, secret.to_string()).unwrap();
    fs::rename(draft, folder.join("secret.json")).unwrap();
}
