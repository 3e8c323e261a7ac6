//! Cloud Map on loopback: registration, an outage and a restart.

use evermesh_testkit::moto::Moto;

#[tokio::test]
async fn registered_instances_survive_a_restart() {
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
async fn error_names_the_unknown_service() {
    let mut moto = Moto::start().await.unwrap();
    moto.create_http_namespace("demo.local").await.unwrap();
    let error = moto
        .register("demo.local", "colour", "a", [10, 1, 2, 3].into(), &[])
        .await
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "service `colour` does not exist in namespace `demo.local`"
    );
}
