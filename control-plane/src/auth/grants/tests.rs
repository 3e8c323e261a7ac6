use evermesh_ingest::{BuildMemo, Inputs, build, identity::IdentitySnapshot, object::parse};
use evermesh_model::Kind;
use futures::FutureExt;
use serde_json::{Value, json};
use tokio::sync::watch;
use tonic::Code;

use super::*;

const FRONT: &str = "mesh/m/virtualNode/front_shop";
const GATE: &str = "mesh/m/virtualGateway/gate_shop";

/// Objects, the newest snapshot of them, and the streams under check.
struct World {
    inputs: Inputs,
    memo: BuildMemo,
    engine: watch::Sender<Arc<EngineSnapshot>>,
    snapshots: SnapshotReceiver,
    grants: Arc<StreamGrants>,
}

fn node(labels: &Value) -> Value {
    json!({
        "apiVersion": "appmesh.k8s.aws/v1beta2", "kind": "VirtualNode",
        "metadata": {"name": "front", "namespace": "shop"},
        "spec": {"podSelector": {"matchLabels": labels}},
    })
}

fn pod(name: &str, uid: &str, app: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "shop", "uid": uid, "labels": {"app": app}},
        "spec": {"serviceAccountName": "account", "containers": []},
    })
}

fn workload(name: &str, uid: &str) -> WorkloadIdentity {
    WorkloadIdentity::Pod {
        namespace: "shop".into(),
        name: name.into(),
        uid: uid.into(),
    }
}

impl World {
    /// A mesh, the node `front`, the gateway `gate`, and the pods `front-1`, `front-2` and `gate-1`.
    fn new() -> Self {
        let (engine, snapshots) = watch::channel(Arc::default());
        let mut world = Self {
            inputs: Inputs::default(),
            memo: BuildMemo::default(),
            engine,
            snapshots,
            grants: Arc::default(),
        };
        world.put(json!({
            "apiVersion": "appmesh.k8s.aws/v1beta2", "kind": "Mesh",
            "metadata": {"name": "m"}, "spec": {"namespaceSelector": {}},
        }));
        world.put(node(&json!({"app": "front"})));
        world.put(json!({
            "apiVersion": "appmesh.k8s.aws/v1beta2", "kind": "VirtualGateway",
            "metadata": {"name": "gate", "namespace": "shop"},
            "spec": {
                "namespaceSelector": {}, "podSelector": {"matchLabels": {"app": "gate"}},
                "listeners": [{"portMapping": {"port": 8088, "protocol": "http"}}],
            },
        }));
        world.put(pod("front-1", "u1", "front"));
        world.put(pod("front-2", "u2", "front"));
        world.put(pod("gate-1", "u3", "gate"));
        world
    }

    fn put(&mut self, value: Value) {
        let parsed = parse(value);
        assert!(parsed.problems.is_empty(), "{:?}", parsed.problems);
        let (object, value) = parsed.object.unwrap();
        self.inputs.apply(object, Some(value));
        self.publish();
    }

    fn remove(&mut self, kind: Kind, name: &str) {
        self.inputs.apply(ObjectRef::new(kind, "shop", name), None);
        self.publish();
    }

    fn publish(&mut self) {
        self.engine.send_replace(Arc::new(EngineSnapshot {
            graph: build(&self.inputs, &mut self.memo).graph,
            workloads: IdentitySnapshot::from(&self.inputs),
            ..EngineSnapshot::default()
        }));
    }

    fn admit(&self, workload: &WorkloadIdentity, proxy: &str) -> Revocation {
        let workloads = std::slice::from_ref(workload);
        let proxy = proxy.parse().unwrap();
        self.grants
            .admit(&self.snapshots, workloads, &proxy)
            .unwrap()
    }

    /// The workloads whose streams the newest snapshot ends.
    fn check(&self) -> Vec<String> {
        let revoked = self.grants.check(&self.snapshots.borrow());
        revoked
            .iter()
            .map(|stream| stream.workloads[0].to_string())
            .collect()
    }

