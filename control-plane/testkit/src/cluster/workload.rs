//! Deployments of the canary: an application with an Envoy beside it, or an Envoy alone.

use anyhow::Result;
use serde_json::{Value, json};

use super::images;
use crate::{
    control_plane::bootstrap,
    envoy::Version,
    hosts::{PROXY_UID, ProxyIdentity},
    interception::Interception,
};

/// Where pods reach the control plane that the chart installs.
const XDS: &str = "evermesh-xds.appmesh-system.svc.cluster.local:18000";

/// Where Envoy answers the kubelet's probes.
const ADMIN_PORT: u16 = 9901;

/// The application's port.
const APP_PORT: u16 = 8080;

/// One Deployment in the namespace `shop`, and what its Envoy starts with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Workload {
    pub(super) name: &'static str,
    pub(super) labels: &'static [(&'static str, &'static str)],
    /// Whom the proxy is, such as `virtualNode/front_shop`.
    pub(super) resource: &'static str,
    pub(super) replicas: u32,
    /// Whether there is an application beside the Envoy; a gateway has none.
    pub(super) has_app: bool,
    /// Whether its node has a listener, so that calls to the application go through the Envoy.
    pub(super) is_called: bool,
}

impl Workload {
    /// The objects, as YAML.
    pub(super) fn objects(&self, version: Version) -> Result<String> {
        let bootstrap = bootstrap(&format!("mesh/shop/{}", self.resource), XDS, false)?;
        let interception = Interception {
            app_ports: self.is_called.then_some(APP_PORT).into_iter().collect(),
            ..Interception::default()
        };
        let config = json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": self.name, "namespace": "shop"},
            "data": {"envoy.yaml": bootstrap, "rules": interception.rules(ProxyIdentity::Uid)},
        });
        let labels: Value = self
            .labels
            .iter()
            .map(|(key, value)| ((*key).to_owned(), json!(value)))
            .collect::<serde_json::Map<_, _>>()
            .into();
        let deployment = json!({
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": self.name, "namespace": "shop"},
            "spec": {
                "replicas": self.replicas,
                "selector": {"matchLabels": labels},
                "template": {
                    "metadata": {"labels": labels},
                    "spec": self.pod(version)?,
                },
            },
        });
        Ok(format!("{config}\n---\n{deployment}"))
    }

    fn pod(&self, version: Version) -> Result<Value> {
        let config = json!({"name": "config", "mountPath": "/config"});
        let envoy = json!({
            "name": "envoy",
            "image": images::tag(&format!("envoy-{}", version.number()))?,
            "args": [
                "--config-path", "/config/envoy.yaml",
                "--config-yaml", probed(),
                "--concurrency", "1",
                "--disable-hot-restart",
            ],
            "resources": {"requests": {"cpu": "50m"}},
            "securityContext": {"runAsUser": PROXY_UID},
            "volumeMounts": [config],
        });
        let ready = json!({"httpGet": {"path": "/ready", "port": ADMIN_PORT}, "periodSeconds": 1});
        let mut pod = json!({
            "terminationGracePeriodSeconds": 5,
            "volumes": [{"name": "config", "configMap": {"name": self.name}}],
        });
        if !self.has_app {
            let mut envoy = envoy;
            envoy["readinessProbe"] = ready;
            pod["containers"] = json!([envoy]);
            return Ok(pod);
        }
        // A native sidecar: the application starts when the Envoy is ready, and ends before it.
        let mut sidecar = envoy;
        sidecar["restartPolicy"] = json!("Always");
        sidecar["startupProbe"] = ready;
        sidecar["startupProbe"]["failureThreshold"] = json!(60);
        pod["initContainers"] = json!([
            {
                "name": "interception",
                "image": images::tag("evermesh-iptables")?,
                "args": ["/config/rules"],
                "securityContext": {"runAsUser": 0, "capabilities": {"add": ["NET_ADMIN"]}},
                "volumeMounts": [config],
            },
            sidecar,
        ]);
        pod["containers"] = json!([{
            "name": "app",
            "image": images::tag("evermesh-test-app")?,
            "args": ["http", "--name", "$(POD)", "--listen", format!("0.0.0.0:{APP_PORT}")],
            "env": [{"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
            "resources": {"requests": {"cpu": "50m"}},
            "readinessProbe": {"httpGet": {"path": "/", "port": APP_PORT}, "periodSeconds": 1},
        }]);
        Ok(pod)
    }
}

/// Lets the kubelet ask Envoy, which listens on loopback otherwise.
fn probed() -> String {
    let address = json!({"address": "0.0.0.0", "port_value": ADMIN_PORT});
    json!({"admin": {"address": {"socket_address": address}}}).to_string()
}
