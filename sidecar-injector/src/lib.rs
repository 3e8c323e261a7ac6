//! What a pod, or any host, needs to run an Envoy of the mesh.
//!
//! Pods: [`decide`] says which get a sidecar, [`patch()`] makes them members. Any host: [`bootstrap()`] is Envoy's
//! configuration. Options in, a typed message or a patch out; whoever calls hands it to the API server or writes
//! it to a file.
//!
//! Must not do I/O, and must not know Kubernetes' client or the control plane's insides.

mod annotation;
pub mod bootstrap;
mod decide;
mod patch;
pub mod settings;

pub use annotation::{INJECTION, networks, quantity};
pub use bootstrap::{AdminAddress, BootstrapOptions, HostPort, InvalidHostPort, bootstrap, render};
pub use decide::{Decision, Member, RejectedPod, decide, depends_on_cluster, has_injection_label};
pub use patch::{PatchError, PodPatch, patch};
pub use settings::InjectorSettings;
