//! Tokens of pods and their reviews (`authentication.k8s.io/v1`). A fixed word is the signature.

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use serde_json::{Value, json};

const AUDIENCE: &str = "evermesh";
const SIGNATURE: &str = "c2lnbmVk";

pub(super) fn token(namespace: &str, pod: &str, uid: &str, id: &str) -> String {
    let claims = json!({
        "aud": [AUDIENCE],
        "jti": id,
        "kubernetes.io": {"namespace": namespace, "pod": {"name": pod, "uid": uid}},
    });
    let claims = BASE64_URL_SAFE_NO_PAD.encode(claims.to_string());
    format!("e30.{claims}.{SIGNATURE}")
}

/// The answer to a `TokenReview`.
pub(super) fn answer(review: &[u8]) -> Value {
    let mut review: Value = serde_json::from_slice(review).unwrap_or_default();
    let token = review["spec"]["token"].as_str().unwrap_or_default();
    review["status"] = match claims(token) {
        Some(claims) => {
            let identity = &claims["kubernetes.io"];
            let namespace = identity["namespace"].as_str().unwrap_or_default();
            json!({
                "authenticated": true,
                "audiences": [AUDIENCE],
                "user": {
                    "username": format!("system:serviceaccount:{namespace}:default"),
                    "extra": {
                        "authentication.kubernetes.io/pod-name": [identity["pod"]["name"]],
                        "authentication.kubernetes.io/pod-uid": [identity["pod"]["uid"]],
                    },
                },
            })
        }
        None => json!({"authenticated": false, "error": "the signature is wrong"}),
    };
    review
}

/// The claims of a token with our signature.
fn claims(token: &str) -> Option<Value> {
    let (_, rest) = token.split_once('.')?;
    let claims = rest.strip_suffix(SIGNATURE)?.strip_suffix('.')?;
    let claims = BASE64_URL_SAFE_NO_PAD.decode(claims).ok()?;
    serde_json::from_slice(&claims).ok()
}
