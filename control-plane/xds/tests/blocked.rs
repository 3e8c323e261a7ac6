//! Rejected clusters: what needs them stays at the client as it is, and everything else is sent.

mod support;

use std::sync::Arc;

use evermesh_proto::resource::ResourceType::{Cluster, Endpoint, Listener, Route};
use evermesh_xds::XdsVariant;
use support::{
    blocked::{envoy, first, newest, reject_cluster, reject_cluster_among_others, route, second},
    client::VARIANTS,
    local::LocalClient,
    store::{Change, TestStore},
};

#[test]
fn resource_without_parts_keeps_its_version_if_a_needed_cluster_is_rejected() {
    for variant in VARIANTS {
        for (kind, name) in [(Listener, "l"), (Route, "r")] {
            let (store, mut client) = envoy(variant);
            let before = client.resources(kind);
            store.commit(Change::default().put(Cluster, "new", "bad").put_needing(
                kind,
                name,
                "2",
                &["new"],
            ));
            reject_cluster(&mut client);
            client.assert_no_response();
            assert_eq!(client.resources(kind), before);
            let status = client.status(kind, name);
            assert_eq!(status.blocked_by, [Arc::from("new")]);
            assert_eq!(status.sent, status.acked);
        }
    }
}

#[test]
fn resource_that_does_not_need_the_rejected_cluster_is_sent() {
    for variant in VARIANTS {
        let (store, mut client) = envoy(variant);
        store.commit(Change::default().put(Cluster, "new", "bad").put_needing(
            Listener,
            "l",
            "2",
            &["a"],
        ));
        reject_cluster(&mut client);
        assert_eq!(client.receive_and_ack().kind, Listener);
        client.assert_no_response();
        assert!(client.status(Listener, "l").blocked_by.is_empty());
    }
}

#[test]
fn only_the_part_that_needs_the_rejected_cluster_stays_as_it_is() {
    for variant in VARIANTS {
        let (store, mut client) = envoy(variant);
        store.commit(second());
        let cluster = client.receive().unwrap();
        client.assert_no_response();
        client.nack(&cluster, "no such host");
        assert_eq!(client.receive_and_ack().kind, Route);
        assert_eq!(route(&client), "base p=1 q=2");
        client.assert_no_response();
        // The part goes on staying as it is while the other one changes.
        store.commit(Change::default().put_parts(
            Route,
            "r",
            &[("p", "3", &["new"]), ("q", "3", &["b"])],
        ));
        client.settle();
        assert_eq!(route(&client), "base p=1 q=3");
    }
}

#[test]
fn filter_chain_of_a_listener_stays_as_it_is() {
    for variant in VARIANTS {
        let (store, mut client) = envoy(variant);
        store.commit(Change::default().put_parts(Listener, "l", &[("80", "1", &["a"])]));
        client.settle();
        store.commit(Change::default().put(Cluster, "new", "bad").put_parts(
            Listener,
            "l",
            &[("80", "2", &["new"]), ("90", "2", &["b"])],
        ));
        reject_cluster(&mut client);
        client.settle();
        assert_eq!(client.resources(Listener)["l"], "base 80=1 90=2");
    }
}

#[test]
fn added_part_is_left_out_and_a_removed_one_stays_while_a_part_is_blocked() {
    for variant in VARIANTS {
        let (store, mut client) = envoy(variant);
        store.commit(Change::default().put(Cluster, "new", "bad").put_parts(
            Route,
            "r",
            &[("added", "2", &["new"]), ("q", "2", &["b"])],
        ));
        reject_cluster(&mut client);
        client.settle();
        assert_eq!(route(&client), "base q=2 p=1");
        store.update(Cluster, "new", "good");
        client.settle();
        assert_eq!(route(&client), "base added=2 q=2");
    }
}

#[test]
fn newest_version_is_sent_after_the_client_accepted_the_cluster() {
    for variant in VARIANTS {
        let (store, mut client) = envoy(variant);
        store.commit(second());
        reject_cluster(&mut client);
        client.settle();
        store.update(Cluster, "new", "good");
        let cluster = client.receive().unwrap();
        assert_eq!(&*cluster.resources["new"], "good");
        client.assert_no_response();
        client.ack(&cluster);
        assert_eq!(client.receive_and_ack().kind, Route);
        client.assert_no_response();
        assert_eq!(route(&client), "base p=2 q=2");
        let status = client.status(Route, "r");
        assert_eq!(status.acked, Some(newest(&store, Route, "r")));
        assert!(status.blocked_by.is_empty());
    }
}

#[test]
fn newest_version_without_the_cluster_is_sent_at_once() {
    for variant in VARIANTS {
        let (store, mut client) = envoy(variant);
        store.commit(second());
        reject_cluster(&mut client);
        client.settle();
        store.commit(Change::default().remove(Cluster, "new").put_parts(
            Route,
            "r",
            &[("p", "3", &["a"]), ("q", "2", &["b"])],
        ));
        client.settle();
        assert_eq!(route(&client), "base p=3 q=2");
        assert!(client.status(Route, "r").blocked_by.is_empty());
    }
}

#[test]
fn client_without_a_copy_gets_the_newest_version() {
    for variant in VARIANTS {
        let store = TestStore::with(&[]);
        store.commit(first());
        store.commit(second());
        let mut client = LocalClient::new(&store, variant);
        client.subscribe_to(Cluster, &[]);
        // Once with all clusters, once alone.
        reject_cluster_among_others(&mut client);
        client.subscribe_to(Listener, &[]);
        client.subscribe_to(Route, &["r"]);
        client.settle();
        assert_eq!(route(&client), "base p=2 q=2");
        assert_eq!(client.status(Route, "r").blocked_by, [Arc::from("new")]);
        // The part is not replaced by another version that cannot work either.
        store.commit(Change::default().put_parts(
            Route,
            "r",
            &[("p", "3", &["new"]), ("q", "3", &["b"])],
        ));
        client.settle();
        assert_eq!(route(&client), "base p=2 q=3");
    }
}

