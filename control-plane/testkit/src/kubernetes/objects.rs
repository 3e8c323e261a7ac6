//! Objects read and applied without `kubectl`, which would be a process for each look and each manifest.

use std::{
    fmt::{self, Debug, Formatter},
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use http::{Method, Request, header::CONTENT_TYPE, request};
use kube::Client;
use serde_json::Value;
use tokio::sync::OnceCell;

use super::ApiServer;

/// Kind, path of the API version, and whether the objects have a namespace.
const KINDS: [(&str, &str, bool); 29] = [
    ("BackendGroup", APP_MESH, true),
    ("ClusterRole", RBAC, false),
    ("ClusterRoleBinding", RBAC, false),
    ("ConfigMap", CORE, true),
    (
        "CustomResourceDefinition",
        "apis/apiextensions.k8s.io/v1",
        false,
    ),
    ("Deployment", "apis/apps/v1", true),
    ("EndpointSlice", "apis/discovery.k8s.io/v1", true),
    ("GatewayRoute", APP_MESH, true),
    ("Lease", "apis/coordination.k8s.io/v1", true),
    ("Mesh", APP_MESH, false),
    ("MutatingWebhookConfiguration", ADMISSION, false),
    ("Namespace", CORE, false),
    ("NetworkPolicy", "apis/networking.k8s.io/v1", true),
    ("Node", CORE, false),
    ("Pod", CORE, true),
    ("PodDisruptionBudget", "apis/policy/v1", true),
    ("Role", RBAC, true),
    ("RoleBinding", RBAC, true),
    ("Route", "apis/evermesh.dev/v1alpha1", true),
    ("Secret", CORE, true),
    ("Service", CORE, true),
    ("ServiceAccount", CORE, true),
    ("ValidatingAdmissionPolicy", ADMISSION, false),
    ("ValidatingAdmissionPolicyBinding", ADMISSION, false),
    ("ValidatingWebhookConfiguration", ADMISSION, false),
    ("VirtualGateway", APP_MESH, true),
    ("VirtualNode", APP_MESH, true),
    ("VirtualRouter", APP_MESH, true),
    ("VirtualService", APP_MESH, true),
];
const CORE: &str = "api/v1";
const APP_MESH: &str = "apis/appmesh.k8s.aws/v1beta2";
const ADMISSION: &str = "apis/admissionregistration.k8s.io/v1";
const RBAC: &str = "apis/rbac.authorization.k8s.io/v1";

/// An administrator's client, made by the first request.
#[derive(Default)]
pub(super) struct Administrator(OnceCell<Client>);

impl Debug for Administrator {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        formatter
            .debug_tuple("Administrator")
            .finish_non_exhaustive()
    }
}

impl ApiServer {
    /// The object `kind/name`, such as `virtualnode/color`, from this machine; `None` if it does not exist.
    ///
    /// The kind may be plural and may name its group, as for `kubectl get`. One without namespaces ignores `namespace`.
    pub async fn get(&self, object: &str, namespace: &str) -> Result<Option<Value>> {
        let path = path(object, namespace)?;
        match self.request(Method::GET, &path, &Value::Null).await {
            Ok(object) => Ok(Some(object)),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
            Err(error) => Err(error).with_context(|| format!("GET {path} failed")),
        }
    }

    /// Applies manifests in YAML by server-side apply, in their order; the error names the first object that is rejected.
    pub async fn apply(&self, yaml: &str) -> Result<()> {
        let documents: Vec<Value> = serde_saphyr::from_multiple(yaml)?;
        for object in documents.iter().filter(|it| it.is_object()) {
            let metadata = &object["metadata"];
            let word = |field: &Value| field.as_str().unwrap_or_default().to_owned();
            let id = format!("{}/{}", word(&object["kind"]), word(&metadata["name"]));
            let namespace = metadata["namespace"].as_str().unwrap_or("default");
            let path = format!("{}?fieldManager=kubectl&force=true", path(&id, namespace)?);
            self.patch(&path, "application/apply-patch+yaml", object)
                .await
                .with_context(|| format!("applying {id} in {namespace} failed"))?;
        }
        Ok(())
    }

