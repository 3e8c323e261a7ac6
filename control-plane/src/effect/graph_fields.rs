//! The fields of a status that come from the graph: the object's ARN, the ARNs of a router's inline routes, and weights.
//!
//! The index is updated incrementally: entries of a new graph that are pointer-equal to those of the previous graph are
//! not read again.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Iter},
    iter::Peekable,
    sync::Arc,
};

use evermesh_model::{Graph, Kind, ObjectRef, ResolvedRoute, ResolvedRouter, RouteRule, SharedMap};

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct GraphFields {
    /// The ARN that App Mesh would have given to the object; `None` for a `Route`, a kind that App Mesh does not have.
    pub(super) arn: Option<String>,
    /// ARNs of a router's inline routes, by route name.
    pub(super) route_arns: BTreeMap<String, String>,
    /// For a `Route`: `blue=90,green=10`. For a router with inline routes: `first: blue=90,green=10; second: red=1`.
    pub(super) weights: Option<String>,
}

/// The fields of every object in a graph.
pub(super) struct GraphFieldIndex {
    region: String,
    account: String,
    graph: Arc<Graph>,
    fields: BTreeMap<ObjectRef, GraphFields>,
}

type Entries = Vec<(ObjectRef, GraphFields)>;

impl GraphFieldIndex {
    /// An empty index; `region` and `account` become part of every ARN.
    pub(super) fn new(region: String, account: String) -> Self {
        Self {
            region,
            account,
            graph: Arc::default(),
            fields: BTreeMap::new(),
        }
    }

    /// The fields of an object; `None` if the graph does not have the object.
    pub(super) fn get(&self, object: &ObjectRef) -> Option<GraphFields> {
        self.fields.get(object).cloned()
    }

    /// Takes the newest graph. Returns the objects whose fields changed.
    pub(super) fn update(&mut self, graph: &Arc<Graph>) -> Vec<ObjectRef> {
        if Arc::ptr_eq(&self.graph, graph) {
            return Vec::new();
        }
        let last = std::mem::replace(&mut self.graph, Arc::clone(graph));
        let (mut removed, mut added) = (Vec::new(), Vec::new());
        let both = (&mut removed, &mut added);
        compare(&last.meshes, &graph.meshes, both, |mesh| {
            let fields = self.arn(&format!("mesh/{}", mesh.name));
            vec![(mesh.object.clone(), fields)]
        });
        let both = (&mut removed, &mut added);
        compare(&last.nodes, &graph.nodes, both, |node| {
            vec![(node.object.clone(), self.arn(&node.name.to_string()))]
        });
        let both = (&mut removed, &mut added);
        compare(&last.services, &graph.services, both, |service| {
            let path = format!(
                "mesh/{}/virtualService/{}",
                service.name.mesh, service.name.hostname
            );
            vec![(service.object.clone(), self.arn(&path))]
        });
        let both = (&mut removed, &mut added);
        compare(&last.routers, &graph.routers, both, |router| {
            self.router(graph, router)
        });
        let both = (&mut removed, &mut added);
        compare(&last.gateways, &graph.gateways, both, |gateway| {
            let of_gateway = (gateway.object.clone(), self.arn(&gateway.name.to_string()));
            let routes = gateway.routes.iter().map(|route| {
                let path = format!("{}/gatewayRoute/{}", gateway.name, route.name);
                (route.object.clone(), self.arn(&path))
            });
            std::iter::once(of_gateway).chain(routes).collect()
        });
        // A route can move from one router to another, so removals come first.
        let before: BTreeMap<ObjectRef, GraphFields> = removed.into_iter().collect();
        let after: BTreeMap<ObjectRef, GraphFields> = added.into_iter().collect();
        for object in before.keys() {
            self.fields.remove(object);
        }
        let both: BTreeSet<&ObjectRef> = before.keys().chain(after.keys()).collect();
        let changed = both
            .into_iter()
            .filter(|object| before.get(*object) != after.get(*object));
        let changed = changed.cloned().collect();
        self.fields.extend(after);
        changed
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
                let fields = GraphFields {
                    weights: Some(of_route),
                    ..GraphFields::default()
                };
                entries.push((route.object.clone(), fields));
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

/// `blue=90,green=10`: weights by VirtualNode name; nodes of another namespace appear as `namespace/name`.
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

/// Collects the entries of the values that only one of the two maps holds, compared by pointer.
fn compare<K: Ord, V>(
    last: &SharedMap<K, V>,
    now: &SharedMap<K, V>,
    (removed, added): (&mut Entries, &mut Entries),
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
        removed.extend(before.into_iter().flat_map(|value| read(value)));
        added.extend(after.into_iter().flat_map(|value| read(value)));
    }
}

type Entry<'a, K, V> = Peekable<Iter<'a, K, Arc<V>>>;
/// The values of one key in the old and in the new map.
type Pair<'a, V> = (Option<&'a Arc<V>>, Option<&'a Arc<V>>);

/// Advances both iterators past the lowest key that is left and returns its values.
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
    use evermesh_ingest::{BuildMemo, Inputs, build, object::parse};
    use serde_json::Value;