#[test]
fn further_bad_versions_of_the_cluster_delay_no_other_part() {
    for variant in VARIANTS {
        let (store, mut client) = envoy(variant);
        store.commit(second());
        reject_cluster(&mut client);
        client.settle();
        for version in 3..10 {
            store.update(Cluster, "new", &format!("bad {version}"));
            let cluster = client.receive().unwrap();
            assert_eq!(cluster.kind, Cluster);
            let version = version.to_string();
            store.commit(Change::default().put_parts(
                Route,
                "r",
                &[("p", &version, &["new"]), ("q", &version, &["b"])],
            ));
            assert_eq!(client.receive_and_ack().kind, Route);
            assert_eq!(route(&client), format!("base p=1 q={version}"));
            client.nack(&cluster, "no such host");
            client.assert_no_response();
        }
    }
}

#[test]
fn clusters_of_the_parts_that_stay_are_not_removed() {
    for variant in VARIANTS {
        let (store, mut client) = envoy(variant);
        store.commit(second().remove(Cluster, "a"));
        reject_cluster(&mut client);
        client.settle();
        assert_eq!(route(&client), "base p=1 q=2");
        assert!(client.resources(Cluster).contains_key("a"));
        // Nor are they while the newest version is on its way.
        store.update(Cluster, "new", "good");
        client.receive_and_ack();
        let newest = client.receive().unwrap();
        assert_eq!(newest.kind, Route);
        client.assert_no_response();
        client.ack(&newest);
        client.settle();
        assert!(!client.resources(Cluster).contains_key("a"));
    }
}

#[test]
fn blocked_resource_does_not_stop_the_removal_of_other_clusters() {
    for variant in VARIANTS {
        let (store, mut client) = envoy(variant);
        store.add(Cluster, "unrelated", "1");
        client.settle();
        store.commit(
            Change::default()
                .put(Cluster, "new", "bad")
                .put_needing(Listener, "l", "2", &["new"])
                .remove(Cluster, "unrelated"),
        );
        reject_cluster(&mut client);
        client.settle();
        assert_eq!(client.resources(Listener)["l"], "1");
        assert!(!client.resources(Cluster).contains_key("unrelated"));
    }
}

#[test]
fn part_stays_as_it_is_if_the_endpoints_of_its_cluster_are_rejected() {
    for variant in VARIANTS {
        let (store, mut client) = envoy(variant);
        store.commit(second().put(Endpoint, "new", "bad"));
        let cluster = client.receive().unwrap();
        client.subscribe_to(Endpoint, &["new"]);
        client.ack(&cluster);
        assert_eq!(client.receive_and_nack("no address").kind, Endpoint);
        client.settle();
        assert_eq!(route(&client), "base p=1 q=2");
        store.update(Endpoint, "new", "good");
        client.settle();
        assert_eq!(route(&client), "base p=2 q=2");
    }
}

#[test]
fn client_that_rejects_the_merge_keeps_its_version() {
    for variant in VARIANTS {
        let (store, mut client) = envoy(variant);
        store.commit(second());
        reject_cluster(&mut client);
        assert_eq!(client.receive_and_nack("bad regex").kind, Route);
        client.assert_no_response();
        assert_eq!(route(&client), "base p=1 q=1");
        let status = client.status(Route, "r");
        assert_eq!(status.sent, status.rejection.map(|it| it.version));
        store.update(Cluster, "new", "good");
        client.settle();
        assert_eq!(route(&client), "base p=2 q=2");
    }
}

#[test]
fn reconnecting_client_keeps_a_version_that_the_server_does_not_know() {
    let (store, mut client) = envoy(XdsVariant::Delta);
    store.commit(second().remove(Cluster, "a"));
    reject_cluster(&mut client);
    client.settle();
    assert_eq!(route(&client), "base p=1 q=2");
    client.reconnect(&store);
    reject_cluster(&mut client);
    client.settle();
    assert_eq!(route(&client), "base p=1 q=2");
    assert!(client.resources(Cluster).contains_key("a"));
    assert_eq!(client.status(Route, "r").blocked_by, [Arc::from("new")]);
    store.update(Cluster, "new", "good");
    client.settle();
    assert_eq!(route(&client), "base p=2 q=2");
    assert!(!client.resources(Cluster).contains_key("a"));
}

#[test]
fn client_that_subscribes_to_clusters_by_name_gets_the_newest_version() {
    for variant in VARIANTS {
        let store = TestStore::with(&[]);
        store.commit(first());
        let mut client = LocalClient::new(&store, variant);
        client.subscribe_to(Cluster, &["a", "b", "new"]);
        client.subscribe_to(Route, &["r"]);
        client.settle();
        store.commit(second());
        reject_cluster(&mut client);
        client.settle();
        assert_eq!(route(&client), "base p=2 q=2");
    }
}

#[test]
fn client_that_begins_to_subscribe_to_all_clusters_gets_what_is_not_blocked() {
    for variant in VARIANTS {
        let store = TestStore::with(&[]);
        store.commit(first());
        let mut client = LocalClient::new(&store, variant);
        client.subscribe_to(Cluster, &["a", "b", "new"]);
        client.subscribe_to(Route, &["r"]);
        client.settle();
        store.commit(second());
        reject_cluster(&mut client);
        client.receive_and_nack("bad regex");
        client.subscribe_to(Cluster, &["*"]);
        client.settle();
        assert_eq!(route(&client), "base p=1 q=2");
    }
}
