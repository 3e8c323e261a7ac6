//! The webhooks, called by a real API server: fields that are filled in, objects and pods that are rejected, pods that
//! are patched, and the webhooks' certificates.

#![allow(clippy::unwrap_used)] // a panic fails the test

mod certificates;
mod cluster;
#[path = "../common/mod.rs"]
mod common;
mod objects;
mod pods;
mod random_pods;

use serde_json::{Value, json};

/// An object of App Mesh in the namespace `shop`.
fn object(kind: &str, name: &str, spec: &Value) -> Value {
    json!({
        "apiVersion": "appmesh.k8s.aws/v1beta2",
        "kind": kind,
        "metadata": { "name": name, "namespace": "shop" },
        "spec": spec,
    })
}
