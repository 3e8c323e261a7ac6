//! An xDS client for both variants of the protocol: its state, and the requests that it sends.

use std::collections::{BTreeMap, BTreeSet};

use evermesh_proto::{
    discovery::{
        DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
    },
    pb::google::rpc,
    resource::ResourceType,
};
use evermesh_xds::XdsVariant;
use prost::Message;

use super::NamedMessage;

pub const VARIANTS: [XdsVariant; 2] = [XdsVariant::Delta, XdsVariant::Sotw];

/// A request in either variant.
pub enum Request {
    Delta(DeltaDiscoveryRequest),
    Sotw(DiscoveryRequest),
}

/// A decoded response in either variant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    pub kind: ResourceType,
    /// Contents by name.
    pub resources: BTreeMap<String, String>,
    /// Versions by name; empty in state of the world.
    pub versions: BTreeMap<String, String>,
    pub removed: Vec<String>,
    pub version: String,
    pub nonce: String,
}

impl Response {
    pub fn names(&self) -> Vec<&str> {
        self.resources.keys().map(String::as_str).collect()
    }
}

impl From<DeltaDiscoveryResponse> for Response {
    fn from(response: DeltaDiscoveryResponse) -> Self {
        let count = response.resources.len();
        let mut resources = BTreeMap::new();
        let mut versions = BTreeMap::new();
        for resource in response.resources {
            let any = resource.resource.unwrap();
            assert_eq!(any.type_url, response.type_url);
            let message = NamedMessage::decode(any.value).unwrap();
            assert_eq!(message.name, resource.name);
            versions.insert(resource.name, resource.version);
            resources.insert(message.name.clone(), message.text());
        }
        assert_eq!(resources.len(), count, "a name occurs twice");
        Self {
            kind: ResourceType::from_type_url(&response.type_url).unwrap(),
            resources,
            versions,
            removed: response.removed_resources,
            version: response.system_version_info,
            nonce: response.nonce,
        }
    }
}

impl From<DiscoveryResponse> for Response {
    fn from(response: DiscoveryResponse) -> Self {
        let count = response.resources.len();
        let resources: BTreeMap<_, _> = response
            .resources
            .into_iter()
            .map(|any| {
                assert_eq!(any.type_url, response.type_url);
                let message = NamedMessage::decode(any.value).unwrap();
                (message.name.clone(), message.text())
            })
            .collect();
        assert_eq!(resources.len(), count, "a name occurs twice");
        Self {
            kind: ResourceType::from_type_url(&response.type_url).unwrap(),
            resources,
            versions: BTreeMap::new(),
            removed: Vec::new(),
            version: response.version_info,
            nonce: response.nonce,
        }
    }
}

/// The state of a client: its subscriptions and the resources that it has accepted.
pub struct ClientState {
    pub variant: XdsVariant,
    names: BTreeMap<ResourceType, BTreeSet<String>>,
    /// Types whose requests never named a resource: a wildcard subscription.
    legacy_wildcards: BTreeSet<ResourceType>,
    nonces: BTreeMap<ResourceType, String>,
    /// The version of the last accepted response by type.
    set_versions: BTreeMap<ResourceType, String>,
    resources: BTreeMap<ResourceType, BTreeMap<String, String>>,
    resource_versions: BTreeMap<ResourceType, BTreeMap<String, String>>,
}

impl ClientState {
    pub fn new(variant: XdsVariant) -> Self {
        Self {
            variant,
            names: BTreeMap::new(),
            legacy_wildcards: BTreeSet::new(),
            nonces: BTreeMap::new(),
            set_versions: BTreeMap::new(),
            resources: BTreeMap::new(),
            resource_versions: BTreeMap::new(),
        }
    }

    /// Forgets the nonces of the previous stream. Returns the first requests of the new stream, by type: the same
    /// subscriptions, and the versions that the client has.
    pub fn reconnect(&mut self) -> Vec<(ResourceType, Request)> {
        self.nonces.clear();
        let mut requests = Vec::new();
        for (kind, names) in &self.names {
            if names.is_empty() && !self.legacy_wildcards.contains(kind) {
                continue;
            }
            let versions = self.resource_versions.get(kind).cloned();
            let request = match self.variant {
                XdsVariant::Delta => Request::Delta(DeltaDiscoveryRequest {
                    resource_names_subscribe: names.iter().cloned().collect(),
                    initial_resource_versions: versions.unwrap_or_default().into_iter().collect(),
                    ..Default::default()
                }),
                XdsVariant::Sotw => Request::Sotw(self.sotw_request(*kind, None)),
            };
            requests.push((*kind, request));
        }
        requests
    }

