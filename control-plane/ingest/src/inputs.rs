//! Everything the sources know: the objects by kind, and what Cloud Map answered.
//!
//! The engine is the only writer: one [`Inputs::apply`] a change. [`crate::build`] reads.
//!
//! Must not interpret objects beyond finding an owner to sort them by.

use std::{
    collections::BTreeMap,
    sync::{Arc, Weak},
};

use evermesh_crds::{extension, v1beta2};
use evermesh_model::{CloudMapService, CloudMapState, FastEq, Kind, ObjectRef};
use k8s_openapi::api::{
    core::v1::{Namespace, Node, Pod, Service},
    discovery::v1::EndpointSlice,
};

use crate::{object::Object, route, slices};

/// Objects of one kind. While none of them changes, the pointer stays, and a turn does not even walk them.
pub type ObjectMap<T> = Arc<BTreeMap<ObjectRef, Arc<T>>>;

/// Objects of one kind by the object they belong to; the pointer stays while none of them changes.
pub type ObjectsByOwner<T> = Arc<BTreeMap<ObjectRef, ObjectMap<T>>>;

/// By this a stage knows [`ObjectsByOwner`] again, without making the next change copy it.
pub(crate) type WeakObjectsByOwner<T> = Weak<BTreeMap<ObjectRef, ObjectMap<T>>>;

/// Everything that a graph is built from.
#[derive(Debug, Default)]
pub struct Inputs {
    /// `Mesh`
    pub meshes: ObjectMap<v1beta2::Mesh>,
    /// `VirtualNode`
    pub virtual_nodes: ObjectMap<v1beta2::VirtualNode>,
    /// `VirtualService`
    pub virtual_services: ObjectMap<v1beta2::VirtualService>,
    /// `VirtualRouter`
    pub virtual_routers: ObjectMap<v1beta2::VirtualRouter>,
    /// `VirtualGateway`
    pub virtual_gateways: ObjectMap<v1beta2::VirtualGateway>,
    /// `GatewayRoute`
    pub gateway_routes: ObjectMap<v1beta2::GatewayRoute>,
    /// `BackendGroup`
    pub backend_groups: ObjectMap<v1beta2::BackendGroup>,
    /// `Route`, by the virtual router they belong to
    pub routes: OwnedObjects<extension::Route>,
    /// `Namespace`
    pub namespaces: ObjectMap<Namespace>,
    /// `Service`
    pub services: ObjectMap<Service>,
    /// `EndpointSlice` of addresses, by the Service they belong to; others are left out
    pub endpoint_slices: OwnedObjects<EndpointSlice>,
    /// `Pod`, by namespace
    pub pods: OwnedObjects<Pod>,
    /// `Node`
    pub nodes: ObjectMap<Node>,
    /// What Cloud Map said of the services that nodes use.
    pub cloud_map: BTreeMap<CloudMapService, Arc<CloudMapState>>,
    /// What the operator chose.
    pub settings: IngestSettings,
}

/// What the operator chose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IngestSettings {
    /// Whether a DNS name that means a Service of this cluster is served from its `EndpointSlice`s instead of being
    /// resolved by Envoy, and the pods of a node that is found in Cloud Map as the cluster knows them.
    pub endpoint_slices: bool,
}

impl Default for IngestSettings {
    fn default() -> Self {
        Self {
            endpoint_slices: true,
        }
    }
}

impl FastEq for IngestSettings {
    fn fast_eq(&self, other: &Self) -> bool {
        self == other
    }
}

/// Objects of one kind, sorted by the object they belong to.
#[derive(Debug)]
pub struct OwnedObjects<T> {
    by_owner: ObjectsByOwner<T>,
    owners: BTreeMap<ObjectRef, ObjectRef>,
}

impl<T> Default for OwnedObjects<T> {
    fn default() -> Self {
        Self {
            by_owner: Arc::default(),
            owners: BTreeMap::new(),
        }
    }
}

impl<T> OwnedObjects<T> {
    /// The objects of every owner that has any.
    pub const fn by_owner(&self) -> &ObjectsByOwner<T> {
        &self.by_owner
    }

    /// The objects of one owner.
    pub fn of(&self, owner: &ObjectRef) -> impl Iterator<Item = &Arc<T>> + Clone {
        self.by_owner
            .get(owner)
            .into_iter()
            .flat_map(|objects| objects.values())
    }

