//! Discovery by DNS: relative names and names with a final dot, all addresses or one, and the IP family.

use std::collections::BTreeSet;

use evermesh_testkit::{envoy::EnvoyVersion, hosts::LabHost};

use crate::{
    common::eventually,
    egress_lab::{EgressLab, call, ipv6, try_call},
};

const MESH: &str = "
apiVersion: appmesh.k8s.aws/v1beta2
kind: Mesh
metadata: {name: shop}
spec:
  namespaceSelector: {matchLabels: {mesh: shop}}
  meshServiceDiscovery: {PREFERENCE}
---
apiVersion: appmesh.k8s.aws/v1beta2
kind: VirtualNode
metadata: {name: front, namespace: shop}
spec: {backendGroups: [{name: '*'}]}
";

/// An address that no host has, so that only interception answers there.
const ANYWHERE: ([u8; 4], u16) = ([10, 77, 200, 1], 8080);

/// A node with this DNS name, and a service of the same name.
fn service(name: &str, hostname: &str, response: &str) -> String {
    format!(
        "---
apiVersion: appmesh.k8s.aws/v1beta2
kind: VirtualNode
metadata: {{name: {name}, namespace: shop}}
spec:
  listeners: [{{portMapping: {{port: 8080, protocol: http}}}}]
  serviceDiscovery: {{dns: {{hostname: {hostname}, responseType: {response}}}}}
---
apiVersion: appmesh.k8s.aws/v1beta2
kind: VirtualService
metadata: {{name: {name}, namespace: shop}}
spec: {{provider: {{virtualNode: {{virtualNodeRef: {{name: {name}}}}}}}}}
"
    )
}

/// Starts a DNS server on the host and resolves names there as a pod in the namespace `shop` does.
fn resolve_as_in_a_pod(lab: &mut EgressLab, host: &LabHost, records: &[(&str, String)]) {
    let records: Vec<String> = records
        .iter()
        .map(|(name, address)| format!("--record={name}={address}"))
        .collect();
    let mut arguments = vec!["dns", "--listen", "127.0.0.1:53"];
    arguments.extend(records.iter().map(String::as_str));
    lab.run(host, &arguments);
    let file = host.dir().join(format!("{}.resolv.conf", host.name()));
    let text = "nameserver 127.0.0.1\n\
                search shop.svc.cluster.local svc.cluster.local cluster.local\n\
                options ndots:5\n";
    std::fs::write(&file, text).unwrap();
    host.shell(&format!("mount --bind {} /etc/resolv.conf", file.display()))
        .unwrap();
}

async fn every_form_of_a_dns_name_resolves(version: EnvoyVersion) {
    const FORMS: [&str; 5] = [
        "color",
        "color.shop",
        "color.shop.svc",
        "color.shop.svc.cluster.local",
        "color.shop.svc.cluster.local.",
    ];
    let mut lab = EgressLab::start(version).await;
    let (front, back) = (lab.host("front").await, lab.host("back").await);
    lab.http_app(&back, "color", "0.0.0.0:8080").await;
    let record = ("color.shop.svc.cluster.local", back.ip().to_string());
    resolve_as_in_a_pod(&mut lab, &front, &[record]);
    let mut manifests = MESH.replace("PREFERENCE", "");
    let mut names = Vec::new();
    for response in ["LOADBALANCER", "ENDPOINTS"] {
        for (index, form) in FORMS.into_iter().enumerate() {
            let name = format!("{}-{index}", response.to_ascii_lowercase());
            manifests += &service(&name, form, response);
            names.push((name, form));
        }
    }
    lab.write(&manifests);
    lab.serve().await;
    let _envoy = lab.sidecar(&front, "front", &[]).await;
    for (name, form) in names {
        let response = call(&front, ANYWHERE, &format!("{name}.shop")).await;
        assert_eq!(response.body, "color", "{name}: {form}");
    }
    lab.has_no_problem().await;
}

