//! An API server with a mesh, a Cloud Map server, and the control plane.

use std::{collections::BTreeMap, net::IpAddr};

use aws_sdk_servicediscovery::{
    Client, Config,
    config::{Credentials, Region},
    types::{HealthStatus, Service},
};
use evermesh_testkit::{
    control_plane::ControlPlane,
    kubernetes::{ApiServer, PodState},
    moto::Moto,
};
use serde_json::Value;

use crate::{cloud_map_relay::CloudMapRelay, common::eventually};

pub(crate) const GATE: &str = "conditions.appmesh.k8s.aws/aws-cloudmap-healthy";
pub(crate) const FINALIZER: &str = "finalizers.appmesh.k8s.aws/aws-cloudmap-resources";

/// The mesh of every namespace, and the Kubernetes node of all pods.
pub(crate) const MESH: &str = "apiVersion: appmesh.k8s.aws/v1beta2
kind: Mesh
metadata: {name: shop}
spec: {namespaceSelector: {}}
---
apiVersion: v1
kind: Node
metadata:
  name: worker
  labels: {topology.kubernetes.io/region: eu-west-1, topology.kubernetes.io/zone: eu-west-1b}
";

/// Attributes of instances by their ID.
pub(crate) type Instances = BTreeMap<String, BTreeMap<String, String>>;

pub(crate) struct Fixture {
    pub(crate) api: ApiServer,
    pub(crate) moto: Moto,
    /// Relay through which the control plane calls Cloud Map.
    pub(crate) relay: CloudMapRelay,
    /// A client that does not use the relay.
    pub(crate) cloud_map: Client,
}

/// A virtual node whose pods have its name as their label `app`.
pub(crate) fn node(name: &str, namespace: &str, service: &str) -> String {
    format!(
        "apiVersion: appmesh.k8s.aws/v1beta2
kind: VirtualNode
metadata: {{name: {name}, namespace: shop}}
spec:
  podSelector: {{matchLabels: {{app: {name}}}}}
  listeners: [{{portMapping: {{port: 8080, protocol: http}}}}]
  serviceDiscovery:
    awsCloudMap:
      namespaceName: {namespace}
      serviceName: {service}
      attributes: [{{key: version, value: {name}}}]
"
    )
}

/// The attributes with which a pod of a node is registered.
pub(crate) fn attributes(pod: &str, node: &str, ip: &str) -> Vec<(String, String)> {
    let virtual_node = format!("{node}_shop");
    let attributes = [
        ("AVAILABILITY_ZONE", "eu-west-1b"),
        ("AWS_INIT_HEALTH_STATUS", "HEALTHY"),
        ("AWS_INSTANCE_IPV4", ip),
        ("AWS_INSTANCE_PORT", "8080"),
        ("REGION", "eu-west-1"),
        ("app", node),
        ("appmesh.k8s.aws/mesh", "shop"),
        ("appmesh.k8s.aws/virtualNode", &virtual_node),
        ("k8s.io/namespace", "shop"),
        ("k8s.io/pod", pod),
        // Labels that the API server copies from the Kubernetes node.
        ("topology.kubernetes.io/region", "eu-west-1"),
        ("topology.kubernetes.io/zone", "eu-west-1b"),
        ("version", node),
    ];
    let owned = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
    attributes.map(owned).into()
}

/// The endpoints of the node `v1`.
pub(crate) async fn endpoints(control_plane: &ControlPlane) -> String {
    let graph = control_plane.admin().get("/debug/graph").await.unwrap();
    let graph: serde_json::Value = serde_json::from_str(&graph).unwrap();
    let endpoints = graph["endpoints"]["mesh/shop/virtualNode/v1_shop"].as_array();
    let endpoints = endpoints.into_iter().flatten().map(|endpoint| {
        let word = |word: &serde_json::Value| word.as_str().unwrap().to_owned();
        let (address, health) = (word(&endpoint["address"]), word(&endpoint["health"]));
        format!("{address} {health} {}", word(&endpoint["locality"]["zone"]))
    });
    endpoints.collect::<Vec<_>>().join(", ")
}

impl Fixture {
    pub(crate) async fn build() -> Self {
        let api = ApiServer::start().await.unwrap();
        api.install_crds().await.unwrap();
        api.create_namespace("shop").await.unwrap();
        api.apply(MESH).await.unwrap();
        let mut moto = Moto::start().await.unwrap();
        moto.create_http_namespace("shop.local").await.unwrap();
        let config = Config::builder()
            .behavior_version_latest()
            .region(Region::from_static("us-east-1"))
            .credentials_provider(Credentials::new("test", "test", None, None, "test"))
            .endpoint_url(moto.endpoint());
        let cloud_map = Client::from_conf(config.build());
        Self {
            api,
            relay: CloudMapRelay::start(&moto.endpoint()).await,
            moto,
            cloud_map,
        }
    }

    /// Starts the control plane with further flags, and waits until it is ready.
    pub(crate) async fn start(&self, more: &[&str]) -> ControlPlane {
        let mut arguments = vec!["--leader-election-namespace", "shop"];
        arguments.extend(["--cloud-map-endpoint", self.relay.endpoint()]);
        arguments.extend(more);
        let kubeconfig = self.api.kubeconfig();
        let mut control_plane = ControlPlane::start_on_cluster(&kubeconfig, &arguments).unwrap();
        control_plane.ready().await.unwrap();
        control_plane
    }