    /// Subscribes to exactly these names; no name at all in the first request is a wildcard.
    pub fn subscribe_to(&mut self, kind: ResourceType, names: &[&str]) -> Request {
        let names: BTreeSet<_> = names.iter().map(ToString::to_string).collect();
        let before = self.names.insert(kind, names.clone());
        if before.is_none() && names.is_empty() {
            self.legacy_wildcards.insert(kind);
        } else if !names.is_empty() {
            self.legacy_wildcards.remove(&kind);
        }
        // The client drops the resources from which it unsubscribes.
        let is_wildcard = self.is_wildcard(kind);
        let is_kept = |name: &String| is_wildcard || names.contains(name);
        let resources = self.resources.entry(kind).or_default();
        resources.retain(|name, _| is_kept(name));
        let versions = self.resource_versions.entry(kind).or_default();
        versions.retain(|name, _| is_kept(name));
        match self.variant {
            XdsVariant::Delta => {
                let before = before.unwrap_or_default();
                Request::Delta(DeltaDiscoveryRequest {
                    resource_names_subscribe: names.difference(&before).cloned().collect(),
                    resource_names_unsubscribe: before.difference(&names).cloned().collect(),
                    ..Default::default()
                })
            }
            XdsVariant::Sotw => Request::Sotw(self.sotw_request(kind, None)),
        }
    }

    /// Records the nonce of a response. The client answers it later with [`Self::ack`] or [`Self::nack`].
    pub fn receive(&mut self, response: &Response) {
        self.nonces.insert(response.kind, response.nonce.clone());
    }

    /// Applies a response and accepts it.
    pub fn ack(&mut self, response: &Response) -> Request {
        let kind = response.kind;
        let has_complete_sets = self.has_complete_sets(kind);
        // The client ignores the resources from which it has unsubscribed since.
        let is_wildcard = self.is_wildcard(kind);
        let names = self.names.get(&kind).cloned().unwrap_or_default();
        let is_kept = |name: &String| {
            !response.removed.contains(name) && (is_wildcard || names.contains(name))
        };
        let resources = self.resources.entry(kind).or_default();
        if has_complete_sets {
            resources.clear();
        }
        resources.extend(response.resources.clone());
        resources.retain(|name, _| is_kept(name));
        let versions = self.resource_versions.entry(kind).or_default();
        versions.extend(response.versions.clone());
        versions.retain(|name, _| is_kept(name));
        self.set_versions.insert(kind, response.version.clone());
        self.answer(response, None)
    }

    /// Refuses a response.
    pub fn nack(&mut self, response: &Response, message: &str) -> Request {
        self.answer(response, Some(message))
    }

    fn answer(&self, response: &Response, error: Option<&str>) -> Request {
        let error_detail = error.map(|message| rpc::Status {
            message: message.into(),
            ..Default::default()
        });
        match self.variant {
            XdsVariant::Delta => Request::Delta(DeltaDiscoveryRequest {
                response_nonce: response.nonce.clone(),
                error_detail,
                ..Default::default()
            }),
            XdsVariant::Sotw => Request::Sotw(DiscoveryRequest {
                response_nonce: response.nonce.clone(),
                ..self.sotw_request(response.kind, error_detail)
            }),
        }
    }

    fn sotw_request(
        &self,
        kind: ResourceType,
        error_detail: Option<rpc::Status>,
    ) -> DiscoveryRequest {
        let names = self.names.get(&kind).cloned().unwrap_or_default();
        DiscoveryRequest {
            version_info: self.set_versions.get(&kind).cloned().unwrap_or_default(),
            resource_names: names.into_iter().collect(),
            response_nonce: self.nonces.get(&kind).cloned().unwrap_or_default(),
            error_detail,
            ..Default::default()
        }
    }

    /// Contents of the accepted resources of a type by name.
    pub fn resources(&self, kind: ResourceType) -> BTreeMap<String, String> {
        self.resources.get(&kind).cloned().unwrap_or_default()
    }

    /// Whether every response of the type contains the complete set and removes all other resources.
    pub fn has_complete_sets(&self, kind: ResourceType) -> bool {
        self.variant == XdsVariant::Sotw
            && matches!(kind, ResourceType::Cluster | ResourceType::Listener)
    }

    fn is_wildcard(&self, kind: ResourceType) -> bool {
        let names = self.names.get(&kind);
        self.legacy_wildcards.contains(&kind) || names.is_some_and(|names| names.contains("*"))
    }
}