    fn apply(&mut self, object: ObjectRef, value: Option<(ObjectRef, Arc<T>)>) -> bool
    where
        T: PartialEq,
    {
        let last = self
            .owners
            .get(&object)
            .and_then(|owner| Some((owner, self.by_owner.get(owner)?.get(&object)?)));
        match (last, &value) {
            (None, None) => return false,
            (Some((last_owner, last)), Some((owner, value)))
                if last_owner == owner && last == value =>
            {
                return false;
            }
            _ => self.remove(&object),
        }
        if let Some((owner, value)) = value {
            self.owners.insert(object.clone(), owner.clone());
            let siblings = Arc::make_mut(&mut self.by_owner).entry(owner).or_default();
            Arc::make_mut(siblings).insert(object, value);
        }
        true
    }

    fn remove(&mut self, object: &ObjectRef) {
        let Some(owner) = self.owners.remove(object) else {
            return;
        };
        let by_owner = Arc::make_mut(&mut self.by_owner);
        if let Some(siblings) = by_owner.get_mut(&owner) {
            Arc::make_mut(siblings).remove(object);
            if siblings.is_empty() {
                by_owner.remove(&owner);
            }
        }
    }
}

impl Inputs {
    /// An object came or changed, or went (`None`). Returns whether that makes any difference: an object
    /// that was not there cannot go, and one that is equal to the last one did not change.
    pub fn apply(&mut self, object: ObjectRef, value: Option<Object>) -> bool {
        match value {
            Some(value) => self.put(object, value),
            None => self.remove(object),
        }
    }

    /// What Cloud Map last said of a service; `None` when no node uses it any more.
    pub fn set_cloud_map(&mut self, service: CloudMapService, state: Option<Arc<CloudMapState>>) {
        match state {
            Some(state) => self.cloud_map.insert(service, state),
            None => self.cloud_map.remove(&service),
        };
    }

    fn put(&mut self, object: ObjectRef, value: Object) -> bool {
        match value {
            Object::Mesh(value) => put(&mut self.meshes, object, value),
            Object::VirtualNode(value) => put(&mut self.virtual_nodes, object, value),
            Object::VirtualService(value) => put(&mut self.virtual_services, object, value),
            Object::VirtualRouter(value) => put(&mut self.virtual_routers, object, value),
            Object::VirtualGateway(value) => put(&mut self.virtual_gateways, object, value),
            Object::GatewayRoute(value) => put(&mut self.gateway_routes, object, value),
            Object::BackendGroup(value) => put(&mut self.backend_groups, object, value),
            Object::Route(value) => {
                let router = route::router(&object, &value);
                self.routes.apply(object, Some((router, value)))
            }
            Object::Namespace(value) => put(&mut self.namespaces, object, value),
            Object::Service(value) => put(&mut self.services, object, value),
            Object::EndpointSlice(value) => {
                let owned = slices::owner(&value).map(|owner| (owner, value));
                self.endpoint_slices.apply(object, owned)
            }
            Object::Pod(value) => {
                let namespace = namespace(&object.namespace);
                self.pods.apply(object, Some((namespace, value)))
            }
            Object::Node(value) => put(&mut self.nodes, object, value),
        }
    }

    fn remove(&mut self, object: ObjectRef) -> bool {
        match object.kind {
            Kind::Mesh => remove(&mut self.meshes, &object),
            Kind::VirtualNode => remove(&mut self.virtual_nodes, &object),
            Kind::VirtualService => remove(&mut self.virtual_services, &object),
            Kind::VirtualRouter => remove(&mut self.virtual_routers, &object),
            Kind::VirtualGateway => remove(&mut self.virtual_gateways, &object),
            Kind::GatewayRoute => remove(&mut self.gateway_routes, &object),
            Kind::BackendGroup => remove(&mut self.backend_groups, &object),
            Kind::Route => self.routes.apply(object, None),
            Kind::Namespace => remove(&mut self.namespaces, &object),
            Kind::Service => remove(&mut self.services, &object),
            Kind::EndpointSlice => self.endpoint_slices.apply(object, None),
            Kind::Pod => self.pods.apply(object, None),
            Kind::Node => remove(&mut self.nodes, &object),
        }
    }
}

/// The namespace of this name.
pub(crate) fn namespace(name: &Arc<str>) -> ObjectRef {
    ObjectRef::new(Kind::Namespace, "", Arc::clone(name))
}

fn put<T: PartialEq>(objects: &mut ObjectMap<T>, object: ObjectRef, value: Arc<T>) -> bool {
    if objects.get(&object) == Some(&value) {
        return false;
    }
    Arc::make_mut(objects).insert(object, value);
    true
}

fn remove<T>(objects: &mut ObjectMap<T>, object: &ObjectRef) -> bool {
    objects.contains_key(object) && Arc::make_mut(objects).remove(object).is_some()
}
