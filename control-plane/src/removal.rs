//! `evermesh remove-finalizers`: lets the objects of a mesh be deleted after Evermesh is gone.
//!
//! Registration gives a virtual node a finalizer, and App Mesh's controller gave one to every object. Evermesh removes
//! them from deleted objects; without it, such an object could never go. The command removes them from all objects, once.
//! It calls no AWS API: it prints the virtual nodes whose instances may remain in Cloud Map.

use std::{io::Write, sync::Arc};

use anyhow::{Context, bail, ensure};
use evermesh_model::{Kind, ObjectRef};
use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhookConfiguration, ValidatingWebhookConfiguration,
};
use kube::{
    Api, Client, ResourceExt as _,
    api::{DynamicObject, ListParams, Patch, PatchParams},
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::{
    api_client,
    args::{MUTATING_CONFIGURATION, VALIDATING_CONFIGURATION},
    effect::{is_old_finalizer, registration},
    source::kubernetes::{api_of, api_resource},
};

/// Objects of a page of a list.
const PAGE: u32 = 500;

/// Attempts to change an object that others change at the same time.
const ATTEMPTS: usize = 5;

/// Connects to the cluster that `KUBECONFIG` names and removes the finalizers.
///
/// # Errors
/// The API server cannot be reached or rejects a request, or Evermesh is still installed.
pub fn run(out: &mut impl Write) -> anyhow::Result<()> {
    crate::install_crypto_provider()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let config = kube::Config::infer().await;
        let config = config.context("found no Kubernetes cluster; set KUBECONFIG")?;
        let client = api_client::connect(config, &Arc::default())?;
        remove_finalizers(&client, out).await
    })
}

async fn remove_finalizers(client: &Client, out: &mut impl Write) -> anyhow::Result<()> {
    ensure_removed::<MutatingWebhookConfiguration>(client, MUTATING_CONFIGURATION).await?;
    ensure_removed::<ValidatingWebhookConfiguration>(client, VALIDATING_CONFIGURATION).await?;
    let mut count = 0;
    for kind in Kind::ALL {
        if kind.api_version() != Kind::Mesh.api_version() {
            continue;
        }
        for listed in list(client, kind).await? {
            let object = ObjectRef::new(
                kind,
                listed.namespace().unwrap_or_default(),
                listed.name_any(),
            );
            if let Some(removed) = release(client, &object, listed).await? {
                writeln!(out, "{removed}")?;
                count += 1;
            }
        }
    }
    writeln!(out, "changed objects: {count}")?;
    Ok(())
}

/// Fails while webhooks are installed: their owner would set finalizers again, and webhooks that do not answer block the
/// changes of this command.
async fn ensure_removed<K>(client: &Client, name: &str) -> anyhow::Result<()>
where
    K: kube::Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
{
    let found = Api::<K>::all(client.clone()).get_opt(name).await;
    let found = found.with_context(|| format!("cannot read {} `{name}`", K::kind(&())))?;
    ensure!(
        found.is_none(),
        "{} `{name}` exists, so Evermesh or the App Mesh controller is installed and removes its finalizers itself; run `helm uninstall` first, or delete the configuration if its owner is gone",
        K::kind(&())
    );
    Ok(())
}

/// All objects of a kind, or none if its CRD is not installed.
async fn list(client: &Client, kind: Kind) -> anyhow::Result<Vec<DynamicObject>> {
    let api = Api::<DynamicObject>::all_with(client.clone(), &api_resource(kind));
    let mut objects = Vec::new();
    let mut page = ListParams::default().limit(PAGE);
    loop {
        let listed = match api.list(&page).await {
            Err(kube::Error::Api(answer)) if answer.code == 404 => return Ok(objects),
            listed => listed.with_context(|| format!("cannot list {}", kind.plural()))?,
        };
        objects.extend(listed.items);
        match listed.metadata.continue_ {
            Some(next) if !next.is_empty() => page.continue_token = Some(next),
            _ => return Ok(objects),
        }
    }
}

