use evermesh_model::{KeyPair, Pem};
use prometheus_client::{encoding::text::encode, registry::Registry};
use rcgen::CertificateParams;

use super::*;

const DAY: Duration = Duration::from_hours(24);
const HOUR: Duration = Duration::from_hours(1);

fn start() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_hours(500_000)
}

/// A certificate that expires after this time, as PEM.
fn certificate(life: Duration) -> String {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.not_after = (start() + life).into();
    params.self_signed(&key).unwrap().pem()
}

fn warnings(health: &CertificateHealth, since_start: Duration) -> Vec<(String, bool)> {
    let due = health.due_warnings(start() + since_start);
    due.into_iter()
        .map(|it| (it.certificate, it.has_expired))
        .collect()
}

fn metrics(health: &Arc<CertificateHealth>) -> Vec<String> {
    let mut registry = Registry::with_prefix("evermesh");
    registry.register_collector(Box::new(CertificateCollector(Arc::clone(health))));
    let mut text = String::new();
    encode(&mut text, &registry).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.map(str::to_owned).collect()
}

#[test]
fn roles_are_these_label_values() {
    let words = [
        CertificateRole::Webhooks,
        CertificateRole::Xds,
        CertificateRole::XdsClientAuthorities,
        CertificateRole::OwnAuthority,
        CertificateRole::SidecarAuthorities,
        CertificateRole::Secret,
        CertificateRole::SecretAuthorities,
    ]
    .map(CertificateRole::as_str);
    let expected = [
        "webhooks",
        "xds",
        "xds_client_authorities",
        "own_authority",
        "sidecar_authorities",
        "secret",
        "secret_authorities",
    ];
    assert_eq!(words, expected);
}

#[test]
fn chain_ends_with_its_first_certificate_and_a_list_of_authorities_with_its_last() {
    let pem = certificate(2 * DAY) + &certificate(DAY) + &certificate(3 * DAY);
    assert_eq!(chain_end(pem.as_bytes()), Some(start() + DAY));
    assert_eq!(authorities_end(pem.as_bytes()), Some(start() + 3 * DAY));
    assert_eq!(chain_end(b"no certificate"), None);
}

#[test]
fn certificate_is_warned_of_once_a_day_from_the_seventh_day_before_its_end() {
    let health = CertificateHealth::default();
    health.set_end(CertificateRole::Xds, Some(start() + 10 * DAY));
    health.set_end(CertificateRole::Webhooks, Some(start() + 90 * DAY));
    let soon = [("xds".to_owned(), false)];
    assert_eq!(warnings(&health, (3 * DAY).saturating_sub(HOUR)), []);
    assert_eq!(warnings(&health, 3 * DAY), soon);
    assert_eq!(
        warnings(&health, (4 * DAY).saturating_sub(HOUR)),
        [],
        "warned 23 hours ago"
    );
    assert_eq!(warnings(&health, 4 * DAY), soon);
    assert_eq!(warnings(&health, 10 * DAY), [("xds".to_owned(), true)]);

    health.set_end(CertificateRole::Xds, Some(start() + 10 * DAY));
    assert_eq!(
        warnings(&health, 10 * DAY),
        [],
        "the certificate is the same"
    );
    health.set_end(CertificateRole::Xds, Some(start() + 12 * DAY));
    assert_eq!(warnings(&health, 10 * DAY), soon, "the certificate is new");
    health.set_end(CertificateRole::Xds, None);
    assert_eq!(warnings(&health, 20 * DAY), []);
}

#[test]
fn each_certificate_in_use_has_a_metric() {
    let health = Arc::<CertificateHealth>::default();
    health.set_end(CertificateRole::OwnAuthority, Some(start()));
    let name = SecretName {
        namespace: "shop".into(),
        name: "front".into(),
    };
    let secret = ResolvedSecret {
        name: name.clone(),
        meshes: Vec::new(),
        certificate: Some(KeyPair {
            chain: Pem::new(certificate(DAY)),
            private_key: Pem::new("key"),
        }),
        authorities: Some(Pem::new(certificate(2 * DAY))),
    };
    let secrets = BTreeMap::from([(name, Arc::new(secret))]);
    health.set_secrets(&secrets);
    let line = |labels: &str, seconds: u64| {
        format!("evermesh_certificate_expiration_timestamp_seconds{{{labels}}} {seconds}")
    };
    let own = line(r#"certificate="own_authority""#, 1_800_000_000);
    let of_secret = r#"namespace="shop",name="front""#;
    assert_eq!(
        metrics(&health),
        [
            own.clone(),
            line(
                &format!(r#"certificate="secret",{of_secret}"#),
                1_800_086_400
            ),
            line(
                &format!(r#"certificate="secret_authorities",{of_secret}"#),
                1_800_172_800
            ),
        ]
    );
    health.set_secrets(&BTreeMap::new());
    assert_eq!(metrics(&health), [own]);
}

#[tokio::test(start_paused = true)]
async fn rejected_files_are_reported_at_once_and_then_once_a_day() {
    let health = Arc::<CertificateHealth>::default();
    let role = CertificateRole::Webhooks;
    let rejected = |error: &str| health.files_are_rejected(role, error.to_owned());
    let metric =
        |value| format!(r#"evermesh_certificate_rejected{{certificate="webhooks"}} {value}"#);
    assert!(rejected("a"));
    assert!(!rejected("a"));
    assert!(rejected("b"), "another error");
    assert_eq!(metrics(&health), [metric(1)]);
    tokio::time::advance(DAY.saturating_sub(HOUR)).await;
    assert!(!rejected("b"));
    tokio::time::advance(HOUR).await;
    assert!(rejected("b"));
    health.files_are_used(role);
    assert_eq!(metrics(&health), [metric(0)]);
    assert!(rejected("b"), "good files came between");
}

/// A certificate that expires soon is warned of without waiting for the next check.
#[tokio::test(start_paused = true)]
async fn secrets_of_the_graph_are_followed() {
    let health = Arc::<CertificateHealth>::default();
    let (snapshot_sender, snapshots) = watch::channel(Arc::<EngineSnapshot>::default());
    let shutdown = CancellationToken::new();
    let clock: Clock = Arc::new(start);
    let following = Arc::clone(&health).follow(snapshots, clock, shutdown.clone());
    let following = tokio::spawn(following);
    let name = SecretName {
        namespace: "shop".into(),
        name: "front".into(),
    };
    let secret = ResolvedSecret {
        name: name.clone(),
        meshes: Vec::new(),
        certificate: None,
        authorities: Some(Pem::new(certificate(DAY))),
    };
    let graph = evermesh_model::Graph {
        secrets: Arc::new(BTreeMap::from([(name, Arc::new(secret))])),
        ..evermesh_model::Graph::default()
    };
    snapshot_sender.send_replace(Arc::new(EngineSnapshot {
        graph: Arc::new(graph),
        ..EngineSnapshot::default()
    }));
    let was_warned = || {
        let state = health.state.lock();
        state.ends.values().any(|it| it.warned_at == Some(start()))
    };
    let limit = Duration::from_mins(1);
    evermesh_testkit::wait::eventually("warning", limit, async || was_warned()).await;
    shutdown.cancel();
    following.await.unwrap();
}
