//! The control plane under attack: the real binary with the chart's memory limit, and a Kubernetes API server in memory.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use anyhow::{Context as _, Result};
use evermesh_testkit::{
    authority::TestAuthority,
    control_plane::{ControlPlane, ProcessLimits},
    fake_api_server::FakeApiServer,
    port::reserve_addresses,
    tools,
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio_rustls::TlsConnector;

use crate::{Form, client};

/// The chart's memory limit.
const MEMORY: u64 = 512 << 20;

const APP_MESH: &str = "/apis/appmesh.k8s.aws/v1beta2";

/// Resource name of the bystander, and of the proxy for which attackers ask.
pub(crate) const NODE: &str = "mesh/demo/virtualNode/front_demo";

/// The pod of the bystander; the API server in memory gives it this UID.
const POD: &str = "front-1";
const POD_UID: &str = "pods-front-1";

/// Number of services that the front node calls.
const SERVICES: usize = 50;

/// Addresses and sizes for an attack.
#[derive(Clone)]
pub(crate) struct Ports {
    pub(crate) xds: SocketAddr,
    pub(crate) webhooks: SocketAddr,
    pub(crate) metrics: SocketAddr,
    /// TLS of the webhooks.
    pub(crate) tls: TlsConnector,
    /// Whether xDS is served over TLS too.
    pub(crate) is_xds_encrypted: bool,
}

pub(crate) struct Target {
    pub(crate) api: FakeApiServer,
    pub(crate) ports: Ports,
    pub(crate) control_plane: ControlPlane,
    _certificates: TempDir,
}

/// The file descriptors that the process may open.
pub(crate) fn descriptors(form: Form) -> u64 {
    match form {
        Form::Short => 512,
        Form::Full => 4_096,
    }
}

impl Target {
    /// Starts a control plane that is ready. Proxies need a token, and without one they are believed what they say.
    pub(crate) async fn start(form: Form, is_xds_encrypted: bool) -> Result<Self> {
        let api = FakeApiServer::start().await?;
        fill(&api);
        let authority = TestAuthority::new()?;
        let certificates = tools::scratch("hostile")?;
        let names = [rcgen::SanType::IpAddress(Ipv4Addr::LOCALHOST.into())];
        let certificate = authority.sign(names)?;
        let path = |name: &str| certificates.path().join(name).display().to_string();
        fs::write(path("tls.crt"), &certificate.chain)?;
        fs::write(path("tls.key"), &certificate.key)?;

        let [webhooks, metrics] = reserve_addresses()?;
        let mut arguments = vec![
            "--xds-authentication=kubernetes-permissive".to_owned(),
            format!("--webhook-address={webhooks}"),
            format!("--webhook-certificates={}", certificates.path().display()),
            "--without-injection".to_owned(),
            format!("--metrics-address={metrics}"),
        ];
        if is_xds_encrypted {
            arguments.push(format!("--xds-tls-cert={}", path("tls.crt")));
            arguments.push(format!("--xds-tls-key={}", path("tls.key")));
        }
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let limits = ProcessLimits {
            data_bytes: MEMORY,
            descriptors: descriptors(form),
        };
        let mut control_plane = ControlPlane::start_limited(&api.kubeconfig(), &arguments, limits)?;
        control_plane.ready().await?;
        let ports = Ports {
            xds: control_plane.xds(),
            webhooks,
            metrics,
            tls: client::tls(authority.pem())?,
            is_xds_encrypted,
        };
        Ok(Self {
            api,
            ports,
            control_plane,
            _certificates: certificates,
        })
    }

    /// Peak of the resident memory in MiB since the process started (`VmHWM`).
    pub(crate) fn peak_mib(&self) -> Result<u64> {
        let process = self.control_plane.process_id();
        let process = process.context("the control plane does not run")?;
        let status = fs::read_to_string(format!("/proc/{process}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kilobytes = line.and_then(|line| line.trim().strip_suffix(" kB"));
        let kilobytes: u64 = kilobytes.context("the control plane has ended")?.parse()?;
        Ok(kilobytes.div_ceil(1024))
    }
}

/// Changes the cluster of the first service, which the front node calls.
pub(crate) fn change(api: &FakeApiServer, number: u64) {
    api.put(&nodes(), service_node(0, number));
}

/// The part of the changed cluster that tells the change.
pub(crate) fn changed_host(number: u64) -> String {
    format!("service-0-{number}.example.com")
}

fn nodes() -> String {
    format!("{APP_MESH}/namespaces/demo/virtualnodes")
}

fn service_node(service: usize, number: u64) -> Value {
    let host = format!("service-{service}-{number}.example.com");
    json!({
        "apiVersion": "appmesh.k8s.aws/v1beta2",
        "kind": "VirtualNode",
        "metadata": {"name": format!("service-{service}"), "namespace": "demo"},
        "spec": {
            "awsName": format!("service-{service}_demo"),
            "listeners": [{"portMapping": {"port": 8080, "protocol": "http"}}],
            "serviceDiscovery": {"dns": {"hostname": host}},
        },
    })
}

fn fill(api: &FakeApiServer) {
    api.put(
        "/api/v1/namespaces",
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "demo"}}),
    );
    api.put(
        &format!("{APP_MESH}/meshes"),
        json!({
            "apiVersion": "appmesh.k8s.aws/v1beta2",
            "kind": "Mesh",
            "metadata": {"name": "demo"},
            "spec": {"awsName": "demo", "namespaceSelector": {}},
        }),
    );
    let backend = |service: usize| json!({"virtualService": {"virtualServiceRef": {"name": format!("service-{service}")}}});
    let mut front = service_node(0, 0);
    front["metadata"]["name"] = "front".into();
    front["spec"]["awsName"] = "front_demo".into();
    front["spec"]["podSelector"] = json!({"matchLabels": {"app": "front"}});
    front["spec"]["backends"] = (0..SERVICES).map(backend).collect();
    api.put(&nodes(), front);
    for service in 0..SERVICES {
        api.put(&nodes(), service_node(service, 0));
        let name = format!("service-{service}");
        api.put(
            &format!("{APP_MESH}/namespaces/demo/virtualservices"),
            json!({
                "apiVersion": "appmesh.k8s.aws/v1beta2",
                "kind": "VirtualService",
                "metadata": {"name": name, "namespace": "demo"},
                "spec": {
                    "awsName": format!("{name}.demo"),
                    "provider": {"virtualNode": {"virtualNodeRef": {"name": name}}},
                },
            }),
        );
    }
    api.put(
        "/api/v1/namespaces/demo/pods",
        json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": POD, "namespace": "demo", "labels": {"app": "front"}},
            "spec": {"containers": [{"name": "app", "image": "app:1"}]},
        }),
    );
}

/// A new token of the bystander's pod, which the API server accepts.
pub(crate) fn token(number: u64) -> String {
    FakeApiServer::token("demo", POD, POD_UID, &number.to_string())
}

/// Time that the API server takes for a review of a token during a flood of them.
pub(crate) const REVIEW_TIME: Duration = Duration::from_millis(100);
