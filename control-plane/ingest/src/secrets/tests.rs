use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use super::*;
use crate::{BuildMemo, BuildOutput, build, object::parse};

const CHAIN: &str = include_str!("../../tests/property/tls.crt");
const KEY: &str = include_str!("../../tests/property/tls.key");
const AUTHORITY: &str = include_str!("../../tests/property/ca.crt");

/// The inputs with one mesh that maps a certificate and an authority to `shop/front`.
struct Fixture {
    inputs: Inputs,
    memo: BuildMemo,
}

impl Fixture {
    fn new() -> Self {
        let mut fixture = Self {
            inputs: Inputs::default(),
            memo: BuildMemo::default(),
        };
        fixture.apply(json!({
            "apiVersion": "appmesh.k8s.aws/v1beta2", "kind": "Mesh",
            "metadata": { "name": "m", "annotations": { "evermesh.dev/acm-secrets":
                "arn:aws:acm:r:1:certificate/c: shop/front\narn:aws:acm-pca:r:1:certificate-authority/a: shop/front" } },
            "spec": { "namespaceSelector": {} },
        }));
        fixture
    }

    fn apply(&mut self, document: Value) {
        let (reference, object) = parse(document).object.unwrap();
        self.inputs.apply(reference, Some(object));
    }

    fn put(&mut self, entries: &Value) {
        self.apply(json!({
            "apiVersion": "v1", "kind": "Secret",
            "metadata": { "name": "front", "namespace": "shop" },
            "stringData": entries,
        }));
    }

    fn build(&mut self) -> BuildOutput {
        build(&self.inputs, &mut self.memo)
    }

    /// The authorities of the Secret and the problems.
    fn authorities(&mut self) -> (Option<Pem>, Vec<String>) {
        let output = self.build();
        let mut secrets = output.graph.secrets.values();
        let authorities = secrets.next().and_then(|secret| secret.authorities.clone());
        let problems = output.problems.iter();
        (authorities, problems.map(ToString::to_string).collect())
    }
}

#[test]
fn broken_renewal_keeps_the_last_good_version_of_its_part() {
    let mut fixture = Fixture::new();
    fixture.put(&json!({ "tls.crt": CHAIN, "tls.key": KEY, "ca.crt": AUTHORITY }));
    let good = fixture.build();
    assert_eq!(*good.problems, []);

    // The key is missing. The authorities are two now.
    let two = [AUTHORITY, AUTHORITY].concat();
    fixture.put(&json!({ "tls.crt": CHAIN, "ca.crt": two }));
    let broken = fixture.build();
    let [problem] = &*broken.problems else {
        panic!("{:?}", broken.problems)
    };
    assert_eq!(
        problem.to_string(),
        "Mesh/m: metadata.annotations[evermesh.dev/acm-secrets]: `Secret/shop/front`, which replaces \
         `arn:aws:acm:r:1:certificate/c`, has an entry tls.crt and no entry tls.key, so the last good version stays in \
         force; correct tls.crt and tls.key (ReferenceNotFound)"
    );
    let only = |output: &BuildOutput| output.graph.secrets.values().next().cloned().unwrap();
    assert_eq!(only(&broken).certificate, only(&good).certificate);
    assert_eq!(
        only(&broken).authorities.as_ref().map(Pem::expose),
        Some(&*two)
    );

    fixture.put(&json!({ "tls.crt": CHAIN, "tls.key": KEY, "ca.crt": AUTHORITY }));
    let renewed = fixture.build();
    assert_eq!(*renewed.problems, []);
    assert_eq!(renewed.graph, good.graph);
}

#[test]
fn removed_secret_has_no_last_good_version() {
    let mut fixture = Fixture::new();
    fixture.put(&json!({ "ca.crt": AUTHORITY }));
    assert!(fixture.authorities().0.is_some());
    let object = ObjectRef::new(Kind::Secret, "shop", "front");
    fixture.inputs.apply(object, None);
    let (authorities, problems) = fixture.authorities();
    assert_eq!((authorities, problems.len()), (None, 2));
    fixture.put(&json!({ "ca.crt": "broken" }));
    assert_eq!(fixture.authorities().0, None);
}

#[test]
fn certificates_alone_are_kept_of_an_entry() {
    let mut fixture = Fixture::new();
    let everything = [
        "subject: CN=a\n",
        KEY,
        AUTHORITY,
        "-----BEGIN X-----\nAAAA\n-----END X-----\n",
    ];
    fixture.put(&json!({ "ca.crt": everything.concat() }));
    let (authorities, _) = fixture.authorities();
    assert_eq!(authorities.as_ref().map(Pem::expose), Some(AUTHORITY));
}

#[test]
fn entry_over_the_limit_is_refused() {
    let mut fixture = Fixture::new();
    let rest = MAX_ENTRY_BYTES - AUTHORITY.len();
    let longest = format!("{AUTHORITY}{}", " ".repeat(rest));
    fixture.put(&json!({ "ca.crt": longest }));
    assert_eq!(longest.len(), MAX_ENTRY_BYTES);
    assert!(fixture.authorities().0.is_some());

    let mut fixture = Fixture::new();
    let text = format!("{AUTHORITY}{}", " ".repeat(MAX_ENTRY_BYTES));
    fixture.put(&json!({ "ca.crt": text }));
    let (authorities, problems) = fixture.authorities();
    assert_eq!(authorities, None);
    let expected = format!(
        "has an entry ca.crt of {} bytes, more than the limit of {MAX_ENTRY_BYTES}",
        text.len()
    );
    assert!(
        problems.iter().any(|it| it.contains(&expected)),
        "{problems:?}"
    );
}

#[test]
fn base64_may_be_broken_into_lines() {
    let mut fixture = Fixture::new();
    let base64 = STANDARD.encode(AUTHORITY);
    let (one, other) = base64.split_at(76);
    fixture.apply(json!({
        "apiVersion": "v1", "kind": "Secret",
        "metadata": { "name": "front", "namespace": "shop" },
        "data": { "ca.crt": format!("{one}\r\n {other}\n") },
    }));
    let (authorities, _) = fixture.authorities();
    assert_eq!(authorities.as_ref().map(Pem::expose), Some(AUTHORITY));
}

#[test]
fn key_of_a_secret_is_kept_only_for_a_certificate() {
    let mut fixture = Fixture::new();
    fixture.put(&json!({ "tls.crt": CHAIN, "tls.key": KEY, "ca.crt": AUTHORITY }));
    fixture.apply(json!({
        "apiVersion": "appmesh.k8s.aws/v1beta2", "kind": "Mesh",
        "metadata": { "name": "m", "annotations": {
            "evermesh.dev/acm-secrets": "arn:aws:acm-pca:r:1:certificate-authority/a: shop/front" } },
        "spec": { "namespaceSelector": {} },
    }));
    let output = fixture.build();
    let secret = output.graph.secrets.values().next().unwrap();
    assert!(secret.certificate.is_none() && secret.authorities.is_some());
}

#[test]
fn private_keys_of_all_encodings_are_accepted() {
    for (chain, key) in [
        (
            include_str!("testdata/rsa.crt"),
            include_str!("testdata/rsa.key"),
        ),
        (
            include_str!("testdata/ec.crt"),
            include_str!("testdata/ec.key"),
        ),
    ] {
        let pair = pem::key_pair(chain.as_bytes(), key.as_bytes()).unwrap();
        // openssl writes the parameters of the curve before the key; Envoy does not need them.
        let start = key.rfind("-----BEGIN").unwrap();
        assert_eq!(pair.private_key.expose(), &key[start..]);
        assert_eq!(pair.chain.expose(), chain);
    }
}