    /// Number of streams that a check would look at.
    fn concerned(&self) -> usize {
        let state = self.grants.0.lock();
        let concerned = state.concerned(&state.checked, &self.snapshots.borrow());
        concerned.union(&state.added).count()
    }
}

fn is_open(revocation: &mut Revocation) -> bool {
    revocation.now_or_never().is_none()
}

#[test]
fn stream_ends_when_its_pod_is_gone_or_replaced_or_no_longer_selected() {
    for (change, mismatch) in [
        (None, IdentityMismatch::PodNotFound),
        (
            Some(pod("front-1", "u9", "front")),
            IdentityMismatch::PodNotFound,
        ),
        (
            Some(pod("front-1", "u1", "back")),
            IdentityMismatch::NotSelected,
        ),
        (
            Some(node(&json!({"app": "back"}))),
            IdentityMismatch::NotSelected,
        ),
    ] {
        let mut world = World::new();
        let mut stream = world.admit(&workload("front-1", "u1"), FRONT);
        assert!(world.check().is_empty());
        match change {
            Some(object) => world.put(object),
            None => world.remove(Kind::Pod, "front-1"),
        }
        let revoked = world.grants.check(&world.snapshots.borrow());
        assert_eq!(revoked.len(), 1);
        assert_eq!(revoked[0].mismatch, mismatch);
        let status = (&mut stream).now_or_never().unwrap();
        assert_eq!(status.code(), Code::PermissionDenied);
        drop(stream);
        let state = world.grants.0.lock();
        assert!(state.grants.is_empty() && state.by_proxy.is_empty());
        assert!(state.by_workload.is_empty() && state.added.is_empty());
    }
}

#[test]
fn stream_stays_while_its_node_is_gone_and_is_checked_when_the_node_is_back() {
    let mut world = World::new();
    let mut stream = world.admit(&workload("front-1", "u1"), FRONT);
    world.remove(Kind::VirtualNode, "front");
    assert!(world.check().is_empty());
    world.put(node(&json!({"app": "front"})));
    assert!(world.check().is_empty());
    assert!(is_open(&mut stream));
    world.remove(Kind::VirtualNode, "front");
    assert!(world.check().is_empty());
    world.put(node(&json!({"app": "back"})));
    assert_eq!(world.check(), ["Pod shop/front-1"]);
}

#[test]
fn stream_of_a_service_account_ends_with_the_last_pod_of_the_account() {
    let mut world = World::new();
    let account = WorkloadIdentity::Account {
        namespace: "shop".into(),
        name: "account".into(),
    };
    let mut stream = world.admit(&account, FRONT);
    world.remove(Kind::Pod, "front-1");
    assert!(world.check().is_empty());
    assert!(is_open(&mut stream));
    world.remove(Kind::Pod, "front-2");
    assert_eq!(world.check(), ["ServiceAccount shop/account"]);
}

#[test]
fn change_concerns_only_the_streams_of_what_has_changed() {
    let mut world = World::new();
    let _streams = [
        world.admit(&workload("front-1", "u1"), FRONT),
        world.admit(&workload("front-1", "u1"), FRONT),
        world.admit(&workload("front-2", "u2"), FRONT),
        world.admit(&workload("gate-1", "u3"), GATE),
    ];
    assert_eq!(world.concerned(), 4, "new streams are checked once more");
    assert!(world.check().is_empty());
    assert_eq!(world.concerned(), 0);
    world.put(pod("other-1", "u4", "front"));
    assert_eq!(world.concerned(), 0);
    world.put(pod("front-1", "u5", "front"));
    assert_eq!(world.concerned(), 2);
    assert_eq!(world.check(), ["Pod shop/front-1", "Pod shop/front-1"]);
    world.put(node(&json!({"app": "front", "tier": "web"})));
    assert_eq!(world.concerned(), 1);
}

#[test]
fn snapshots_that_were_skipped_hide_no_change() {
    let mut world = World::new();
    assert!(world.check().is_empty());
    world.put(pod("late-1", "u6", "front"));
    let _stream = world.admit(&workload("late-1", "u6"), FRONT);
    world.remove(Kind::Pod, "late-1");
    assert_eq!(world.check(), ["Pod shop/late-1"]);
}