    /// Applies the manifests of a file, or of all YAML files in a folder.
    pub async fn apply_path(&self, path: &Path) -> Result<()> {
        for file in manifests(path)? {
            let yaml = fs::read_to_string(&file)?;
            self.apply(&yaml)
                .await
                .with_context(|| file.display().to_string())?;
        }
        Ok(())
    }

    /// Sends a patch of this media type.
    pub(super) async fn patch(
        &self,
        path: &str,
        media_type: &str,
        changed: &Value,
    ) -> kube::Result<Value> {
        let request = Request::patch(path).header(CONTENT_TYPE, media_type);
        self.send(request, changed).await
    }

    /// Sends a request of an administrator with a JSON body; `null` is none.
    pub(crate) async fn request(
        &self,
        method: Method,
        path: &str,
        body: &Value,
    ) -> kube::Result<Value> {
        let request = Request::builder().method(method).uri(path);
        self.send(request.header(CONTENT_TYPE, "application/json"), body)
            .await
    }

    async fn send(&self, request: request::Builder, body: &Value) -> kube::Result<Value> {
        let client = self.administrator.0.get_or_try_init(|| async {
            let client = self.client().await;
            client.map_err(|error| kube::Error::Service(error.into()))
        });
        let body = if body.is_null() {
            Vec::new()
        } else {
            body.to_string().into_bytes()
        };
        let request = request.body(body).map_err(kube::Error::HttpError)?;
        client.await?.request(request).await
    }
}

/// The file itself, or the YAML files of a folder in the order of their names.
fn manifests(path: &Path) -> Result<Vec<PathBuf>> {
    if path.is_file() {
        return Ok(vec![path.to_owned()]);
    }
    let entries = fs::read_dir(path).with_context(|| path.display().to_string())?;
    let files = entries.map(|entry| Ok(entry?.path()));
    let mut files = files.collect::<Result<Vec<_>>>()?;
    files.retain(|it| it.extension().is_some_and(|it| it == "yaml"));
    files.sort();
    Ok(files)
}

fn path(object: &str, namespace: &str) -> Result<String> {
    let (kind, name) = object
        .split_once('/')
        .with_context(|| format!("{object} is not KIND/NAME"))?;
    let wanted = kind.split('.').next().unwrap_or(kind).to_lowercase();
    let found = KINDS.iter().find_map(|(kind, api, has_namespace)| {
        let (singular, plural) = (kind.to_lowercase(), plural(kind));
        [&singular, &plural]
            .contains(&&wanted)
            .then_some((plural, *api, *has_namespace))
    });
    let Some((plural, api, has_namespace)) = found else {
        bail!("the test kit does not know the kind {kind}; add it to its list of kinds");
    };
    Ok(if has_namespace {
        format!("/{api}/namespaces/{namespace}/{plural}/{name}")
    } else {
        format!("/{api}/{plural}/{name}")
    })
}

/// The name of a kind's resource.
fn plural(kind: &str) -> String {
    let kind = kind.to_lowercase();
    match kind.strip_suffix('y') {
        Some(stem) if !stem.ends_with(['a', 'e', 'o', 'u']) => format!("{stem}ies"),
        _ if kind.ends_with("sh") => format!("{kind}es"),
        _ => format!("{kind}s"),
    }
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
        let policy = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies/a";
        assert_eq!(path("ValidatingAdmissionPolicy/a", "any").unwrap(), policy);
        let gateway = "/apis/appmesh.k8s.aws/v1beta2/namespaces/shop/virtualgateways/a";
        assert_eq!(path("VirtualGateway/a", "shop").unwrap(), gateway);
        for object in ["shop", "unknown/shop"] {
            assert!(path(object, "any").is_err());
        }
    }
}
