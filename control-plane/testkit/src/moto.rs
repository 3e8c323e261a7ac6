//! AWS Cloud Map on loopback, served by moto.
//!
//! moto differs from AWS in two ways that matter to tests:
//!
//! - The revision of a service is a sum over the instances that are registered now. It can fall, and it can stay equal
//!   when one instance replaces another.
//! - Registering an instance ID twice lists the instance twice.
//!
//! moto keeps its state in memory. [`Moto`] remembers what a test registered and registers it again after a restart.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    hosts::LabHost,
    http::Address,
    port::reserve_addresses,
    process::{self, Process},
    tools,
};

/// Limit for the start of the server; Python needs a few seconds on a busy machine.
const START: Duration = Duration::from_mins(1);

/// Port of moto on a lab host.
const PORT: u16 = 5000;

/// A signature as AWS clients send it; moto reads only the service name in its scope.
const AUTHORIZATION: &str = "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/servicediscovery/aws4_request, \
                             SignedHeaders=host, Signature=none";

/// Attributes of each instance, by instance ID.
type Instances = BTreeMap<String, BTreeMap<String, String>>;

/// A running moto server.
#[derive(Debug)]
pub struct Moto {
    /// The lab host that runs the server, or `None` for this machine.
    host: Option<LabHost>,
    listen: SocketAddr,
    address: Address,
    dir: TempDir,
    process: Option<Process>,
    /// Registered instances, by namespace and service.
    registry: BTreeMap<String, BTreeMap<String, Instances>>,
}

impl Moto {
    /// Starts a server on a reserved loopback port.
    pub async fn start() -> Result<Self> {
        let [listen] = reserve_addresses()?;
        Self::launch(None, listen, Address::Tcp(listen)).await
    }

    /// Starts a server on the loopback of a lab host.
    pub async fn start_on(host: &LabHost) -> Result<Self> {
        Self::launch(
            Some(host.clone()),
            (Ipv4Addr::LOCALHOST, PORT).into(),
            host.loopback(PORT),
        )
        .await
    }

    async fn launch(host: Option<LabHost>, listen: SocketAddr, address: Address) -> Result<Self> {
        let dir = tools::scratch("moto")?;
        let mut moto = Self {
            host,
            listen,
            address,
            dir,
            process: None,
            registry: BTreeMap::new(),
        };
        moto.run().await?;
        Ok(moto)
    }

    async fn run(&mut self) -> Result<()> {
        let program = tools::installed("moto/bin/moto_server")?;
        let mut server = match &self.host {
            Some(host) => host.command(program),
            None => process::command(program),
        };
        let (ip, port) = (self.listen.ip().to_string(), self.listen.port().to_string());
        server.args(["--host", &ip, "--port", &port]);
        let mut process = Process::spawn("moto", server, &self.dir.path().join("moto.log"))?;
        let address = self.address.clone();
        process
            .wait_until("ready", START, async || {
                address.get("/moto-api/data.json").await.is_ok()
            })
            .await?;
        self.process = Some(process);
        Ok(())
    }

