//! What the graph says of each object for its status: its ARN, the ARNs of its routes, its weights.
//!
//! Kept from turn to turn: of a new graph only the entries are read that the last one did not have.
//!
//! Must not know what proxies made of it.

use std::{
    collections::{BTreeMap, btree_map::Iter},
    iter::Peekable,
    sync::Arc,
};

use evermesh_model::{Graph, Kind, ObjectRef, ResolvedRoute, ResolvedRouter, RouteRule, SharedMap};

/// What a status says of one object beside its conditions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct GraphFields {
    /// Its ARN in App Mesh's form; a `Route`, which App Mesh did not have, has none.
    pub(super) arn: Option<String>,
    /// Route name to ARN: those written in a router itself.
    pub(super) route_arns: BTreeMap<String, String>,
    /// The weights of a `Route`, as in `blue=90,green=10`; those of a router's own routes, each with its name.
    pub(super) weights: Option<String>,
}

/// The facets of every object in a graph.
pub(super) struct GraphFieldIndex {
    region: String,
    account: String,
    graph: Arc<Graph>,
    facets: BTreeMap<ObjectRef, GraphFields>,
}

type Entries = Vec<(ObjectRef, GraphFields)>;

impl GraphFieldIndex {
    /// With the region and the account in ARNs.
    pub(super) fn new(region: String, account: String) -> Self {
        Self {
            region,
            account,
            graph: Arc::default(),
            facets: BTreeMap::new(),
        }
    }

    pub(super) fn of(&self, object: &ObjectRef) -> GraphFields {
        self.facets.get(object).cloned().unwrap_or_default()
    }

    pub(super) fn follow(&mut self, graph: &Arc<Graph>) {
        if Arc::ptr_eq(&self.graph, graph) {
            return;
        }
        let last = std::mem::replace(&mut self.graph, Arc::clone(graph));
        let (mut gone, mut come) = (Vec::new(), Vec::new());
        let both = (&mut gone, &mut come);
        compare(&last.meshes, &graph.meshes, both, |mesh| {
            let facets = self.arn(&format!("mesh/{}", mesh.name));
            vec![(mesh.object.clone(), facets)]
        });
        let both = (&mut gone, &mut come);
        compare(&last.nodes, &graph.nodes, both, |node| {
            vec![(node.object.clone(), self.arn(&node.name.to_string()))]
        });
        let both = (&mut gone, &mut come);
        compare(&last.services, &graph.services, both, |service| {
            let path = format!(
                "mesh/{}/virtualService/{}",
                service.name.mesh, service.name.hostname
            );
            vec![(service.object.clone(), self.arn(&path))]
        });
        let both = (&mut gone, &mut come);
        compare(&last.routers, &graph.routers, both, |router| {
            self.router(graph, router)
        });
        let both = (&mut gone, &mut come);
        compare(&last.gateways, &graph.gateways, both, |gateway| {
            let of_gateway = (gateway.object.clone(), self.arn(&gateway.name.to_string()));
            let routes = gateway.routes.iter().map(|route| {
                let path = format!("{}/gatewayRoute/{}", gateway.name, route.name);
                (route.object.clone(), self.arn(&path))
            });
            std::iter::once(of_gateway).chain(routes).collect()
        });
        // An object may go from one entry to another.
        for (object, _) in gone {
            self.facets.remove(&object);
        }
        self.facets.extend(come);
    }

    fn arn(&self, path: &str) -> GraphFields {
        let Self {
            region, account, ..
        } = self;
        GraphFields {
            arn: Some(format!("arn:aws:appmesh:{region}:{account}:{path}")),
            ..GraphFields::default()
        }
    }

