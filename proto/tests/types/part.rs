use std::sync::Arc;

use bytes::Bytes;
use evermesh_proto::{
    EncodedPart, Resource, ResourceType,
    route::{RouteConfiguration, VirtualHost},
};
use prost::Message;

/// A route configuration with these virtual hosts: name, a text that stands for the routes, and needed clusters.
fn routes(hosts: &[(&str, &str, &[&str])]) -> Resource {
    let strings = |strings: &[&str]| strings.iter().map(|it| Arc::from(*it)).collect();
    let base = RouteConfiguration {
        name: "r".to_owned(),
        ..Default::default()
    };
    let base = EncodedPart {
        body: base.encode_to_vec().into(),
        name: "".into(),
        needs: Arc::default(),
        origins: ["Mesh//m".into()].into(),
    };
    let parts = hosts.iter().map(|(name, text, needs)| {
        let host = VirtualHost {
            name: (*name).to_owned(),
            domains: vec![(*text).to_owned()],
            ..Default::default()
        };
        let message = RouteConfiguration {
            virtual_hosts: vec![host],
            ..Default::default()
        };
        EncodedPart {
            body: message.encode_to_vec().into(),
            name: (*name).into(),
            needs: strings(needs),
            origins: [format!("VirtualService/n/{name}").into()].into(),
        }
    });
    Resource::from_parts(ResourceType::Route, "r".into(), base, parts)
}

/// The virtual hosts of a route configuration: name and text.
fn hosts(resource: &Resource) -> Vec<(String, String)> {
    let message = RouteConfiguration::decode(resource.body.clone()).unwrap();
    assert_eq!(message.name, "r");
    let hosts = message.virtual_hosts.into_iter();
    hosts
        .map(|host| (host.name, host.domains.concat()))
        .collect()
}

fn pair(name: &str, text: &str) -> (String, String) {
    (name.to_owned(), text.to_owned())
}

#[test]
fn parts_make_one_message_with_all_needs_and_origins() {
    let resource = routes(&[("a", "1", &["y", "x"]), ("b", "1", &["x"])]);
    assert_eq!(hosts(&resource), [pair("a", "1"), pair("b", "1")]);
    assert_eq!(*resource.needs, ["x".into(), "y".into()]);
    let origins: Vec<&str> = resource.origins.iter().map(AsRef::as_ref).collect();
    assert_eq!(
        origins,
        ["Mesh//m", "VirtualService/n/a", "VirtualService/n/b"]
    );
}

#[test]
fn part_that_needs_a_rejected_cluster_stays_as_in_the_copy() {
    let copy = routes(&[("a", "1", &["x"]), ("b", "1", &["x"]), ("old", "1", &[])]);
    let newest = routes(&[
        ("a", "2", &["x"]),
        ("b", "2", &["bad", "x"]),
        ("new", "2", &["bad"]),
    ]);
    let kept = newest.keeping(&copy, |cluster| cluster == "bad").unwrap();
    assert_eq!(
        hosts(&kept),
        [pair("a", "2"), pair("b", "1"), pair("old", "1")]
    );
    assert_eq!(*kept.needs, ["x".into()]);
    assert_eq!(kept.origins, newest.origins);
    let again = newest.keeping(&kept, |cluster| cluster == "bad").unwrap();
    assert_eq!(again, kept);
    assert_eq!(newest.keeping(&copy, |_| false).unwrap(), newest);
}

#[test]
fn resource_whose_base_needs_a_rejected_cluster_has_nothing_to_take() {
    let whole = Resource::from_encoded(ResourceType::Route, "r".into(), Bytes::new())
        .with_needs(["bad".into()]);
    assert_eq!(whole.keeping(&whole, |cluster| cluster == "bad"), None);
    assert_eq!(whole.keeping(&whole, |_| false).as_ref(), Some(&whole));
}

#[test]
fn origins_of_parts_that_are_not_blocked_are_left_out() {
    let newest = routes(&[("a", "2", &["x"]), ("b", "2", &["bad"])]);
    let origins = newest.origins_needing(|cluster| cluster == "bad");
    let origins: Vec<&str> = origins.iter().map(AsRef::as_ref).collect();
    assert_eq!(origins, ["Mesh//m", "VirtualService/n/b"]);
}
