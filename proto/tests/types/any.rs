use evermesh_proto::{
    core::{Locality, Node},
    pack, unpack,
};

#[test]
fn unpack_gives_the_packed_message() {
    let locality = Locality {
        zone: "eu-west-1a".into(),
        ..Default::default()
    };
    let any = pack(&locality);
    assert_eq!(
        any.type_url,
        "type.googleapis.com/envoy.config.core.v3.Locality"
    );
    assert_eq!(unpack::<Locality>(&any).unwrap(), locality);
}

#[test]
fn unpack_refuses_another_type() {
    let any = pack(&Locality::default());
    let error = unpack::<Node>(&any).unwrap_err();
    assert!(
        error.to_string().contains("envoy.config.core.v3.Locality"),
        "{error}"
    );
}
