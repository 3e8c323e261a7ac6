//! Evermesh beside the App Mesh controller: proxies of App Mesh's own image are served, and nothing is written.

use std::{fs, process::Command};

use evermesh_testkit::{
    app_mesh_agent::{XdsEndpoint, bootstrap},
    chart::Chart,
    control_plane::ControlPlane,
    envoy::{Envoy, EnvoyOptions, EnvoyVersion, lock_gateway_ports},
    http::Address,
    kubernetes::ApiServer,
    port::ReservedPort,
    process,
    self_signed::SelfSigned,
    tools,
};
use serde_json::{Value, json};

use crate::{
    eventually,
    scene::{Cluster, USER, app},
    take_over::{get, old_cluster},
};

const GATE: &str = "arn:aws:appmesh:eu-west-1:111122223333:mesh/shop/virtualGateway/gate_shop";

/// What the old controller left, an Evermesh that serves xDS over TLS, and a port for the gateway.
struct Scene {
    cluster: Cluster,
    control_plane: ControlPlane,
    certificate: SelfSigned,
    objects: Vec<String>,
    port: ReservedPort,
}

impl Scene {
    async fn build(set: &str) -> Self {
        let port = ReservedPort::reserve().unwrap();
        let api = ApiServer::start().await.unwrap();
        let versions = [app("v1"), app("v2")];
        let objects = old_cluster(&api, port.address().port(), versions).await;
        let certificate = SelfSigned::new(port.address().ip()).unwrap();
        let (chain, key) = (certificate.certificate(), certificate.key());
        let tls = format!("extraArgs={{--xds-tls-cert={chain},--xds-tls-key={key}}}");
        let chart = Chart::render(&["--set", &tls, "--set", set]).unwrap();
        let cluster = Cluster::of(api, &chart).await;
        let control_plane = cluster.start_replica().await;
        Self {
            cluster,
            control_plane,
            certificate,
            objects,
            port,
        }
    }

    /// The gateway, as App Mesh's image starts it.
    fn gateway(&self) -> Envoy {
        let authorities = self.certificate.certificate();
        let endpoint = XdsEndpoint::Tls(self.control_plane.xds(), &authorities);
        let options = EnvoyOptions::new(EnvoyVersion::Newest, bootstrap(GATE, endpoint));
        Envoy::start(&options).unwrap()
    }

    async fn authentications(&self, outcome: &str) -> u64 {
        let name = format!("evermesh_xds_authentications_total{{outcome=\"{outcome}\"}}");
        self.control_plane.metric(&name).await.unwrap_or_default()
    }

    /// The versions of all objects but the router, which the test writes.
    async fn versions(&self) -> Vec<Value> {
        let mut versions = Vec::new();
        for object in self.objects.iter().filter(|it| !it.contains("router")) {
            let kept = get(&self.cluster.api, object).await;
            versions.push(kept["metadata"]["resourceVersion"].clone());
        }
        versions
    }
}

#[tokio::test]
async fn proxies_of_app_mesh_are_served_and_nothing_is_written() {
    let _turn = lock_gateway_ports().unwrap();
    let scene = Scene::build("beside=true").await;
    let before = scene.versions().await;
    let mut gateway = scene.gateway();
    gateway.ready().await.unwrap();
    let address = Address::Tcp(scene.port.address());
    let answers = async |expected: &str| {
        eventually(expected, async || {
            address.get("/").await.is_ok_and(|it| it == expected)
        })
        .await;
    };
    answers("v1").await;
    let weight =
        |name: &str, weight: u32| json!({"virtualNodeRef": {"name": name}, "weight": weight});
    let routes = json!({"spec": {"routes": [{"name": "all", "httpRoute": {
        "match": {"prefix": "/"},
        "action": {"weightedTargets": [weight("color-v1", 0), weight("color-v2", 1)]},
    }}]}})
    .to_string();
    let api = &scene.cluster.api;
    let patch = [
        "patch",
        "virtualrouter/color",
        "-n=shop",
        "--type=merge",
        "-p",
        &routes,
    ];
    api.kubectl(&patch).await.unwrap();
    answers("v2").await;

    let proxies = scene.control_plane.proxies().await.unwrap();
    assert_eq!(proxies[0]["node_id"], GATE, "{proxies}");
    assert_eq!(proxies[0]["flavour"], "sotw");
    assert_eq!(scene.authentications("anonymous").await, 1);
    let stats = gateway.stats().await.unwrap();
    let rejected = stats
        .iter()
        .filter(|(name, count)| name.ends_with(".update_rejected") && **count > 0);
    assert_eq!(rejected.count(), 0, "{stats:?}");

    assert_eq!(scene.versions().await, before);
    let kept = get(api, "virtualrouter/color").await;
    assert!(kept["status"].to_string().contains("111122223333"));
    let ours = ["get", "leases,events", "--all-namespaces", "--output=name"];
    let ours = api.kubectl(&ours).await.unwrap();
    assert!(!ours.contains("evermesh"), "{ours}");
    let webhooks = "mutatingwebhookconfigurations,validatingwebhookconfigurations";
    let webhooks = api
        .kubectl(&["get", webhooks, "--output=name"])
        .await
        .unwrap();
    assert_eq!(webhooks, "");
    assert_eq!(api.forbidden(USER).unwrap(), [""; 0]);
}

#[tokio::test]
async fn what_is_there_can_be_linted_before() {
    let api = ApiServer::start().await.unwrap();
    old_cluster(&api, 8088, [8080, 8081]).await;
    let kinds = "namespaces,services,meshes,virtualnodes,virtualservices,virtualrouters,virtualgateways,gatewayroutes";
    let dump = ["get", kinds, "--all-namespaces", "--output", "yaml"];
    let dump = api.kubectl(&dump).await.unwrap();
    let dir = tools::scratch("dump").unwrap();
    fs::write(dir.path().join("mesh.yaml"), dump).unwrap();
    let mut lint = Command::new(tools::built("evermesh").unwrap());
    let said = process::run(lint.arg("lint").arg(dir.path())).unwrap();
    assert_eq!(said, "0 errors, 0 warnings\n");
}

#[tokio::test]
async fn a_signature_of_aws_is_no_token() {
    let _turn = lock_gateway_ports().unwrap();
    let scene = Scene::build("xds.authentication=kubernetes").await;
    let _gateway = scene.gateway();
    eventually("it is refused", async || {
        scene.authentications("no_credentials").await > 0
    })
    .await;
    let log = scene.control_plane.log();
    for words in [
        "refused a proxy",
        "virtualGateway/gate_shop",
        "AWS signature",
    ] {
        assert!(log.contains(words), "{words} in {log}");
    }
    assert!(!log.contains("AKIAIOSFODNN7EXAMPLE"), "{log}");
    let proxies = scene.control_plane.proxies().await.unwrap();
    assert_eq!(proxies, json!([]));
}
