//! A client of the machine without I/O, the same for both flavours.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use evermesh_proto::{
    discovery::{DeltaDiscoveryRequest, DiscoveryRequest},
    pb::google::rpc,
    resource::{Resource, ResourceType},
};
use evermesh_xds::{
    Connection, DeliveryOutcome, Delta, DiscoveryProtocol, ResourceStatus, Sotw, Store, XdsVariant,
};
use prost::Message;

use super::Named;

pub const VARIANTS: [XdsVariant; 2] = [XdsVariant::Delta, XdsVariant::Sotw];

/// A response, understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    pub kind: ResourceType,
    /// Names and contents.
    pub resources: BTreeMap<String, String>,
    /// The versions that come with them, in delta.
    pub versions: BTreeMap<String, String>,
    pub removed: Vec<String>,
    pub version: String,
    pub nonce: String,
}

impl Said {
    pub fn names(&self) -> Vec<&str> {
        self.resources.keys().map(String::as_str).collect()
    }
}

/// A client that can be scripted.
pub struct Peer {
    pub connection: Connection,
    variant: XdsVariant,
    names: BTreeMap<ResourceType, BTreeSet<String>>,
    /// Types it never named anything of.
    legacy: BTreeSet<ResourceType>,
    nonces: BTreeMap<ResourceType, String>,
    has: BTreeMap<ResourceType, BTreeMap<String, String>>,
    versions: BTreeMap<ResourceType, BTreeMap<String, String>>,
}

impl Peer {
    pub fn new(store: &Arc<Store>, variant: XdsVariant) -> Self {
        Self {
            connection: Connection::new(store, "node".into(), variant),
            variant,
            names: BTreeMap::new(),
            legacy: BTreeSet::new(),
            nonces: BTreeMap::new(),
            has: BTreeMap::new(),
            versions: BTreeMap::new(),
        }
    }

    /// The same client on a new stream: it asks for what it asked for, and says what it has.
    pub fn reconnect(&mut self, store: &Arc<Store>) {
        self.connection = Connection::new(store, "node".into(), self.variant);
        self.nonces.clear();
        for (kind, names) in self.names.clone() {
            if names.is_empty() && !self.legacy.contains(&kind) {
                continue;
            }
            match self.variant {
                XdsVariant::Delta => {
                    let request = DeltaDiscoveryRequest {
                        resource_names_subscribe: names.into_iter().collect(),
                        initial_resource_versions: self.versions.entry(kind).or_default().clone(),
                        ..Default::default()
                    };
                    self.delta(kind, request);
                }
                XdsVariant::Sotw => self.sotw(kind, DiscoveryRequest::default()),
            }
        }
    }

    pub fn delta(&mut self, kind: ResourceType, request: DeltaDiscoveryRequest) {
        Delta::on_request(&mut self.connection, kind, request);
    }

    /// Sends the names as they are, over those of the request.
    pub fn sotw(&mut self, kind: ResourceType, request: DiscoveryRequest) {
        let request = DiscoveryRequest {
            resource_names: self
                .names
                .entry(kind)
                .or_default()
                .iter()
                .cloned()
                .collect(),
            ..request
        };
        Sotw::on_request(&mut self.connection, kind, request);
    }

    /// Subscribes to exactly these names.
    pub fn want(&mut self, kind: ResourceType, names: &[&str]) {
        let names: BTreeSet<_> = names.iter().map(ToString::to_string).collect();
        let before = self.names.insert(kind, names.clone());
        if before.is_none() && names.is_empty() {
            self.legacy.insert(kind);
        } else if !names.is_empty() {
            self.legacy.remove(&kind);
        }
        let before = before.unwrap_or_default();
        match self.variant {
            XdsVariant::Delta => {
                let request = DeltaDiscoveryRequest {
                    resource_names_subscribe: names.difference(&before).cloned().collect(),
                    resource_names_unsubscribe: before.difference(&names).cloned().collect(),
                    ..Default::default()
                };
                self.delta(kind, request);
            }
            XdsVariant::Sotw => {
                let response_nonce = self.nonces.get(&kind).cloned().unwrap_or_default();
                let request = DiscoveryRequest {
                    response_nonce,
                    ..Default::default()
                };
                self.sotw(kind, request);
            }
        }
        // A client drops what it does not subscribe to any more.
        if !names.contains("*") && !self.legacy.contains(&kind) {
            self.has
                .entry(kind)
                .or_default()
                .retain(|name, _| names.contains(name));
            self.versions
                .entry(kind)
                .or_default()
                .retain(|name, _| names.contains(name));
        }
    }

