//! Deployments of the canary example: applications, and a placeholder for the Envoy of the gateway.

use std::collections::BTreeMap;

use anyhow::Result;
use serde_json::{Value, json};

use crate::images;

const APP_PORT: u16 = 8080;

/// A Deployment in the namespace `shop`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CanaryDeployment {
    pub(crate) name: &'static str,
    pub(crate) labels: &'static [(&'static str, &'static str)],
    pub(crate) replicas: u32,
    /// False for a gateway, whose only container is Envoy.
    pub(crate) has_app: bool,
}

impl CanaryDeployment {
    /// The object, without any field of Evermesh: labels select the virtual node or gateway.
    ///
    /// A rollout replaces all pods at once and ends an old pod only when a new one is ready.
    pub(crate) fn object(&self) -> Result<Value> {
        let labels: BTreeMap<_, _> = self.labels.iter().copied().collect();
        let container = if self.has_app { app()? } else { gateway() };
        Ok(json!({
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": self.name, "namespace": "shop"},
            "spec": {
                "replicas": self.replicas,
                "strategy": {"rollingUpdate": {"maxUnavailable": 0, "maxSurge": "100%"}},
                "selector": {"matchLabels": labels},
                "template": {
                    "metadata": {"labels": labels},
                    "spec": {"containers": [container]},
                },
            },
        }))
    }
}

/// A container that answers with its pod's name.
///
/// The container accepts requests for two seconds after the pod's end began, until callers know that the pod leaves.
fn app() -> Result<Value> {
    Ok(json!({
        "name": "app",
        "image": images::reference("evermesh-test-app")?,
        "args": ["http", "--name", "$(POD)", "--listen", format!("0.0.0.0:{APP_PORT}")],
        "env": [{"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
        "readinessProbe": {"httpGet": {"path": "/", "port": APP_PORT}, "periodSeconds": 1},
        "lifecycle": {"preStop": {"sleep": {"seconds": 2}}},
    }))
}

/// A container in which the injector sets image, arguments and probe, but not the pull policy.
fn gateway() -> Value {
    json!({"name": "envoy", "image": "to-be-replaced", "imagePullPolicy": "IfNotPresent"})
}
