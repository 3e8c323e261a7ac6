//! Objects read without `kubectl`. A test that polls an object would start a process for each look.

use std::fmt::{self, Debug, Formatter};

use anyhow::{Context as _, Result, bail};
use http::Request;
use kube::Client;
use serde_json::Value;
use tokio::sync::OnceCell;

use super::ApiServer;

/// Resource, the path of its API version, and whether its objects have a namespace.
const RESOURCES: [(&str, &str, bool); 14] = [
    ("gatewayroutes", APP_MESH, true),
    ("leases", "apis/coordination.k8s.io/v1", true),
    ("meshes", APP_MESH, false),
    ("mutatingwebhookconfigurations", ADMISSION, false),
    ("pods", "api/v1", true),
    ("routes", "apis/evermesh.dev/v1alpha1", true),
    ("secrets", "api/v1", true),
    ("services", "api/v1", true),
    ("validatingwebhookconfigurations", ADMISSION, false),
    ("virtualgateways", APP_MESH, true),
    ("virtualnodes", APP_MESH, true),
    ("virtualrouters", APP_MESH, true),
    ("virtualservices", APP_MESH, true),
    ("backendgroups", APP_MESH, true),
];
const APP_MESH: &str = "apis/appmesh.k8s.aws/v1beta2";
const ADMISSION: &str = "apis/admissionregistration.k8s.io/v1";

/// An administrator's client, made by the first [`ApiServer::get`].
#[derive(Default)]
pub(super) struct Reader(OnceCell<Client>);

impl Debug for Reader {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("Reader").finish_non_exhaustive()
    }
}

impl ApiServer {
    /// The object `kind/name`, such as `virtualnode/color`, from this machine; `None` if it does not exist.
    ///
    /// The kind may be plural and may name its group, as for `kubectl get`. One without namespaces ignores `namespace`.
    pub async fn get(&self, object: &str, namespace: &str) -> Result<Option<Value>> {
        let path = path(object, namespace)?;
        let client = self.reader.0.get_or_try_init(|| self.client()).await?;
        let request = Request::get(&path).body(Vec::new())?;
        match client.request::<Value>(request).await {
            Ok(object) => Ok(Some(object)),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
            Err(error) => Err(error).with_context(|| format!("GET {path} failed")),
        }
    }
}

fn path(object: &str, namespace: &str) -> Result<String> {
    let (kind, name) = object
        .split_once('/')
        .with_context(|| format!("{object} is not KIND/NAME"))?;
    let kind = kind.split('.').next().unwrap_or(kind).to_lowercase();
    let kind = kind.as_str();
    let found = RESOURCES.iter().find(|(plural, ..)| {
        let singular = plural.strip_suffix('s').unwrap_or(plural);
        [plural, singular].contains(&kind) || (kind, *plural) == ("mesh", "meshes")
    });
    let Some((plural, api, has_namespace)) = found else {
        bail!("the test kit does not know the kind {kind}; add it to its list of resources");
    };
    Ok(if *has_namespace {
        format!("/{api}/namespaces/{namespace}/{plural}/{name}")
    } else {
        format!("/{api}/{plural}/{name}")
    })
}

#[cfg(test)]
mod tests {
    use super::path;

    #[test]
    fn kinds_are_written_as_for_kubectl() {
        let virtual_node = "/apis/appmesh.k8s.aws/v1beta2/namespaces/shop/virtualnodes/a";
        for object in [
            "virtualnode/a",
            "VirtualNode/a",
            "virtualnodes.appmesh.k8s.aws/a",
        ] {
            assert_eq!(path(object, "shop").unwrap(), virtual_node);
        }
        let mesh = "/apis/appmesh.k8s.aws/v1beta2/meshes/shop";
        assert_eq!(path("mesh/shop", "any").unwrap(), mesh);
        for object in ["shop", "unknown/shop"] {
            assert!(path(object, "any").is_err());
        }
    }
}
