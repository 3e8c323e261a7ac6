use evermesh_proto::{
    core,
    json::{from_json, to_json},
    listener, pack,
};

#[test]
fn json_with_a_nested_any_converts_back() {
    let listener = listener::Listener {
        name: "ingress".into(),
        listener_filters: vec![listener::ListenerFilter {
            name: "envoy.filters.listener.original_dst".into(),
            config_type: Some(listener::listener_filter::ConfigType::TypedConfig(pack(
                &core::Locality::default(),
            ))),
            ..Default::default()
        }],
        ..Default::default()
    };
    let json = to_json(&listener).unwrap();
    assert_eq!(
        json["listener_filters"][0]["typed_config"]["@type"],
        "type.googleapis.com/envoy.config.core.v3.Locality"
    );
    assert_eq!(from_json::<listener::Listener>(json).unwrap(), listener);
}

#[test]
fn error_names_the_unknown_field() {
    let error = from_json::<core::Locality>(serde_json::json!({"zoone": "a"})).unwrap_err();
    assert!(error.to_string().contains("zoone"), "{error}");
}
