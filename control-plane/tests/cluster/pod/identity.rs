//! Tokens of pods at the xDS server: the node that a token is valid for.

use evermesh_testkit::chart;

use super::fixture::{PodFixture, TOKEN};

const MEMBER: &str = "mesh/pods/virtualNode/member_pods";
const STRICT: &str = "mesh/pods/virtualNode/strict_pods";

/// The token that every pod has for the API server.
const API_TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";

pub(super) async fn token_is_valid_for_its_own_node(fixture: &PodFixture<'_>) {
    let authority = format!("--authority={}", authority(fixture).await);
    // The container runs as Envoy's user, so that its connections are not intercepted.
    let member = ("member", "bypass");
    let outside = ("outside", "app");
    for (pod, node, token, expected) in [
        (member, MEMBER, Some(TOKEN), "Ok"),
        (member, STRICT, Some(TOKEN), "PermissionDenied"),
        (member, MEMBER, Some(API_TOKEN), "Unauthenticated"),
        (member, MEMBER, None, "Unauthenticated"),
        (outside, MEMBER, Some(TOKEN), "PermissionDenied"),
        (outside, MEMBER, None, "Unauthenticated"),
    ] {
        let (name, container) = pod;
        let server = format!("evermesh-xds.{}.svc:18000", chart::NAMESPACE);
        let mut ask = vec!["ask", "--connect", &server, "--node", node];
        ask.push(&authority);
        ask.extend(token.iter().flat_map(|file| ["--token-file", file]));
        let code = fixture.run(name, container, &ask).await;
        assert_eq!(code.trim(), expected, "{name} as {node} with {token:?}");
    }
}

/// The authority of Evermesh's certificate.
async fn authority(fixture: &PodFixture<'_>) -> String {
    let contents = "{{index .data \"ca.crt\" | base64decode}}";
    let output = format!("--output=go-template={contents}");
    let get = ["get", "secret", "evermesh-webhook", "--namespace"];
    let get = [&get[..], &[chart::NAMESPACE, &output]].concat();
    fixture.cluster.kubectl().run(&get).await.unwrap()
}
