//! Sidecar injection: decides which pods get an Envoy, and makes the JSON patch that adds it.
//!
//! When a pod is created, the API server asks Evermesh's webhook to patch it. A pod that a VirtualNode selects gets a
//! container with Envoy and becomes a member of the node's mesh. A pod that a `VirtualGateway` selects already has an
//! Envoy, which is configured.
//!
//! ```text
//! pod, namespace, ClusterSnapshot (meshes, nodes, gateways, namespaces)
//!   │
//!   ▼ decide
//!   ├─▶ Skip      not wanted: the pod stays as it is
//!   ├─▶ Reject    wanted, but no node or more than one selects the pod
//!   ├─▶ Unready   the snapshot does not have the namespace yet
//!   └─▶ Inject(Member)
//!         │ with InjectorSettings and the pod's annotations
//!         ▼ patch
//!         ├─▶ PodPatch    operations and warnings
//!         └─▶ PatchError  a malformed annotation, or a pod that contradicts the patch
//! ```
//!
//! # Example
//!
//! The namespace `shop` has the label `appmesh.k8s.aws/sidecarInjectorWebhook: enabled`. A Deployment creates this pod:
//!
//! ```yaml
//! apiVersion: v1
//! kind: Pod
//! metadata: {generateName: web-, namespace: shop, labels: {app: web}}
//! spec: {containers: [{name: app, image: "app:1"}]}
//! ```
//!
//! The namespace has one node that selects the pod, in the mesh `shop`:
//!
//! ```yaml
//! apiVersion: appmesh.k8s.aws/v1beta2
//! kind: VirtualNode
//! metadata: {name: web, namespace: shop}
//! spec:
//!   meshRef: {name: shop, uid: u}
//!   podSelector: {matchLabels: {app: web}}
//!   listeners: [{portMapping: {port: 8080, protocol: http}}]
//! ```
//!
//! [`decide()`] returns [`Decision::Inject`] with the member `mesh/shop/virtualNode/web_shop` and the port 8080, and
//! [`patch()`] returns three operations:
//!
//! | operation | value |
//! |---|---|
//! | `add /spec/initContainers` | `proxyinit`, which redirects inbound connections to port 8080 and all outbound connections to Envoy |
//! | `add /spec/volumes` | `evermesh-token`, the token with which Envoy authenticates |
//! | `add /spec/initContainers/-` | `envoy`, a native sidecar with its [`bootstrap()`] as an argument |
//!
//! The golden case `pod/whole-pod` shows the complete result. Without the node, the pod would be rejected with the list
//! of nodes and why each does not select it; with the annotation `disabled` it would be left alone.
//!
//! # Bootstrap
//!
//! [`bootstrap()`] also makes the configuration of an Envoy outside of Kubernetes; the command `evermesh bootstrap`
//! writes it to a file.
//!
//! The crate does no I/O. The caller talks to the API server.

mod annotation;
pub mod bootstrap;
mod decide;
mod patch;
pub mod settings;

pub use annotation::{INJECTION, exceeds, mount_path, networks, quantity};
pub use bootstrap::{AdminAddress, BootstrapOptions, HostPort, InvalidHostPort, bootstrap, render};
pub use decide::{Decision, Member, RejectedPod, decide, depends_on_cluster, has_injection_label};
pub use patch::{PatchError, PodPatch, patch};
pub use settings::InjectorSettings;