async fn response_type_decides_on_addresses(version: EnvoyVersion) {
    const ADDRESSES: [&str; 3] = ["10.77.1.1", "10.77.1.2", "10.77.1.3"];
    let mut lab = EgressLab::start(version).await;
    let (front, back) = (lab.host("front").await, lab.host("back").await);
    for address in ADDRESSES {
        back.shell(&format!("ip address add {address}/16 dev eth0"))
            .unwrap();
    }
    for address in ADDRESSES {
        lab.run(
            &back,
            &[
                "http",
                "--name",
                address,
                "--listen",
                &format!("{address}:8080"),
            ],
        );
    }
    let records = ADDRESSES.map(|address| ("color.shop.svc.cluster.local", address.to_owned()));
    resolve_as_in_a_pod(&mut lab, &front, &records);
    let manifests = [
        &MESH.replace("PREFERENCE", ""),
        &service("every", "color", "ENDPOINTS")[..],
        &service("one", "color", "LOADBALANCER"),
    ];
    lab.write(&manifests.concat());
    lab.serve().await;
    let _envoy = lab.sidecar(&front, "front", &[]).await;

    let mut seen = BTreeSet::new();
    eventually("a response from each address", async || {
        seen.insert(call(&front, ANYWHERE, "every.shop").await.body);
        ADDRESSES.iter().all(|address| seen.contains(*address))
    })
    .await;
    let mut seen = BTreeSet::new();
    for _ in 0..60 {
        seen.insert(call(&front, ANYWHERE, "one.shop").await.body);
    }
    assert!(seen.iter().eq(&ADDRESSES[..1]), "{seen:?}");
    lab.has_no_problem().await;
}

/// The family of a name that has both, by the preference of the mesh.
async fn preference_decides_on_the_family(version: EnvoyVersion) {
    let mut lab = EgressLab::start(version).await;
    let (front, back) = (lab.host("front").await, lab.host("back").await);
    let addresses = [back.ip().to_string(), ipv6(&back).to_string()];
    let [ipv4, ipv6] = &addresses;
    lab.run(
        &back,
        &[
            "http",
            "--name",
            "IPv4",
            "--listen",
            &format!("{ipv4}:8080"),
        ],
    );
    lab.run(
        &back,
        &[
            "http",
            "--name",
            "IPv6",
            "--listen",
            &format!("[{ipv6}]:8080"),
        ],
    );
    let records = [
        ("both.shop.svc.cluster.local", ipv4.clone()),
        ("both.shop.svc.cluster.local", ipv6.clone()),
        ("four.shop.svc.cluster.local", ipv4.clone()),
        ("six.shop.svc.cluster.local", ipv6.clone()),
    ];
    resolve_as_in_a_pod(&mut lab, &front, &records);
    let services = ["both", "four", "six"].map(|name| {
        service(name, name, "LOADBALANCER") + &service(&format!("{name}-all"), name, "ENDPOINTS")
    });
    let write = |lab: &EgressLab, preference: &str| {
        lab.write(&(MESH.replace("PREFERENCE", preference) + &services.concat()));
    };
    write(&lab, "");
    lab.serve().await;
    let _envoy = lab.sidecar(&front, "front", &[]).await;
    for (preference, both, four, six) in [
        // Without a preference Envoy prefers IPv6, as in App Mesh.
        ("", "IPv6", "IPv4", "IPv6"),
        ("ipPreference: IPv4_ONLY", "IPv4", "IPv4", ""),
        ("ipPreference: IPv6_ONLY", "IPv6", "", "IPv6"),
    ] {
        write(&lab, preference);
        for (name, expected) in [("both", both), ("four", four), ("six", six)] {
            for name in [name.to_owned(), format!("{name}-all")] {
                let event = format!("{expected:?} of {name} with `{preference}`");
                eventually(&event, async || {
                    // The preference decides on the family of Envoy's sockets. Envoy replaces them, and the kernel
                    // resets connections that it had not accepted from the old ones.
                    let response = try_call(&front, ANYWHERE, &format!("{name}.shop")).await;
                    response.is_ok_and(|response| {
                        if expected.is_empty() {
                            response.status.as_u16() == 503
                        } else {
                            response.body == expected
                        }
                    })
                })
                .await;
            }
        }
    }
    lab.has_no_problem().await;
}

#[tokio::test]
async fn oldest_envoy_resolves_every_form_of_a_dns_name() {
    every_form_of_a_dns_name_resolves(EnvoyVersion::Oldest).await;
}

#[tokio::test]
async fn newest_envoy_resolves_every_form_of_a_dns_name() {
    every_form_of_a_dns_name_resolves(EnvoyVersion::Newest).await;
}

#[tokio::test]
async fn oldest_envoy_uses_one_or_every_address_by_response_type() {
    response_type_decides_on_addresses(EnvoyVersion::Oldest).await;
}

#[tokio::test]
async fn newest_envoy_uses_one_or_every_address_by_response_type() {
    response_type_decides_on_addresses(EnvoyVersion::Newest).await;
}

#[tokio::test]
async fn oldest_envoy_resolves_the_preferred_family() {
    preference_decides_on_the_family(EnvoyVersion::Oldest).await;
}

#[tokio::test]
async fn newest_envoy_resolves_the_preferred_family() {
    preference_decides_on_the_family(EnvoyVersion::Newest).await;
}