    /// The endpoint URL for AWS clients.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.listen)
    }

    /// Stops the server; connections are refused until [`Self::restart`].
    pub fn stop(&mut self) {
        self.process = None;
    }

    /// Starts the server again on the same port and registers everything again.
    pub async fn restart(&mut self) -> Result<()> {
        self.stop();
        self.run().await?;
        for (namespace, services) in std::mem::take(&mut self.registry) {
            self.create_http_namespace(&namespace).await?;
            for (service, instances) in services {
                self.create_service(&namespace, &service).await?;
                for (id, attributes) in instances {
                    self.register_attributes(&namespace, &service, &id, attributes)
                        .await?;
                }
            }
        }
        Ok(())
    }

    /// Creates an HTTP namespace: its services are found by API calls only, not by DNS.
    pub async fn create_http_namespace(&mut self, name: &str) -> Result<()> {
        self.call("CreateHttpNamespace", &json!({"Name": name}))
            .await?;
        self.registry.entry(name.to_owned()).or_default();
        Ok(())
    }

    pub async fn create_service(&mut self, namespace: &str, name: &str) -> Result<()> {
        let namespace_id = self.namespace_id(namespace).await?;
        self.call(
            "CreateService",
            &json!({"Name": name, "NamespaceId": namespace_id}),
        )
        .await?;
        self.registry
            .entry(namespace.to_owned())
            .or_default()
            .entry(name.to_owned())
            .or_default();
        Ok(())
    }

    /// Registers an instance with its IPv4 address and more attributes.
    pub async fn register(
        &mut self,
        namespace: &str,
        service: &str,
        id: &str,
        ip: Ipv4Addr,
        attributes: &[(&str, &str)],
    ) -> Result<()> {
        let mut attributes: BTreeMap<_, _> = attributes
            .iter()
            .map(|&(key, value)| (key.to_owned(), value.to_owned()))
            .collect();
        attributes.insert("AWS_INSTANCE_IPV4".to_owned(), ip.to_string());
        self.register_attributes(namespace, service, id, attributes)
            .await
    }

    /// Registers an instance with exactly these attributes.
    pub async fn register_attributes(
        &mut self,
        namespace: &str,
        service: &str,
        id: &str,
        attributes: BTreeMap<String, String>,
    ) -> Result<()> {
        let service_id = self.service_id(namespace, service).await?;
        let body = json!({"ServiceId": service_id, "InstanceId": id, "Attributes": attributes});
        self.call("RegisterInstance", &body).await?;
        self.instances(namespace, service)
            .insert(id.to_owned(), attributes);
        Ok(())
    }

    pub async fn deregister(&mut self, namespace: &str, service: &str, id: &str) -> Result<()> {
        let service_id = self.service_id(namespace, service).await?;
        self.call(
            "DeregisterInstance",
            &json!({"ServiceId": service_id, "InstanceId": id}),
        )
        .await?;
        self.instances(namespace, service).remove(id);
        Ok(())
    }

    /// IDs of the instances that `DiscoverInstances` returns.
    pub async fn discover(&self, namespace: &str, service: &str) -> Result<Vec<String>> {
        let body = json!({"NamespaceName": namespace, "ServiceName": service});
        let found = self.call("DiscoverInstances", &body).await?;
        let instances = found["Instances"]
            .as_array()
            .context("the response of DiscoverInstances has no Instances")?;
        Ok(instances
            .iter()
            .filter_map(|instance| Some(instance["InstanceId"].as_str()?.to_owned()))
            .collect())
    }

    fn instances(&mut self, namespace: &str, service: &str) -> &mut Instances {
        self.registry
            .entry(namespace.to_owned())
            .or_default()
            .entry(service.to_owned())
            .or_default()
    }

    async fn namespace_id(&self, name: &str) -> Result<String> {
        let listed = self.call("ListNamespaces", &json!({})).await?;
        find_id(&listed["Namespaces"], |namespace| namespace["Name"] == name)
            .with_context(|| format!("namespace `{name}` does not exist"))
    }

    async fn service_id(&self, namespace: &str, name: &str) -> Result<String> {
        let namespace_id = self.namespace_id(namespace).await?;
        let filters = json!({"Filters": [{"Name": "NAMESPACE_ID", "Values": [namespace_id], "Condition": "EQ"}]});
        let listed = self.call("ListServices", &filters).await?;
        find_id(&listed["Services"], |service| service["Name"] == name)
            .with_context(|| format!("service `{name}` does not exist in namespace `{namespace}`"))
    }

    /// Calls one action of Cloud Map's API.
    async fn call(&self, action: &str, body: &Value) -> Result<Value> {
        let request = Request::post("/")
            .header("host", self.listen.to_string())
            .header("authorization", AUTHORIZATION)
            .header("content-type", "application/x-amz-json-1.1")
            .header(
                "x-amz-target",
                format!("Route53AutoNaming_v20170314.{action}"),
            )
            .body(Full::new(Bytes::from(body.to_string())))?;
        let response = self.address.send(request).await?;
        if !response.status.is_success() {
            bail!("{action} {body}: {} {}", response.status, response.body);
        }
        Ok(serde_json::from_str(&response.body)?)
    }
}

fn find_id(listed: &Value, is_wanted: impl Fn(&Value) -> bool) -> Option<String> {
    let found = listed.as_array()?.iter().find(|entry| is_wanted(entry))?;
    Some(found["Id"].as_str()?.to_owned())
}
