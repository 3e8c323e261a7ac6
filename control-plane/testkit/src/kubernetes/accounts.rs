//! Service accounts, aggregated roles and the audit log of an API server.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use http::Method;
use serde_json::{Value, json};

use super::{AUDIT_LOG, ApiServer};

/// The aggregated cluster roles, each after the roles that it includes.
const AGGREGATED: [&str; 3] = ["view", "edit", "admin"];

impl ApiServer {
    /// The kubeconfig of an existing service account, with a token that is valid for 24 hours.
    pub async fn service_account_kubeconfig(&self, namespace: &str, name: &str) -> Result<PathBuf> {
        let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token");
        let day = json!({"spec": {"expirationSeconds": 24 * 60 * 60}});
        let answer = self.request(Method::POST, &path, &day).await?;
        let token = &answer["status"]["token"];
        self.write_kubeconfig(&format!("{namespace}.{name}"), &json!({"token": token}))
    }

    /// The path of the key that signs tokens of service accounts.
    pub fn service_account_key(&self) -> PathBuf {
        self.pki.file("accounts.key")
    }

    /// Runs `kubectl` with another kubeconfig and returns its output; the error quotes its standard error.
    pub async fn kubectl_as(&self, kubeconfig: &Path, arguments: &[&str]) -> Result<String> {
        let mut kubectl = self.kubectl_command()?;
        let output = kubectl
            .env("KUBECONFIG", kubeconfig)
            .args(arguments)
            .output()
            .await?;
        if !output.status.success() {
            bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Sets the rules of the roles view, edit and admin, as Kubernetes' aggregation controller would.
    pub async fn aggregate_roles(&self) -> Result<()> {
        for name in AGGREGATED {
            let roles = ["get", "clusterroles", "--output=json"];
            let roles: Value = serde_json::from_str(&self.kubectl(&roles).await?)?;
            let roles = roles["items"].as_array().context("a list has no items")?;
            let named = |role: &&Value| role["metadata"]["name"] == name;
            let role = roles
                .iter()
                .find(named)
                .with_context(|| format!("ClusterRole {name} does not exist"))?;
            let selectors = &role["aggregationRule"]["clusterRoleSelectors"];
            let selectors: Vec<BTreeMap<String, String>> = selectors
                .as_array()
                .into_iter()
                .flatten()
                .map(|selector| serde_json::from_value(selector["matchLabels"].clone()))
                .collect::<Result<_, _>>()?;
            let selected = roles.iter().filter(|role| {
                let labels = &role["metadata"]["labels"];
                selectors.iter().any(|selector| {
                    selector
                        .iter()
                        .all(|(label, value)| labels[label.as_str()] == **value)
                })
            });
            let granted: Vec<&Value> = selected
                .filter_map(|role| role["rules"].as_array())
                .flatten()
                .collect();
            let patch = json!({"rules": granted}).to_string();
            let patch = [
                "patch",
                "clusterrole",
                name,
                "--type=merge",
                "--patch",
                &patch,
            ];
            self.kubectl(&patch).await?;
        }
        Ok(())
    }

    /// The events of the audit log so far: metadata of each request, without bodies.
    pub fn audit(&self) -> Result<Vec<Value>> {
        let text = fs::read_to_string(self.dir.path().join(AUDIT_LOG))?;
        // The API server may not have written the last line completely.
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let events = whole.lines().map(serde_json::from_str);
        Ok(events.collect::<Result<_, _>>()?)
    }

    /// Requests of a user that RBAC denied, as verb and path.
    pub fn forbidden(&self, user: &str) -> Result<Vec<String>> {
        let events = self.audit()?;
        let denied = events.iter().filter(|event| {
            event["user"]["username"] == user
                && event["annotations"]["authorization.k8s.io/decision"] == "forbid"
        });
        Ok(denied
            .map(|event| format!("{} {}", event["verb"], event["requestURI"]).replace('"', ""))
            .collect())
    }

    pub(super) fn write_kubeconfig(&self, name: &str, user: &Value) -> Result<PathBuf> {
        let path = self.dir.path().join(format!("{name}.kubeconfig"));
        let cluster =
            json!({"server": self.url(), "certificate-authority": self.pki.file("ca.crt")});
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": cluster}],
            "users": [{"name": name, "user": user}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": name}}],
            "current-context": "test",
        });
        fs::write(&path, config.to_string())?;
        Ok(path)
    }
}
