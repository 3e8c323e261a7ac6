//! The annotation `evermesh.dev/cloud-map-registration` of a `Mesh`: which namespaces may register pods in which Cloud
//! Map services.
//!
//! ```yaml
//! evermesh.dev/cloud-map-registration: |
//!   shop.local/cart: cart, cart-canary
//!   shop.local/*: shop
//! ```

use evermesh_crds::v1beta2;
use evermesh_model::{
    CloudMapService, Reason, ResolvedMesh, mesh::RegistrationRule, problem::FieldPath,
};

use crate::{membership::read_namespaces, schema::quote, stage::Problems};

const CLOUD_MAP_REGISTRATION: &str = "evermesh.dev/cloud-map-registration";

/// The service that stands for every service of a Cloud Map namespace.
const EVERY_SERVICE: &str = "*";

/// Parses the annotation. A line that is not valid allows nothing.
pub(crate) fn read(
    mesh: &v1beta2::Mesh,
    problems: &mut Problems<'_>,
) -> Option<Vec<RegistrationRule>> {
    let text = mesh
        .metadata
        .annotations
        .as_ref()?
        .get(CLOUD_MAP_REGISTRATION)?;
    let mut rules: Vec<RegistrationRule> = Vec::new();
    for (line, number) in text.lines().zip(1..) {
        if line.trim().is_empty() {
            continue;
        }
        let message = match read_line(line) {
            Ok(rule) => {
                let is_taken = |first: &RegistrationRule| {
                    (&first.namespace, &first.service) == (&rule.namespace, &rule.service)
                };
                if !rules.iter().any(is_taken) {
                    rules.push(rule);
                    continue;
                }
                "an earlier line is for the same service; merge the two".to_owned()
            }
            Err(message) => message,
        };
        let field = FieldPath::root()
            .field("metadata.annotations")
            .key(CLOUD_MAP_REGISTRATION);
        let message = format!("line {number} is ignored: {message}");
        problems.add(field, Reason::InvalidValue, message);
    }
    Some(rules)
}

/// Parses `CLOUD MAP NAMESPACE/SERVICE: NAMESPACE, …`.
fn read_line(line: &str) -> Result<RegistrationRule, String> {
    let parts = line.split_once(':').and_then(|(service, users)| {
        let (namespace, service) = service.trim().split_once('/')?;
        Some((namespace, service, users))
    });
    let is_name = |name: &str| !name.is_empty() && !name.contains(char::is_whitespace);
    let Some((namespace, service, users)) =
        parts.filter(|(namespace, service, _)| is_name(namespace) && is_name(service))
    else {
        return Err(format!(
            "{} is not of the form CLOUD-MAP-NAMESPACE/SERVICE: NAMESPACES; write for example `shop.local/*: shop, cart`",
            quote(line.trim())
        ));
    };
    let users = read_namespaces(users).map_err(|bad| {
        format!(
            "{} is not a namespace; list namespaces, separated by commas, or `*` for all",
            quote(bad)
        )
    })?;
    Ok(RegistrationRule {
        namespace: namespace.into(),
        service: (service != EVERY_SERVICE).then(|| service.into()),
        users,
    })
}

/// Returns whether the mesh lets a namespace register pods in the service. The rule for the service precedes that for
/// its Cloud Map namespace.
pub(crate) fn allows(mesh: &ResolvedMesh, service: &CloudMapService, namespace: &str) -> bool {
    let Some(rules) = &mesh.cloud_map_registration else {
        return true;
    };
    let of_namespace = || {
        rules
            .iter()
            .filter(|rule| rule.namespace == service.namespace)
    };
    let exact = of_namespace().find(|rule| rule.service.as_ref() == Some(&service.service));
    let rule = exact.or_else(|| of_namespace().find(|rule| rule.service.is_none()));
    rule.is_some_and(|rule| rule.users.contains(namespace))
}

/// Adds the problem of a node whose pods may not be registered.
pub(crate) fn check(mesh: &ResolvedMesh, service: &CloudMapService, problems: &mut Problems<'_>) {
    let namespace = &problems.object().namespace;
    if allows(mesh, service, namespace) {
        return;
    }
    let message = format!(
        "`{}` does not let namespace `{namespace}` register pods in service `{}` of Cloud Map namespace `{}`, so none is registered, and pods with the readiness gate stay unready; use another service, or add the namespace to the annotation {CLOUD_MAP_REGISTRATION} of the mesh",
        mesh.object, service.service, service.namespace
    );
    let field = FieldPath::spec().field("serviceDiscovery.awsCloudMap");
    problems.add(field, Reason::NotAllowed, message);
}
