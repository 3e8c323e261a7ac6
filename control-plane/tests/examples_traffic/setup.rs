//! Facts about the hosts of an example that its manifests do not contain.

/// The hosts of an example, as far as they differ from the rule: one host per virtual node, named like the node, with
/// an Envoy and, for each listener, an application that answers with the host's name.
#[derive(Debug, Default)]
pub(crate) struct Setup {
    /// Virtual nodes that have several hosts.
    pub(crate) instances: &'static [(&'static str, &'static [&'static str])],
    /// Hosts with an additional address.
    pub(crate) addresses: &'static [(&'static str, &'static str)],
    /// Hosts whose application does not run.
    pub(crate) broken: &'static [&'static str],
    /// Hosts without Envoy.
    pub(crate) bare: &'static [&'static str],
    /// Servers on ports 80 and 8080 that are not part of the mesh.
    pub(crate) outside: &'static [&'static str],
}

pub(crate) fn setup(example: &str) -> Setup {
    let rule = Setup::default();
    match example {
        "cloud-map" => Setup {
            instances: &[("color", &["color-1", "color-2"])],
            ..rule
        },
        "dns" => Setup {
            instances: &[
                ("orders", &["orders-1", "orders-2"]),
                ("reports", &["reports-1", "reports-2"]),
            ],
            ..rule
        },
        "ecs-or-ec2-host" => Setup {
            bare: &["db"],
            ..rule
        },
        "egress-allow-list" => Setup {
            bare: &["payments"],
            outside: &["other.example.com"],
            ..rule
        },
        // The addresses are those of slices.yaml.
        "endpointslices" => Setup {
            instances: &[("color", &["color-a", "color-b", "color-c"])],
            addresses: &[
                ("color-a", "10.77.1.11"),
                ("color-b", "10.77.1.12"),
                ("color-c", "10.77.1.13"),
            ],
            ..rule
        },
        "health-checks" | "outlier-ejection" => Setup {
            instances: &[("color", &["color-1", "color-2"])],
            broken: &["color-2"],
            ..rule
        },
        _ => rule,
    }
}
