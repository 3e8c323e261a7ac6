//! Tests with answers that AWS gives and moto, the stand-in of the integration tests, does not.

use std::collections::BTreeMap;

use axum::{
    Router,
    http::{HeaderMap, StatusCode},
};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::super::{
    RegistrationSettings,
    client::{
        CloudMapNamespace, DeleteOutcome, RegistrationClient, RegistrationError, ServiceRecord,
    },
    plan::{HealthCheck, InstanceRequest},
};
use crate::source::cloud_map::CloudMapConnection;

/// Answers a call by its name and body.
type Answer = fn(&str, &Value) -> (u16, Value);

async fn registry(answer: Answer) -> RegistrationClient {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let serve = move |headers: HeaderMap, body: String| async move {
        let target = headers["x-amz-target"].to_str().unwrap();
        let (_, call) = target.split_once('.').unwrap();
        let (status, answer) = answer(call, &serde_json::from_str(&body).unwrap());
        (StatusCode::from_u16(status).unwrap(), answer.to_string())
    };
    let router = Router::new().fallback(serve);
    tokio::spawn(async move { axum::serve(listener, router).await });
    RegistrationClient::new(CloudMapConnection::open(Some(&endpoint)).await)
}

fn error(code: &str) -> (u16, Value) {
    (400, json!({"__type": code, "Message": "for a test"}))
}

fn service() -> ServiceRecord {
    ServiceRecord {
        id: "srv".to_owned(),
        arn: None,
        creator: None,
        is_marked: false,
        health_check: HealthCheck::Custom,
    }
}

#[tokio::test]
async fn create_returns_a_service_that_exists_already() {
    let registry = registry(|call, body| match call {
        "CreateService" => {
            let (status, mut answer) = error("ServiceAlreadyExists");
            answer["ServiceId"] = "srv".into();
            (status, answer)
        }
        "GetService" if body["Id"] == "srv" => {
            let service = json!({"Id": "srv", "Arn": "arn", "CreatorRequestId": "another"});
            (200, json!({"Service": service}))
        }
        _ => error("Unexpected"),
    })
    .await;
    let namespace = CloudMapNamespace {
        id: "ns".to_owned(),
        is_dns: true,
    };
    let name = evermesh_model::CloudMapService {
        namespace: "shop.local".into(),
        service: "color".into(),
    };
    let settings = RegistrationSettings {
        dns_ttl: 300,
        custom_health_check: false,
        ipv6: false,
    };
    let created = registry.create(&namespace, &name, "uid", settings).await;
    let created = created.unwrap();
    assert_eq!(created.creator.as_deref(), Some("another"));
    assert_eq!(
        (created.health_check, created.is_marked),
        (HealthCheck::None, false)
    );
}

#[tokio::test]
async fn annotated_arn_is_used_only_if_it_names_the_wanted_service() {
    let registry = registry(|call, body| match (call, body["Id"].as_str()) {
        ("GetService", Some("srv")) => {
            let service = json!({"Id": "srv", "Arn": "arn:service/srv", "Name": "color", "NamespaceId": "ns"});
            (200, json!({"Service": service}))
        }
        ("GetService", Some("gone")) => error("ServiceNotFound"),
        ("GetService", Some("slow")) => error("ThrottlingException"),
        _ => error("InvalidInput"),
    })
    .await;
    let is_found = async |id: &str, name: &str, arn: &str| {
        let namespace = CloudMapNamespace {
            id: id.to_owned(),
            is_dns: false,
        };
        let found = registry.service_by_arn(&namespace, name, arn).await;
        found.map(|found| found.is_some())
    };
    assert_eq!(is_found("ns", "color", "arn:service/srv").await, Ok(true));
    for (id, name, arn) in [
        ("another", "color", "arn:service/srv"),
        ("ns", "shape", "arn:service/srv"),
        ("ns", "color", "other:service/srv"),
        ("ns", "color", "arn:service/gone"),
        ("ns", "color", "arn:service/?"),
        ("ns", "color", "nonsense"),
    ] {
        assert_eq!(
            is_found(id, name, arn).await,
            Ok(false),
            "{id} {name} {arn}"
        );
    }
    let slow = is_found("ns", "color", "arn:service/slow").await;
    assert!(
        matches!(slow, Err(RegistrationError::Unavailable(_))),
        "{slow:?}"
    );
}

#[tokio::test]
async fn list_reads_all_pages() {
    let registry = registry(|call, body| match (call, body["NextToken"].as_str()) {
        ("ListInstances", None) => {
            let page = json!([{"Id": "a", "Attributes": {"k": "v"}}]);
            (200, json!({"Instances": page, "NextToken": "more"}))
        }
        ("ListInstances", Some("more")) => (200, json!({"Instances": [{"Id": "b"}, {"Id": "c"}]})),
        ("GetInstancesHealthStatus", None) => (
            200,
            json!({"Status": {"a": "HEALTHY", "b": "UNKNOWN"}, "NextToken": "more"}),
        ),
        ("GetInstancesHealthStatus", _) => (200, json!({"Status": {"c": "UNHEALTHY"}})),
        _ => error("Unexpected"),
    })
    .await;
    let listing = registry.list(&service()).await.unwrap();
    let health: Vec<_> = listing
        .instances
        .iter()
        .map(|(id, listed)| (id.as_str(), listed.healthy))
        .collect();
    assert_eq!(health, [("a", Some(true)), ("b", None), ("c", Some(false))]);
    assert_eq!(listing.instances["a"].attributes["k"], "v");
}

#[tokio::test]
async fn error_codes_map_to_outcomes() {
    let registry = registry(|call, body| match (call, body["InstanceId"].as_str()) {
        ("RegisterInstance", Some("twice")) => error("DuplicateRequest"),
        ("RegisterInstance", Some("odd")) => error("InvalidInput"),
        ("RegisterInstance", Some("many")) => error("ThrottlingException"),
        ("RegisterInstance", _) => error("ServiceNotFound"),
        ("DeregisterInstance", _) => error("InstanceNotFound"),
        ("DeleteService", _) => error("ResourceInUse"),
        _ => error("Unexpected"),
    })
    .await;
    let register = async |id: &str| {
        let request = InstanceRequest::Register(BTreeMap::new());
        registry.send(&service(), id, &request).await
    };
    assert_eq!(register("twice").await, Ok(()), "already in progress");
    assert_eq!(
        register("odd").await,
        Err(RegistrationError::Rejected(
            "InvalidInput: for a test".to_owned()
        ))
    );
    assert!(matches!(
        register("many").await,
        Err(RegistrationError::Unavailable(_))
    ));
    assert_eq!(register("late").await, Err(RegistrationError::Gone));
    let gone = registry
        .send(&service(), "gone", &InstanceRequest::Deregister)
        .await;
    assert_eq!(gone, Ok(()), "already deregistered");
    assert_eq!(registry.delete(&service()).await, Ok(DeleteOutcome::InUse));
}