    use super::*;

    #[test]
    fn arns_name_the_mesh_and_the_object() {
        let manifests = include_str!("../../translate/testdata/fields/names/in.yaml");
        let mut inputs = Inputs::default();
        for document in serde_saphyr::from_multiple::<Value>(manifests).unwrap() {
            let (object, value) = parse(document).object.unwrap();
            inputs.apply(object, Some(value));
        }
        let mut index = GraphFieldIndex::new("eu-west-1".to_owned(), "111122223333".to_owned());
        index.update(&build(&inputs, &mut BuildMemo::default()).graph);
        for (kind, namespace, name, path) in [
            (Kind::Mesh, "", "shop", ""),
            (
                Kind::VirtualNode,
                "paint",
                "color",
                "/virtualNode/color-node",
            ),
            (
                Kind::VirtualService,
                "paint",
                "red",
                "/virtualService/red.example.com",
            ),
            (
                Kind::VirtualRouter,
                "paint",
                "color",
                "/virtualRouter/color-router",
            ),
            (
                Kind::VirtualGateway,
                "shop",
                "gate",
                "/virtualGateway/entry",
            ),
            (
                Kind::GatewayRoute,
                "shop",
                "red",
                "/virtualGateway/entry/gatewayRoute/to-red",
            ),
        ] {
            let fields = index.get(&ObjectRef::new(kind, namespace, name)).unwrap();
            let arn = format!("arn:aws:appmesh:eu-west-1:111122223333:mesh/market{path}");
            if kind == Kind::VirtualRouter {
                let route = ("all".to_owned(), format!("{arn}/route/all"));
                assert_eq!(fields.route_arns, [route].into());
            }
            assert_eq!(fields.arn, Some(arn));
        }
    }

    #[test]
    fn objects_whose_fields_changed_are_returned() {
        let manifests = include_str!("../../translate/testdata/fields/names/in.yaml");
        let mut inputs = Inputs::default();
        let mut memo = BuildMemo::default();
        let mut index = GraphFieldIndex::new(String::new(), String::new());
        let mut update = |manifests: &str| {
            for document in serde_saphyr::from_multiple::<Value>(manifests).unwrap() {
                let (object, value) = parse(document).object.unwrap();
                inputs.apply(object, Some(value));
            }
            let changed = index.update(&build(&inputs, &mut memo).graph);
            let names = changed.iter().map(ToString::to_string);
            names.collect::<Vec<_>>()
        };
        assert!(update(manifests).contains(&"VirtualRouter/paint/color".to_owned()));
        assert_eq!(update(manifests), [""; 0]);
        let shifted = manifests.replace("weight: ", "weight: 1");
        let routers = ["VirtualRouter/paint/color", "VirtualRouter/shop/color"];
        assert_eq!(update(&shifted), routers);
    }

    #[test]
    fn only_entries_that_differ_are_read() {
        let map = |entries: &[(u8, &Arc<u8>)]| -> SharedMap<u8, u8> {
            let entries = entries.iter().map(|(key, value)| (*key, Arc::clone(value)));
            Arc::new(entries.collect())
        };
        let [kept, removed, before, after, added] = [1, 2, 3, 4, 5].map(Arc::new);
        let last = map(&[(1, &kept), (2, &removed), (3, &before)]);
        let now = map(&[(1, &kept), (3, &after), (5, &added)]);
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
