//! Deployments of the canary, as their teams write them: an application, or a container for the gateway's Envoy.

use std::collections::BTreeMap;

use anyhow::Result;
use serde_json::{Value, json};

use crate::images;

/// The application's port.
const APP_PORT: u16 = 8080;

/// One Deployment in the namespace `shop`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CanaryDeployment {
    pub(crate) name: &'static str,
    pub(crate) labels: &'static [(&'static str, &'static str)],
    pub(crate) replicas: u32,
    /// Whether there is an application; a gateway has none.
    pub(crate) has_app: bool,
}

impl CanaryDeployment {
    /// The object. Nothing in it is of Evermesh: labels say which node or gateway it is. All pods are replaced at a
    /// time, each after another is ready.
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

/// It answers with its pod's name. It takes requests for two seconds after it was told to end: callers hear of it
/// while it still does.
fn app() -> Result<Value> {
    Ok(json!({
        "name": "app",
        "image": images::tag("evermesh-test-app")?,
        "args": ["http", "--name", "$(POD)", "--listen", format!("0.0.0.0:{APP_PORT}")],
        "env": [{"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
        "readinessProbe": {"httpGet": {"path": "/", "port": APP_PORT}, "periodSeconds": 1},
        "lifecycle": {"preStop": {"sleep": {"seconds": 2}}},
    }))
}

/// Image, arguments and probe are the injector's to say; when to pull the image is not.
fn gateway() -> Value {
    json!({"name": "envoy", "image": "to-be-replaced", "imagePullPolicy": "IfNotPresent"})
}
