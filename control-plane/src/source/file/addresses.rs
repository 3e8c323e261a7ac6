//! Addresses of `EndpointSlice`s in a folder. An API server has checked those of a Kubernetes cluster.

use std::net::{Ipv4Addr, Ipv6Addr};

use evermesh_ingest::object::Object;
use evermesh_model::{FieldPath, ObjectRef, Problem, Reason};

/// The problems of addresses that are not of the family of their slice. An API server refuses such a slice.
pub(super) fn problems(id: &ObjectRef, object: &Object) -> Vec<Problem> {
    let Object::EndpointSlice(slice) = object else {
        return Vec::new();
    };
    let family = slice.address_type.as_str();
    let is_address = |text: &str| match family {
        "IPv4" => text.parse::<Ipv4Addr>().is_ok(),
        "IPv6" => text.parse::<Ipv6Addr>().is_ok(),
        _ => true,
    };
    let mut problems = Vec::new();
    for (index, endpoint) in slice.endpoints.iter().flatten().enumerate() {
        let field = FieldPath::root().field("endpoints").index(index);
        let addresses = endpoint.addresses.iter().enumerate();
        let wrong = addresses.filter(|(_, address)| !is_address(address));
        problems.extend(wrong.map(|(index, address)| {
            let shown: String = address.chars().take(64).collect();
            let message = format!(
                "`{}` is not an {family} address, so nothing can reach the endpoint; write one, or correct addressType",
                shown.escape_debug()
            );
            let field = field.field("addresses").index(index);
            Problem::new(id, field, Reason::InvalidValue, message)
        }));
    }
    problems
}
