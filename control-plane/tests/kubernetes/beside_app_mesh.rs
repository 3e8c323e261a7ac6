//! Evermesh beside the App Mesh controller: Evermesh serves Envoys that run App Mesh's own image, and writes nothing.

use std::{fs, process::Command};

use evermesh_testkit::{
    app_mesh_agent::{XdsEndpoint, bootstrap},
    chart::Chart,
    control_plane::ControlPlane,
    envoy::{Envoy, EnvoyOptions, EnvoyVersion},
    http::Address,
    kubernetes::ApiServer,
    port::ReservedPort,
    process,
    self_signed::SelfSigned,
    tools,
};
use serde_json::{Value, json};

use crate::{
    common::eventually,
    fixture::{Cluster, USER, lock_gateway, start_app},
    migration::{create_old_objects, get},
};

const GATE: &str = "arn:aws:appmesh:eu-west-1:111122223333:mesh/shop/virtualGateway/gate_shop";

/// Objects of the old controller, an Evermesh that serves xDS over TLS, and a port for the gateway.
struct Fixture {
    cluster: Cluster,
    control_plane: ControlPlane,
    certificate: SelfSigned,
    objects: Vec<String>,
    port: ReservedPort,
}

impl Fixture {
    async fn build(set: &str) -> Self {
        let port = ReservedPort::reserve().unwrap();
        let api = ApiServer::start().await.unwrap();
        let versions = [start_app("v1"), start_app("v2")];
        let objects = create_old_objects(&api, port.address().port(), versions).await;
        let certificate = SelfSigned::new(port.address().ip()).unwrap();
        let (chain, key) = (certificate.certificate(), certificate.key());
        let tls = format!("extraArgs={{--xds-tls-cert={chain},--xds-tls-key={key}}}");
        let chart = Chart::render_open(&["--set", &tls, "--set", set]).unwrap();
        let cluster = Cluster::install(api, &chart).await;
        let control_plane = cluster.start_replica().await;
        Self {
            cluster,
            control_plane,
            certificate,
            objects,
            port,
        }
    }

    /// Starts the gateway's Envoy with the bootstrap of App Mesh's image.
    fn start_gateway(&self) -> Envoy {
        let authorities = self.certificate.certificate();
        let endpoint = XdsEndpoint::Tls(self.control_plane.xds(), &authorities);
        let options = EnvoyOptions::new(EnvoyVersion::Newest, bootstrap(GATE, endpoint));
        Envoy::start(&options).unwrap()
    }

    /// Number of streams with this outcome of authentication.
    async fn authentications(&self, outcome: &str) -> u64 {
        let name = format!("evermesh_xds_authentications_total{{outcome=\"{outcome}\"}}");
        self.control_plane.metric(&name).await.unwrap_or_default()
    }

    /// `resourceVersion` of every object except the router, which the test changes.
    async fn versions(&self) -> Vec<Value> {
        let mut versions = Vec::new();
        for object in self.objects.iter().filter(|it| !it.contains("router")) {
            let stored = get(&self.cluster.api, object).await;
            versions.push(stored["metadata"]["resourceVersion"].clone());
        }
        versions
    }
}

#[tokio::test]
async fn proxies_of_app_mesh_are_served_and_nothing_is_written() {
    let fixture = Fixture::build("beside=true").await;
    let before = fixture.versions().await;
    let _gateway_ports = lock_gateway().await;
    let mut gateway = fixture.start_gateway();
    gateway.ready().await.unwrap();
    let address = Address::Tcp(fixture.port.address());
    let version_becomes = async |expected: &str| {
        eventually(expected, async || {
            address.get("/").await.is_ok_and(|it| it == expected)
        })
        .await;
    };
    version_becomes("v1").await;
    let weight =
        |name: &str, weight: u32| json!({"virtualNodeRef": {"name": name}, "weight": weight});
    let routes = json!({"spec": {"routes": [{"name": "all", "httpRoute": {
        "match": {"prefix": "/"},
        "action": {"weightedTargets": [weight("color-v1", 0), weight("color-v2", 1)]},
    }}]}})
    .to_string();
    let api = &fixture.cluster.api;
    let patch = [
        "patch",
        "virtualrouter/color",
        "-n=shop",
        "--type=merge",
        "-p",
        &routes,
    ];
    api.kubectl(&patch).await.unwrap();
    version_becomes("v2").await;

    let proxies = fixture.control_plane.proxies().await.unwrap();
    assert_eq!(proxies[0]["node_id"], GATE, "{proxies}");
    assert_eq!(proxies[0]["flavour"], "sotw");
    assert_eq!(fixture.authentications("anonymous").await, 1);
    let stats = gateway.stats().await.unwrap();
    let rejected = stats
        .iter()
        .filter(|(name, count)| name.ends_with(".update_rejected") && **count > 0);
    assert_eq!(rejected.count(), 0, "{stats:?}");

    assert_eq!(fixture.versions().await, before);
    let color = get(api, "virtualrouter/color").await;
    assert!(color["status"].to_string().contains("111122223333"));
    let leases = ["get", "leases", "--all-namespaces", "--output=name"];
    let leases = api.kubectl(&leases).await.unwrap();
    assert!(!leases.contains("evermesh"), "{leases}");
    // The API server may report events about the Services of Evermesh itself.
    let reporters = "--output=jsonpath={.items[*].reportingComponent}";
    let reporters = ["get", "events", "--all-namespaces", reporters];
    let reporters = api.kubectl(&reporters).await.unwrap();
    assert!(!reporters.contains("evermesh"), "{reporters}");
    let webhooks = "mutatingwebhookconfigurations,validatingwebhookconfigurations";
    let webhooks = api
        .kubectl(&["get", webhooks, "--output=name"])
        .await
        .unwrap();
    assert_eq!(webhooks, "");
    assert_eq!(api.forbidden(USER).unwrap(), [""; 0]);
}

#[tokio::test]
async fn dump_of_existing_objects_passes_lint() {
    let api = ApiServer::start().await.unwrap();
    create_old_objects(&api, 8088, [8080, 8081]).await;
    let kinds = "namespaces,services,meshes,virtualnodes,virtualservices,virtualrouters,virtualgateways,gatewayroutes";
    let dump = ["get", kinds, "--all-namespaces", "--output", "yaml"];
    let dump = api.kubectl(&dump).await.unwrap();
    let dir = tools::scratch("dump").unwrap();
    fs::write(dir.path().join("mesh.yaml"), dump).unwrap();
    let mut lint = Command::new(tools::built("evermesh").unwrap());
    let output = process::run(lint.arg("lint").arg(dir.path())).unwrap();
    assert_eq!(output, "0 errors, 0 warnings\n");
}

#[tokio::test]
async fn aws_signature_is_not_accepted_as_a_token() {
    let fixture = Fixture::build("xds.authentication=kubernetes").await;
    let _gateway_ports = lock_gateway().await;
    let _gateway = fixture.start_gateway();
    eventually("the rejection of the gateway", async || {
        fixture.authentications("no_credentials").await > 0
    })
    .await;
    let log = fixture.control_plane.log();
    for words in [
        "rejected an xDS stream",
        // The stream is rejected before the message with the node's name is read.
        "a client at 127.0.0.1",
        "AWS signature",
    ] {
        assert!(log.contains(words), "{words} in {log}");
    }
    assert!(!log.contains("AKIAIOSFODNN7EXAMPLE"), "{log}");
    let proxies = fixture.control_plane.proxies().await.unwrap();
    assert_eq!(proxies, json!([]));
}
