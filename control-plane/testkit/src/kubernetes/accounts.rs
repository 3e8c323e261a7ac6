//! Who may do what, and who did.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use super::{AUDIT_LOG, ApiServer};

/// The roles that Kubernetes puts together from others, each after those that it is put together from.
const AGGREGATED: [&str; 3] = ["view", "edit", "admin"];

impl ApiServer {
    /// The kubeconfig of a service account that exists, with a token good for a day and the rights that RBAC gives it.
    pub async fn service_account_kubeconfig(&self, namespace: &str, name: &str) -> Result<PathBuf> {
        let token = self
            .kubectl(&[
                "create",
                "token",
                name,
                "--namespace",
                namespace,
                "--duration",
                "24h",
            ])
            .await?;
        self.write_kubeconfig(
            &format!("{namespace}.{name}"),
            &json!({"token": token.trim()}),
        )
    }

    /// The file of the key that tokens of service accounts are signed with.
    pub fn service_account_key(&self) -> PathBuf {
        self.pki.file("accounts.key")
    }

    /// Runs `kubectl` by somebody's kubeconfig; a failure is an error with its own words.
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

    /// Gives the roles view, edit and admin the rules that Kubernetes' controller would give them now.
    pub async fn aggregate_roles(&self) -> Result<()> {
        for name in AGGREGATED {
            let roles = ["get", "clusterroles", "--output=json"];
            let roles: Value = serde_json::from_str(&self.kubectl(&roles).await?)?;
            let roles = roles["items"].as_array().context("a list has items")?;
            let named = |role: &&Value| role["metadata"]["name"] == name;
            let role = roles.iter().find(named).context("the role is there")?;
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

    /// What was asked so far, as the API server's audit log has it; not what was said.
    pub fn audit(&self) -> Result<Vec<Value>> {
        let text = fs::read_to_string(self.dir.path().join(AUDIT_LOG))?;
        // The last line may not be whole yet.
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let events = whole.lines().map(serde_json::from_str);
        Ok(events.collect::<Result<_, _>>()?)
    }

    /// What a user asked for without having the right to, by verb and path.
    pub fn forbidden(&self, user: &str) -> Result<Vec<String>> {
        let events = self.audit()?;
        let refused = events.iter().filter(|event| {
            event["user"]["username"] == user
                && event["annotations"]["authorization.k8s.io/decision"] == "forbid"
        });
        Ok(refused
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
