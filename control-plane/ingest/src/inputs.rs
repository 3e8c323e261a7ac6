//! The inputs of a rebuild: all objects by kind, and the state of the Cloud Map services in use.
//!
//! The engine calls [`Inputs::apply`] for every change of a source and then [`crate::build`]. Objects that are needed by
//! owner (routes by router, slices by Kubernetes Service, pods by namespace) are stored by owner.

use std::{
    collections::BTreeMap,
    iter,
    sync::{Arc, Weak},
};

use evermesh_crds::{extension, v1beta2};
use evermesh_model::{CloudMapService, CloudMapState, FastEq, Kind, ObjectRef};
use k8s_openapi::api::{
    core::v1::{Namespace, Node, Pod, Service},
    discovery::v1::EndpointSlice,
};

use crate::{object::Object, route, secrets::SecretState, slices};

/// The objects of one kind. The pointer stays while no object changes; a rebuild then skips the whole kind.
pub type ObjectMap<T> = Arc<BTreeMap<ObjectRef, Arc<T>>>;

/// The objects of one kind by owner. The pointer stays while no object changes.
pub type ObjectsByOwner<T> = Arc<BTreeMap<ObjectRef, ObjectMap<T>>>;

/// A pointer by which a stage recognises an unchanged [`ObjectsByOwner`]. Being weak, it does not force the next change
/// to copy the map.
pub(crate) type WeakObjectsByOwner<T> = Weak<BTreeMap<ObjectRef, ObjectMap<T>>>;

/// All inputs of a rebuild.
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
    /// `Route`, by virtual router
    pub routes: OwnedObjects<extension::Route>,
    /// `Namespace`
    pub namespaces: ObjectMap<Namespace>,
    /// `Service`
    pub services: ObjectMap<Service>,
    /// `EndpointSlice`, by Kubernetes Service. Slices with the address type `FQDN` or without a Service are ignored.
    pub endpoint_slices: OwnedObjects<EndpointSlice>,
    /// `Pod`, by namespace
    pub pods: OwnedObjects<Pod>,
    /// `Node`
    pub nodes: ObjectMap<Node>,
    /// `Secret`
    pub secrets: ObjectMap<SecretState>,
    /// The state of the Cloud Map services that nodes use.
    pub cloud_map: BTreeMap<CloudMapService, Arc<CloudMapState>>,
    /// The settings of the control plane.
    pub settings: IngestSettings,
}

/// Settings of the control plane that apply to all meshes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IngestSettings {
    /// Whether endpoints come from the Kubernetes cluster where possible: for DNS names of Kubernetes Services, from
    /// their `EndpointSlice`s instead of DNS; for a node's own pods, from the pods instead of Cloud Map.
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

/// The objects of one kind, stored by owner.
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
    /// The objects of all owners. Owners without objects have no entry.
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

    /// The namespaces of the objects, in ascending order.
    pub(crate) fn namespaces(&self) -> impl Iterator<Item = &Arc<str>> {
        namespaces(&self.owners)
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

    fn get(&self, object: &ObjectRef) -> Option<Arc<T>> {
        let owner = self.owners.get(object)?;
        self.by_owner.get(owner)?.get(object).cloned()
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
    /// Stores the object, or removes it if `value` is `None`. Returns whether the inputs changed: storing an equal object
    /// or removing an unknown one changes nothing.
    pub fn apply(&mut self, object: ObjectRef, value: Option<Object>) -> bool {
        match value {
            Some(value) => self.put(object, value),
            None => self.remove(object),
        }
    }

    /// The version of the object that is stored; `None` without one, and for Secrets, of which only a digested form is
    /// stored.
    pub fn get(&self, object: &ObjectRef) -> Option<Object> {
        Some(match object.kind {
            Kind::Mesh => Object::Mesh(stored(&self.meshes, object)?),
            Kind::VirtualNode => Object::VirtualNode(stored(&self.virtual_nodes, object)?),
            Kind::VirtualService => Object::VirtualService(stored(&self.virtual_services, object)?),
            Kind::VirtualRouter => Object::VirtualRouter(stored(&self.virtual_routers, object)?),
            Kind::VirtualGateway => Object::VirtualGateway(stored(&self.virtual_gateways, object)?),
            Kind::GatewayRoute => Object::GatewayRoute(stored(&self.gateway_routes, object)?),
            Kind::BackendGroup => Object::BackendGroup(stored(&self.backend_groups, object)?),
            Kind::Route => Object::Route(self.routes.get(object)?),
            Kind::Namespace => Object::Namespace(stored(&self.namespaces, object)?),
            Kind::Service => Object::Service(stored(&self.services, object)?),
            Kind::EndpointSlice => Object::EndpointSlice(self.endpoint_slices.get(object)?),
            Kind::Pod => Object::Pod(self.pods.get(object)?),
            Kind::Node => Object::Node(stored(&self.nodes, object)?),
            Kind::Secret => return None,
        })
    }

    /// Stores the state of a Cloud Map service, or removes it (`None`) when no node uses the service any longer.
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
            Object::Secret(value) => {
                let last = self.secrets.get(&object).map(|last| &**last);
                let state = SecretState::after(last, &value);
                put(&mut self.secrets, object, Arc::new(state))
            }
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
            Kind::Secret => remove(&mut self.secrets, &object),
        }
    }
}

/// The namespaces of objects of one kind, in ascending order.
pub(crate) fn namespaces<T>(objects: &BTreeMap<ObjectRef, T>) -> impl Iterator<Item = &Arc<str>> {
    let mut next = objects.keys().next();
    iter::from_fn(move || {
        let object = next?;
        // No namespace sorts between this one and its name with a NUL.
        let end = format!("{}\0", object.namespace);
        let end = ObjectRef::new(object.kind, end, "");
        next = objects.range(end..).next().map(|(object, _)| object);
        Some(&object.namespace)
    })
}

/// Reference to the `Namespace` with this name.
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

fn stored<T>(objects: &ObjectMap<T>, object: &ObjectRef) -> Option<Arc<T>> {
    objects.get(object).cloned()
}

fn remove<T>(objects: &mut ObjectMap<T>, object: &ObjectRef) -> bool {
    objects.contains_key(object) && Arc::make_mut(objects).remove(object).is_some()
}

#[cfg(test)]
mod tests;
