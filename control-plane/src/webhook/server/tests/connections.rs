//! Connections: which certificate they meet, and their end.

use super::*;

#[tokio::test]
async fn a_new_certificate_does_not_end_connections() {
    let (first, second) = (material(), material());
    let server = start(Duration::ZERO).await;
    server.surroundings.send_replace(Some(a_mesh()));
    assert!(
        server.connect(&first.bundle).await.is_err(),
        "there is none yet"
    );
    take(&server.certificates, &first);
    let mut open = server.connect(&first.bundle).await.unwrap();
    let (status, _) = post(&mut open, VALIDATE, creation(&node(&json!({})))).await;
    assert_eq!(status, 200);

    take(&server.certificates, &second);
    let (status, _) = post(&mut open, VALIDATE, creation(&node(&json!({})))).await;
    assert_eq!(status, 200, "the open connection goes on");
    assert!(
        server.connect(&first.bundle).await.is_err(),
        "new ones meet the new one"
    );
    assert!(server.connect(&second.bundle).await.is_ok());

    let wrong = server.certificates.replace(
        first.serving.certificate.as_bytes(),
        second.serving.key.as_bytes(),
    );
    assert!(wrong.is_err(), "a key of another certificate");
    assert!(
        server.connect(&second.bundle).await.is_ok(),
        "the last good one stays"
    );
}

#[tokio::test]
async fn open_requests_are_answered_after_a_cancellation() {
    let (server, mut client) = ready(Duration::from_millis(300)).await;
    server
        .surroundings
        .send_replace(Some(ClusterSnapshot::default()));
    let asked =
        tokio::spawn(async move { post(&mut client, MUTATE, creation(&node(&json!({})))).await });
    tokio::time::sleep(Duration::from_millis(100)).await;
    server.shutdown.cancel();
    assert_eq!(asked.await.unwrap().0, 200);
}
