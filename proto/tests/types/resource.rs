use evermesh_proto::{
    ContentVersion, ProxyView, Resource, ResourceKey, ResourceType, cluster::Cluster,
    resource::ServedMessage as _,
};
use prost::Name as _;

fn key(kind: ResourceType, name: &str, scope: Option<&str>) -> ResourceKey {
    ResourceKey {
        kind,
        name: name.into(),
        scope: scope.map(Into::into),
    }
}

#[test]
fn type_url_belongs_to_the_message() {
    for kind in ResourceType::ALL {
        assert_eq!(
            kind.type_url(),
            format!("type.googleapis.com/{}", kind.message_name())
        );
        assert_eq!(ResourceType::from_type_url(kind.type_url()), Some(kind));
    }
    assert_eq!(Cluster::type_url(), Cluster::TYPE.type_url());
    assert!(ResourceType::ALL.is_sorted());
}

#[test]
fn version_depends_on_the_bytes_alone() {
    let version = ContentVersion::of(b"abc");
    assert_eq!(version, ContentVersion::of(b"abc"));
    assert_ne!(version, ContentVersion::of(b"abd"));
    assert_eq!(ContentVersion::parse(&version.to_string()), Some(version));
    for other in [
        "",
        "1",
        "0123456789ABCDEF0123456789ABCDEF",
        "+123456789abcdef0123456789abcdef",
    ] {
        assert_eq!(ContentVersion::parse(other), None, "{other}");
    }
}

#[test]
fn body_of_a_confidential_resource_is_not_printed() {
    let resource = Resource::from_encoded(ResourceType::Secret, "s".into(), "key".into());
    assert!(format!("{resource:?}").contains("key"));
    let confidential = resource.clone().into_confidential();
    let text = format!("{confidential:?} {confidential:#?}");
    assert!(!text.contains("key"), "{text}");
    assert_ne!(confidential.version, resource.version);
    assert_eq!(
        confidential.version,
        ContentVersion::of_confidential(b"key")
    );
}

#[test]
fn view_is_sorted_and_finds_keys_by_type_and_name() {
    let view = ProxyView::new(vec![
        key(ResourceType::Route, "r", Some("v")),
        key(ResourceType::Cluster, "b", None),
        key(ResourceType::Cluster, "a", None),
        key(ResourceType::Cluster, "a", Some("v")),
    ]);
    assert_eq!(view.keys().len(), 3);
    assert_eq!(view.of_type(ResourceType::Cluster).len(), 2);
    assert!(view.of_type(ResourceType::Listener).is_empty());
    assert_eq!(
        view.find(ResourceType::Route, "r")
            .unwrap()
            .scope
            .as_deref(),
        Some("v")
    );
    assert!(view.find(ResourceType::Route, "a").is_none());
}
