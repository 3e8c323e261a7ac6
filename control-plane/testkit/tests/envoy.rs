//! Both releases of Envoy start, answer on the admin interface and validate configurations.

use evermesh_testkit::envoy::{Envoy, EnvoyOptions, EnvoyVersion, validate};

const EMPTY: &str = "static_resources: {}";

#[tokio::test]
async fn both_releases_start_and_answer() {
    for version in EnvoyVersion::ALL {
        let mut envoy = Envoy::start(&EnvoyOptions::new(version, EMPTY)).unwrap();
        envoy.ready().await.unwrap();
        assert_eq!(envoy.stat("server.live").await.unwrap(), 1);
        assert!(envoy.config_dump().await.unwrap()["configs"].is_array());
        assert!(
            envoy
                .admin()
                .get("/server_info")
                .await
                .unwrap()
                .contains(version.number())
        );
    }
}

#[tokio::test]
async fn start_error_quotes_the_log_of_envoy() {
    let mut envoy = Envoy::start(&EnvoyOptions::new(
        EnvoyVersion::Newest,
        "static_resources: {lorry: 1}",
    ))
    .unwrap();
    let error = envoy.ready().await.unwrap_err().to_string();
    assert!(error.contains("lorry"), "{error}");
}

#[test]
fn validation_error_quotes_envoy() {
    for version in EnvoyVersion::ALL {
        validate(version, EMPTY).unwrap();
        let error = format!(
            "{:#}",
            validate(version, "static_resources: {lorry: 1}").unwrap_err()
        );
        assert!(error.contains("lorry"), "{error}");
    }
}
