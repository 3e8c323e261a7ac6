//! A status writer without an API server, for tests of its parts.

use evermesh_xds::ProxyRegistry;

use super::*;
use crate::{
    effect::{key::ReplicaKey, unreachable_client},
    source::kubernetes::WatchPosition,
};

pub(super) struct Fixture {
    pub(super) writer: StatusWriter,
    pub(super) snapshots: watch::Sender<Arc<EngineSnapshot>>,
    pub(super) leader: watch::Sender<Leader>,
    pub(super) messages: watch::Sender<Arc<RegistrationMessages>>,
}

pub(super) fn fixture() -> Fixture {
    let (snapshot_sender, snapshots) = watch::channel(Arc::default());
    let (leader, leader_receiver) = watch::channel(Leader::Unknown);
    let (messages, registration_messages) = watch::channel(Arc::default());
    let options = StatusWriterOptions {
        snapshots,
        registry: ProxyRegistry::new(None),
        observed: Arc::default(),
        identity: "this".to_owned(),
        key: ReplicaKey::new().unwrap(),
        leader: leader_receiver,
        registers: false,
        registration_messages,
        region: String::new(),
        account: String::new(),
        work: Arc::default(),
    };
    Fixture {
        writer: StatusWriter::new(unreachable_client(), options),
        snapshots: snapshot_sender,
        leader,
        messages,
    }
}

/// An object with this status, as the API server holds it.
pub(super) fn observed(status: Value) -> ObservedObject {
    ObservedObject {
        position: WatchPosition { watch: 0, count: 0 },
        version: "1".to_owned(),
        uid: String::new(),
        generation: 1,
        deleting: false,
        finalizers: Vec::new(),
        status,
    }
}