    /// The next response, not answered yet.
    pub fn hear(&mut self) -> Option<Said> {
        let said = match self.variant {
            XdsVariant::Delta => {
                let response = Delta::next_response(&mut self.connection)?;
                let versions = response.resources.iter();
                let versions =
                    versions.map(|resource| (resource.name.clone(), resource.version.clone()));
                Said {
                    versions: versions.collect(),
                    kind: ResourceType::from_type_url(&response.type_url).unwrap(),
                    resources: response
                        .resources
                        .iter()
                        .map(|resource| decode(&resource.resource.as_ref().unwrap().value))
                        .collect(),
                    removed: response.removed_resources,
                    version: response.system_version_info,
                    nonce: response.nonce,
                }
            }
            XdsVariant::Sotw => {
                let response = Sotw::next_response(&mut self.connection)?;
                Said {
                    versions: BTreeMap::new(),
                    kind: ResourceType::from_type_url(&response.type_url).unwrap(),
                    resources: response
                        .resources
                        .iter()
                        .map(|any| decode(&any.value))
                        .collect(),
                    removed: Vec::new(),
                    version: response.version_info,
                    nonce: response.nonce,
                }
            }
        };
        self.nonces.insert(said.kind, said.nonce.clone());
        Some(said)
    }

    fn answer(&mut self, said: &Said, error: Option<&str>) {
        let error_detail = error.map(|message| rpc::Status {
            message: message.into(),
            ..Default::default()
        });
        let response_nonce = said.nonce.clone();
        match self.variant {
            XdsVariant::Delta => self.delta(
                said.kind,
                DeltaDiscoveryRequest {
                    response_nonce,
                    error_detail,
                    ..Default::default()
                },
            ),
            XdsVariant::Sotw => self.sotw(
                said.kind,
                DiscoveryRequest {
                    response_nonce,
                    error_detail,
                    ..Default::default()
                },
            ),
        }
    }

    /// Accepts a response.
    pub fn ack(&mut self, said: &Said) {
        let has = self.has.entry(said.kind).or_default();
        let whole = matches!(said.kind, ResourceType::Cluster | ResourceType::Listener);
        if self.variant == XdsVariant::Sotw && whole {
            has.clear();
        }
        has.extend(said.resources.clone());
        // What it has unsubscribed meanwhile it ignores.
        let names = self.names.get(&said.kind).cloned().unwrap_or_default();
        let all = self.legacy.contains(&said.kind) || names.contains("*");
        let keeps = |name: &String| !said.removed.contains(name) && (all || names.contains(name));
        has.retain(|name, _| keeps(name));
        let versions = self.versions.entry(said.kind).or_default();
        versions.extend(said.versions.clone());
        versions.retain(|name, _| keeps(name));
        self.answer(said, None);
    }

    /// Refuses a response.
    pub fn nack(&mut self, said: &Said, error: &str) {
        self.answer(said, Some(error));
    }

    /// The next response, accepted; there must be one.
    pub fn next(&mut self) -> Said {
        let said = self.hear().expect("a response");
        self.ack(&said);
        said
    }

    /// Accepts responses until there is silence; returns their types and names.
    pub fn settle(&mut self) -> Vec<(ResourceType, Vec<String>)> {
        let mut heard = Vec::new();
        while let Some(said) = self.hear() {
            self.ack(&said);
            heard.push((said.kind, said.resources.into_keys().collect()));
            assert!(heard.len() < 1000, "it never ends");
        }
        heard
    }

    pub fn assert_silent(&mut self) {
        assert_eq!(self.hear(), None);
    }

    /// What it has of a type: names and contents.
    pub fn has(&self, kind: ResourceType) -> BTreeMap<String, String> {
        self.has.get(&kind).cloned().unwrap_or_default()
    }

    pub fn reports(&mut self) -> Vec<(Arc<Resource>, DeliveryOutcome)> {
        self.connection.take_outcomes()
    }

    pub fn status(&self, kind: ResourceType, name: &str) -> ResourceStatus {
        let statuses = self.connection.resources();
        let found = statuses
            .into_iter()
            .find(|status| (status.kind, status.name.as_ref()) == (kind, name));
        found.unwrap()
    }
}

fn decode(bytes: &[u8]) -> (String, String) {
    let named = Named::decode(bytes).unwrap();
    (named.name, named.content)
}
