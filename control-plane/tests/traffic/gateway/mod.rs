//! Gateways and their routes.

mod hostnames;
mod matches;
mod passes;
mod rewrites;

use crate::manifests::Manifests;

/// Adds services for targets: `s1` to `s5` for `t1` to `t5`, and `c1` to `c5` for `g1` to `g5`.
fn add_services(manifests: &mut Manifests) {
    for index in 1..=5 {
        manifests.node_service(&format!("s{index}"), &format!("t{index}"));
        manifests.node_service(&format!("c{index}"), &format!("g{index}"));
    }
}
