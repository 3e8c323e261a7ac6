//! Attacks on the port of the webhooks, which anyone may call who reaches it.

use anyhow::Result;
use bytes::Bytes;
use evermesh_testkit::http::ByteStream;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{Crowd, Visitor, all_requests};
use crate::{Form, client};

const PATHS: [&str; 2] = [
    "/mutate-appmesh-k8s-aws-v1beta2-virtualnode",
    "/validate-appmesh-k8s-aws-v1beta2-virtualnode",
];

/// Bytes of a body, a little less than the limit of 7 MiB.
const BODY: usize = 6_900_000;

/// The line that the attacker tries to write into the log.
pub(super) const FORGED_LINE: &str = "\nforged line";

pub(super) fn large(form: Form) -> Crowd {
    let bodies = large_bodies();
    let requests = match form {
        Form::Short => bodies.len(),
        Form::Full => all_requests(form) / 4,
    };
    Crowd::new(requests, move |visitor| {
        let body = bodies[visitor.number % bodies.len()].clone();
        async move {
            let path = PATHS[visitor.number % PATHS.len()];
            let mut stream = post(&visitor, path, body.len()).await?;
            stream.write_all(&body).await?;
            read_response(&mut stream).await
        }
    })
}

/// Reviews of a virtual node that is wide, deep, or has two versions of half the size.
fn large_bodies() -> Vec<Bytes> {
    let wide = |bytes: usize| {
        let element = r#"{"":0},"#;
        format!(
            r#"{{"spec":{{"x":[{}0]}}}}"#,
            element.repeat(bytes / element.len())
        )
    };
    let deep = || {
        let depth = 120;
        let element = format!("{}{},", "[".repeat(depth), "]".repeat(depth));
        format!(
            r#"{{"spec":{{"x":[{}0]}}}}"#,
            element.repeat(BODY / element.len())
        )
    };
    // As many values as are allowed.
    let allowed = 190_000 * r#"{"":0},"#.len() / 2;
    [
        review(&wide(BODY), "null"),
        review(&deep(), "null"),
        review(&wide(BODY / 2), &wide(BODY / 2)),
        review(&wide(allowed), "null"),
    ]
    .map(Bytes::from)
    .into()
}

fn review(object: &str, old_object: &str) -> String {
    let operation = if old_object == "null" {
        "CREATE"
    } else {
        "UPDATE"
    };
    format!(
        r#"{{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{{"uid":"1","kind":{{"group":"appmesh.k8s.aws","version":"v1beta2","kind":"VirtualNode"}},"name":"a","namespace":"demo","operation":"{operation}","object":{object},"oldObject":{old_object}}}}}"#
    )
}

pub(super) fn half(form: Form) -> Crowd {
    let bytes = Bytes::from(vec![b' '; BODY]);
    let requests = match form {
        // Some more than fit into the room of all requests.
        Form::Short => 12,
        Form::Full => all_requests(form),
    };
    Crowd::new(requests, move |visitor| {
        let bytes = bytes.clone();
        async move {
            let mut stream = post(&visitor, PATHS[0], BODY + 1).await?;
            stream.write_all(&bytes).await?;
            stream.flush().await?;
            visitor.done();
            read_response(&mut stream).await
        }
    })
}

pub(super) fn hostile_texts() -> Crowd {
    Crowd::new(8, |visitor| async move {
        let text = format!("\u{1b}[2K{FORGED_LINE}{}", "x".repeat(1_000_000));
        let text = serde_json::Value::from(text).to_string();
        let body = match visitor.number % 4 {
            0 => format!(
                r#"{{"apiVersion":{text},"kind":{text},"request":{{"uid":"1","kind":{{"group":"","version":"","kind":""}},"operation":""}}}}"#
            ),
            1 => format!(
                r#"{{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{{"uid":{text},"kind":{{"group":{text},"version":"v1","kind":{text}}},"operation":{text}}}}}"#
            ),
            2 => format!(
                r#"{{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{{"uid":{text},"kind":{{"group":"appmesh.k8s.aws","version":"v1beta2","kind":"VirtualNode"}},"name":{text},"namespace":{text},"operation":"CREATE","object":{{"metadata":{{"name":{text}}},"spec":{{"awsName":{text},"listeners":{text}}}}}}}}}"#
            ),
            _ => format!("{{{text}"),
        };
        let path = PATHS[visitor.number % PATHS.len()];
        let mut stream = post(&visitor, path, body.len()).await?;
        stream.write_all(body.as_bytes()).await?;
        read_response(&mut stream).await
    })
}

/// Sends the head of a request.
async fn post(visitor: &Visitor, path: &str, length: usize) -> Result<Box<dyn ByteStream>> {
    let ports = &visitor.ports;
    let stream = client::connect_tls(&ports.tls, ports.webhooks, visitor.address());
    let mut stream = stream.await?;
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: webhooks\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await?;
    Ok(stream)
}

async fn read_response(stream: &mut Box<dyn ByteStream>) -> Result<()> {
    let mut buffer = vec![0; 64 << 10];
    while stream.read(&mut buffer).await? > 0 {}
    Ok(())
}