    fn router(&self, graph: &Graph, router: &ResolvedRouter) -> Entries {
        let mut own = self.arn(&router.name.to_string());
        let mut entries = Vec::new();
        let mut weights = Vec::new();
        for route in &router.routes {
            let of_route = weights_of(graph, &router.object, route);
            if route.object.kind == Kind::Route {
                let facets = GraphFields {
                    weights: Some(of_route),
                    ..GraphFields::default()
                };
                entries.push((route.object.clone(), facets));
                continue;
            }
            let router_arn = own.arn.as_deref().unwrap_or_default();
            let arn = format!("{router_arn}/route/{}", route.name);
            own.route_arns.insert(route.name.to_string(), arn);
            weights.push(format!("{}: {of_route}", route.name));
        }
        own.weights = (!weights.is_empty()).then(|| weights.join("; "));
        entries.push((router.object.clone(), own));
        entries
    }
}

/// `blue=90,green=10`: by the names of the nodes' objects, with the namespace where it is another one.
fn weights_of(graph: &Graph, router: &ObjectRef, route: &ResolvedRoute) -> String {
    let targets = match &route.rule {
        RouteRule::Http(rule) => &rule.targets,
        RouteRule::Tcp(rule) => &rule.targets,
    };
    let targets = targets.iter().map(|target| {
        let weight = target.weight;
        match graph.nodes.get(&target.node).map(|node| &node.object) {
            Some(node) if node.namespace == router.namespace => format!("{}={weight}", node.name),
            Some(node) => format!("{}/{}={weight}", node.namespace, node.name),
            None => format!("{}={weight}", target.node),
        }
    });
    targets.collect::<Vec<_>>().join(",")
}

/// What the entries that one of the maps has and the other has not say.
fn compare<K: Ord, V>(
    last: &SharedMap<K, V>,
    now: &SharedMap<K, V>,
    (gone, come): (&mut Entries, &mut Entries),
    read: impl Fn(&V) -> Entries,
) {
    if Arc::ptr_eq(last, now) {
        return;
    }
    let (mut last, mut now) = (last.iter().peekable(), now.iter().peekable());
    while let Some((before, after)) = next(&mut last, &mut now) {
        if let (Some(before), Some(after)) = (before, after)
            && Arc::ptr_eq(before, after)
        {
            continue;
        }
        gone.extend(before.into_iter().flat_map(|value| read(value)));
        come.extend(after.into_iter().flat_map(|value| read(value)));
    }
}

type Entry<'a, K, V> = Peekable<Iter<'a, K, Arc<V>>>;
/// The value in each of the two maps.
type Pair<'a, V> = (Option<&'a Arc<V>>, Option<&'a Arc<V>>);

/// The values of the lowest key that is left.
fn next<'a, K: Ord, V>(
    last: &mut Entry<'a, K, V>,
    now: &mut Entry<'a, K, V>,
) -> Option<Pair<'a, V>> {
    let key = match (last.peek(), now.peek()) {
        (None, None) => return None,
        (Some((key, _)), None) | (None, Some((key, _))) => *key,
        (Some((left, _)), Some((right, _))) => (*left).min(*right),
    };
    let take = |entries: &mut Entry<'a, K, V>| {
        let entry = entries.next_if(|(other, _)| *other == key);
        entry.map(|(_, value)| value)
    };
    Some((take(last), take(now)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_differs_is_read() {
        let map = |entries: &[(u8, &Arc<u8>)]| -> SharedMap<u8, u8> {
            let entries = entries.iter().map(|(key, value)| (*key, Arc::clone(value)));
            Arc::new(entries.collect())
        };
        let [kept, gone, before, after, come] = [1, 2, 3, 4, 5].map(Arc::new);
        let last = map(&[(1, &kept), (2, &gone), (3, &before)]);
        let now = map(&[(1, &kept), (3, &after), (5, &come)]);
        let read = |value: &u8| {
            let object = ObjectRef::new(Kind::Mesh, "", value.to_string());
            vec![(object, GraphFields::default())]
        };
        let (mut out, mut new) = (Vec::new(), Vec::new());
        compare(&last, &now, (&mut out, &mut new), read);
        let names = |entries: Entries| -> Vec<String> {
            let names = entries.iter().map(|(object, _)| object.name.to_string());
            names.collect()
        };
        assert_eq!(names(out), ["2", "3"]);
        assert_eq!(names(new), ["4", "5"]);
    }
}
