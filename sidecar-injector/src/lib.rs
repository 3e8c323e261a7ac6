//! What a pod, or any host, needs to run an Envoy of the mesh.
//!
//! Options in, a typed message out; whoever calls writes it to a file or into a pod.
//!
//! Must not do I/O, and must not know Kubernetes' client or the control plane's insides.

pub mod bootstrap;

pub use bootstrap::{AdminAddress, BootstrapOptions, HostPort, InvalidHostPort, bootstrap, render};