    pub(crate) async fn start_registering(&self) -> ControlPlane {
        self.start(&["--cloud-map-registration"]).await
    }

    /// Creates a pod with the readiness gate of Cloud Map, and sets its state.
    pub(crate) async fn create_pod(&self, name: &str, node: &str, ip: &str, state: PodState) {
        let pod = format!(
            "apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: shop, labels: {{app: {node}, version: label}}}}
spec:
  nodeName: worker
  readinessGates: [{{conditionType: {GATE}}}]
  containers: [{{name: app, image: app}}]
"
        );
        self.api.apply(&pod).await.unwrap();
        self.set_pod(name, ip, state).await;
    }

    pub(crate) async fn set_pod(&self, name: &str, ip: &str, state: PodState) {
        let ip: IpAddr = ip.parse().unwrap();
        self.api.set_pod("shop", name, ip, state).await.unwrap();
    }

    pub(crate) async fn kubectl(&self, arguments: &[&str]) -> String {
        let arguments = [arguments, &["--namespace", "shop"]].concat();
        self.api.kubectl(&arguments).await.unwrap()
    }

    pub(crate) async fn get(&self, object: &str) -> Value {
        self.api.get(object, "shop").await.unwrap().unwrap()
    }

    /// Whether the object does not exist.
    pub(crate) async fn is_gone(&self, object: &str) -> bool {
        self.api.get(object, "shop").await.unwrap().is_none()
    }

    pub(crate) async fn delete(&self, object: &str) {
        self.kubectl(&["delete", object, "--wait=false"]).await;
    }

    /// Status and reason of a pod's readiness gate, and its message.
    pub(crate) async fn gate(&self, pod: &str) -> (String, String) {
        let pod = self.get(&format!("pod/{pod}")).await;
        let conditions = pod["status"]["conditions"].as_array();
        let mut conditions = conditions.into_iter().flatten();
        let found = conditions.find(|it| it["type"] == GATE);
        let text = |field: &str| {
            let value = found.and_then(|found| found[field].as_str());
            value.unwrap_or_default().to_owned()
        };
        let status = format!("{} {}", text("status"), text("reason"));
        (status, text("message"))
    }

    /// Waits until a pod's readiness gate has this status and reason.
    pub(crate) async fn gate_becomes(&self, pod: &str, wanted: &str) {
        let event = format!("the gate {wanted} of {pod}");
        eventually(&event, async || self.gate(pod).await.0 == wanted).await;
    }

    /// A service of Cloud Map by its name.
    pub(crate) async fn service(&self, name: &str) -> Option<Service> {
        let listed = self.cloud_map.list_services().send().await.unwrap();
        let mut services = listed.services().iter();
        let id = services.find(|it| it.name() == Some(name))?.id()?;
        let answer = self.cloud_map.get_service().id(id).send().await;
        answer.unwrap().service
    }

    pub(crate) async fn instances(&self, service: &str) -> Instances {
        let Some(service) = self.service(service).await else {
            return Instances::new();
        };
        let call = self.cloud_map.list_instances();
        let listed = call.service_id(service.id().unwrap()).send().await.unwrap();
        let mut instances = Instances::new();
        for instance in listed.instances() {
            let attributes = instance.attributes().unwrap().clone().into_iter();
            let id = instance.id().unwrap().to_owned();
            let before = instances.insert(id.clone(), attributes.collect());
            assert_eq!(before, None, "{id} is registered twice");
        }
        instances
    }

    /// Waits until a service has exactly the instances with these IDs.
    pub(crate) async fn instances_become(&self, service: &str, ids: &[&str]) {
        let event = format!("the instances {ids:?} of {service}");
        eventually(&event, async || {
            self.instances(service).await.keys().eq(ids)
        })
        .await;
    }

    /// The health of an instance, by Cloud Map's custom health check.
    pub(crate) async fn health(&self, service: &str, id: &str) -> Option<HealthStatus> {
        let service = self.service(service).await?;
        let call = self.cloud_map.get_instances_health_status();
        let call = call.service_id(service.id()?);
        let answer = call.send().await.unwrap();
        answer.status()?.get(id).cloned()
    }

    /// Number of times that the control plane registered the instance with this ID.
    pub(crate) fn registrations(&self, id: &str) -> usize {
        let calls = self.relay.calls();
        let registrations = calls
            .iter()
            .filter(|call| call.action == "RegisterInstance" && call.body["InstanceId"] == id);
        registrations.count()
    }

    /// Waits until an object is gone.
    pub(crate) async fn until_gone(&self, object: &str) {
        let event = format!("the removal of {object}");
        eventually(&event, async || self.is_gone(object).await).await;
    }

    /// Registers an instance without Evermesh.
    pub(crate) async fn register(&self, service: &str, id: &str, attributes: &[(&str, &str)]) {
        let service = self.service(service).await.unwrap();
        let mut call = self.cloud_map.register_instance();
        call = call.service_id(service.id().unwrap()).instance_id(id);
        for (name, value) in attributes {
            call = call.attributes(*name, *value);
        }
        call.send().await.unwrap();
    }
}