/// Removes the finalizers of an object. Returns what was removed, or `None` if the object has none or is gone.
async fn release(
    client: &Client,
    object: &ObjectRef,
    mut newest: DynamicObject,
) -> anyhow::Result<Option<String>> {
    let api = api_of(client, object);
    for _ in 0..ATTEMPTS {
        let (removed, kept): (Vec<&String>, Vec<&String>) = newest
            .finalizers()
            .iter()
            .partition(|it| is_old_finalizer(it));
        if removed.is_empty() {
            return Ok(None);
        }
        let version = newest.resource_version();
        let patch = json!({"metadata": {"finalizers": kept, "resourceVersion": version}});
        let name = &object.name;
        let patched = api
            .patch(name, &PatchParams::default(), &Patch::Merge(&patch))
            .await;
        match patched {
            Ok(_) => return Ok(Some(describe(object, &removed, &newest.data))),
            Err(kube::Error::Api(answer)) if answer.code == 404 => return Ok(None),
            Err(kube::Error::Api(answer)) if answer.code == 409 => {
                let found = api.get_opt(name).await;
                let found = found.with_context(|| format!("cannot read {object}"))?;
                let Some(found) = found else {
                    return Ok(None);
                };
                newest = found;
            }
            Err(error) => {
                return Err(error).with_context(|| format!("cannot change {object}"));
            }
        }
    }
    bail!("{object} changes all the time; stop whatever changes it, and try again")
}

fn describe(object: &ObjectRef, removed: &[&String], data: &Value) -> String {
    let removed: Vec<&str> = removed.iter().map(|it| it.as_str()).collect();
    let text = format!("{object}: removed {}", removed.join(", "));
    if !removed.contains(&registration::FINALIZER) {
        return text;
    }
    let cloud_map = &data["spec"]["serviceDiscovery"]["awsCloudMap"];
    let (Some(service), Some(namespace)) = (
        cloud_map["serviceName"].as_str(),
        cloud_map["namespaceName"].as_str(),
    ) else {
        return format!("{text}; instances of its pods may remain in Cloud Map");
    };
    format!(
        "{text}; instances of its pods may remain in the Cloud Map service {service}.{namespace}"
    )
}

#[cfg(test)]
mod tests {
    use evermesh_testkit::fake_api_server::FakeApiServer;

    use super::*;

    const NODES: &str = "/apis/appmesh.k8s.aws/v1beta2/namespaces/shop/virtualnodes";
    const MESHES: &str = "/apis/appmesh.k8s.aws/v1beta2/meshes";

    async fn output(server: &FakeApiServer) -> anyhow::Result<String> {
        let mut out = Vec::new();
        remove_finalizers(&server.client(), &mut out).await?;
        Ok(String::from_utf8(out)?)
    }

    #[tokio::test]
    async fn only_finalizers_of_evermesh_and_app_mesh_are_removed() {
        let server = FakeApiServer::default();
        server.put(
            NODES,
            json!({
                "metadata": {"name": "color", "namespace": "shop", "finalizers": [
                    "example.com/mine",
                    "finalizers.appmesh.k8s.aws/aws-appmesh-resources",
                    registration::FINALIZER,
                ]},
                "spec": {"serviceDiscovery": {"awsCloudMap": {
                    "namespaceName": "shop.local", "serviceName": "color",
                }}},
            }),
        );
        let foreign =
            json!({"name": "plain", "namespace": "shop", "finalizers": ["example.com/mine"]});
        server.put(NODES, json!({"metadata": foreign}));
        let finalizers = ["finalizers.appmesh.k8s.aws/mesh-members"];
        server.put(
            MESHES,
            json!({"metadata": {"name": "m", "finalizers": finalizers}}),
        );
        let printed = "Mesh/m: removed finalizers.appmesh.k8s.aws/mesh-members
VirtualNode/shop/color: removed finalizers.appmesh.k8s.aws/aws-appmesh-resources, finalizers.appmesh.k8s.aws/aws-cloudmap-resources; instances of its pods may remain in the Cloud Map service color.shop.local
changed objects: 2
";
        assert_eq!(output(&server).await.unwrap(), printed);
        for (path, kept) in [
            (format!("{NODES}/color"), json!(["example.com/mine"])),
            (format!("{NODES}/plain"), json!(["example.com/mine"])),
            (format!("{MESHES}/m"), json!([])),
        ] {
            assert_eq!(
                server.get(&path).unwrap()["metadata"]["finalizers"],
                kept,
                "{path}"
            );
        }
        let again = output(&server).await.unwrap();
        assert_eq!(again, "changed objects: 0\n");
    }

    #[tokio::test]
    async fn nothing_is_removed_while_a_controller_is_installed() {
        for (collection, name) in [
            ("mutatingwebhookconfigurations", MUTATING_CONFIGURATION),
            ("validatingwebhookconfigurations", VALIDATING_CONFIGURATION),
        ] {
            let server = FakeApiServer::default();
            let path = format!("/apis/admissionregistration.k8s.io/v1/{collection}");
            server.put(&path, json!({"metadata": {"name": name}}));
            let error = output(&server).await.unwrap_err().to_string();
            assert!(error.contains("run `helm uninstall` first"), "{error}");
            assert_eq!(server.count("PATCH"), 0);
        }
    }
}
