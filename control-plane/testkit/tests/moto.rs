//! Cloud Map on loopback: what is registered is found, an outage is an outage, a restart forgets nothing.

use evermesh_testkit::moto::Moto;

#[tokio::test]
async fn instances_come_go_and_survive_a_restart() {
    let mut moto = Moto::start().await.unwrap();
    moto.create_http_namespace("demo.local").await.unwrap();
    moto.create_service("demo.local", "color").await.unwrap();
    for id in ["a", "b"] {
        moto.register(
            "demo.local",
            "color",
            id,
            [10, 1, 2, 3].into(),
            &[("version", "v1")],
        )
        .await
        .unwrap();
    }
    assert_eq!(
        moto.discover("demo.local", "color").await.unwrap(),
        ["a", "b"]
    );
    moto.deregister("demo.local", "color", "a").await.unwrap();
    assert_eq!(moto.discover("demo.local", "color").await.unwrap(), ["b"]);

    moto.stop();
    moto.discover("demo.local", "color").await.unwrap_err();
    moto.restart().await.unwrap();
    assert_eq!(moto.discover("demo.local", "color").await.unwrap(), ["b"]);
}

#[tokio::test]
async fn an_unknown_service_is_an_error_that_names_it() {
    let mut moto = Moto::start().await.unwrap();
    moto.create_http_namespace("demo.local").await.unwrap();
    let error = moto
        .register("demo.local", "colour", "a", [10, 1, 2, 3].into(), &[])
        .await
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "there is no service colour in demo.local"
    );
}
