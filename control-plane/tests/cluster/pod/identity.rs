//! Which tokens are good for which node.

use evermesh_testkit::chart;

use super::scene::{TOKEN, Yard};

const MEMBER: &str = "mesh/yard/virtualNode/member_yard";
const STRICT: &str = "mesh/yard/virtualNode/strict_yard";

/// What every pod has, for the API server.
const OTHER_AUDIENCE: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";

pub(super) async fn a_token_is_good_for_its_own_pods_node(yard: &Yard<'_>) {
    // Its process is Envoy's user, so nothing but Evermesh is in its way.
    let member = ("member", "bypass");
    let outside = ("outside", "app");
    for (pod, node, token, heard) in [
        (member, MEMBER, Some(TOKEN), "Ok"),
        (member, STRICT, Some(TOKEN), "PermissionDenied"),
        (member, MEMBER, Some(OTHER_AUDIENCE), "Unauthenticated"),
        (member, MEMBER, None, "Unauthenticated"),
        (outside, MEMBER, Some(TOKEN), "PermissionDenied"),
        (outside, MEMBER, None, "Unauthenticated"),
    ] {
        let (name, container) = pod;
        let server = format!("evermesh-xds.{}.svc:18000", chart::NAMESPACE);
        let mut ask = vec!["ask", "--connect", &server, "--node", node];
        ask.extend(token.iter().flat_map(|file| ["--token-file", file]));
        let code = yard.run(name, container, &ask).await;
        assert_eq!(code.trim(), heard, "{name} as {node} with {token:?}");
    }
}
