//! Events that a test waits for: what the webhooks know, and the state of their certificates.

use std::time::SystemTime;

use evermesh_ingest::admission::ClusterSnapshot;
use evermesh_model::{Kind, ObjectRef};
use serde_json::{Value, json};

use super::{Cluster, MUTATING, VALIDATING};
use crate::common::eventually;

impl Cluster {
    /// Waits until `condition` holds for what the first replica knows of the Kubernetes cluster.
    async fn snapshot_becomes(&self, event: &str, condition: impl Fn(&ClusterSnapshot) -> bool) {
        eventually(event, async || {
            let snapshot = self.replica.snapshot.borrow();
            snapshot.as_ref().is_some_and(&condition)
        })
        .await;
    }

    /// Waits until the first replica knows of a mesh.
    pub(crate) async fn mesh_is_known(&self, mesh: &str) {
        let reference = ObjectRef::new(Kind::Mesh, "", mesh);
        self.snapshot_becomes(mesh, |known| known.meshes.contains_key(&reference))
            .await;
    }

    /// Waits until the first replica knows that a mesh is gone.
    pub(crate) async fn mesh_is_gone(&self, mesh: &str) {
        let reference = ObjectRef::new(Kind::Mesh, "", mesh);
        self.snapshot_becomes(mesh, |known| !known.meshes.contains_key(&reference))
            .await;
    }

    /// Waits until the first replica knows that a mesh is being deleted.
    pub(crate) async fn mesh_is_terminating(&self, mesh: &str) {
        let reference = ObjectRef::new(Kind::Mesh, "", mesh);
        self.snapshot_becomes(mesh, |known| {
            let mesh = known.meshes.get(&reference);
            mesh.is_some_and(|mesh| mesh.metadata.deletion_timestamp.is_some())
        })
        .await;
    }

    /// Waits until the API server calls the webhooks; their configuration takes effect a moment after its creation.
    pub(super) async fn webhooks_are_called(&self) {
        let rejected = json!({
            "apiVersion": "appmesh.k8s.aws/v1beta2",
            "kind": "VirtualNode",
            "metadata": { "name": "probe", "namespace": "default" },
            "spec": { "meshRef": { "name": "a", "uid": "b" } },
        });
        eventually("a call of the webhooks", async || {
            let error = self.dry_run(&rejected).await.err();
            error.is_some_and(|error| error.contains("spec.meshRef"))
        })
        .await;
    }

    /// Creates an object, as soon as the webhooks can be reached.
    pub(crate) async fn create_when_reachable(&self, object: &Value) {
        let name = object["metadata"]["name"].to_string();
        eventually(&name, async || self.create(object).await.is_ok()).await;
    }

    /// The data of the webhooks' Secret; null while the Secret does not exist.
    pub(crate) async fn secret(&self) -> Value {
        let secret = self.api.get("secret/evermesh-webhook", "default").await;
        secret.unwrap().unwrap_or_default()["data"].take()
    }

    /// Waits until `condition` holds for the data of the Secret.
    pub(crate) async fn secret_becomes(&self, condition: impl Fn(&Value) -> bool) {
        eventually("the expected Secret", async || {
            condition(&self.secret().await)
        })
        .await;
    }

    /// Changes an annotation of the Secret, so that the replicas read the Secret and their clocks.
    pub(crate) async fn touch_secret(&self) {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let annotation = format!("test/touched={}", since.unwrap().as_nanos());
        let annotate = ["annotate", "--overwrite", "secret", "evermesh-webhook"];
        let annotate = [&annotate[..], &[&annotation]].concat();
        self.kubectl(&annotate).await.unwrap();
    }

    /// Waits until every webhook configuration has the Secret's CA bundle.
    pub(crate) async fn bundles_match_secret(&self) {
        eventually("the CA bundle in all webhooks", async || {
            let bundle = self.secret().await["ca.crt"].take();
            let mut webhooks = Vec::new();
            for (kind, name) in [
                ("mutatingwebhookconfiguration", MUTATING),
                ("validatingwebhookconfiguration", VALIDATING),
            ] {
                let configuration = self.api.get(&format!("{kind}/{name}"), "default").await;
                let configuration = configuration.unwrap().unwrap();
                webhooks.extend(configuration["webhooks"].as_array().unwrap().clone());
            }
            let matches = |webhook: &Value| webhook["clientConfig"]["caBundle"] == bundle;
            bundle.is_string() && webhooks.iter().all(matches)
        })
        .await;
    }

    /// Removes the CA bundle of the first webhook of each configuration.
    pub(crate) async fn remove_bundles(&self) {
        let patch = r#"[{"op": "remove", "path": "/webhooks/0/clientConfig/caBundle"}]"#;
        for (kind, name) in [
            ("mutatingwebhookconfiguration", MUTATING),
            ("validatingwebhookconfiguration", VALIDATING),
        ] {
            self.patch(kind, name, patch).await.unwrap();
        }
    }
}
