//! Validation rules of `Route` in CEL. The API server evaluates them at admission, and Evermesh evaluates the same rules
//! for files. Each message says what to do.

use kube::core::{Message, Rule};

/// For the spec: exactly one kind of route.
pub(super) fn one_kind() -> Rule {
    Rule::new(
        "[has(self.httpRoute), has(self.http2Route), has(self.grpcRoute), has(self.tcpRoute)].filter(set, set).size() == 1",
    )
    .message("set exactly one of httpRoute, http2Route, grpcRoute and tcpRoute")
}

/// For HTTP routes: either a prefix or a path.
pub(super) fn one_path() -> Rule {
    Rule::new("has(self.match.prefix) != has(self.match.path)").message(
        "set exactly one of match.prefix and match.path; match.prefix `/` matches every path",
    )
}

/// For HTTP routes: exactly one way to match the path.
pub(super) fn one_path_method() -> Rule {
    Rule::new("!has(self.match.path) || has(self.match.path.exact) != has(self.match.path.regex)")
        .message("set exactly one of match.path.exact and match.path.regex")
}

/// For HTTP routes: a prefix begins with a slash.
pub(super) fn prefix_is_path() -> Rule {
    Rule::new("!has(self.match.prefix) || self.match.prefix.startsWith('/')")
        .message("start match.prefix with a slash")
}

/// For HTTP routes: at most one way to match a header.
pub(super) fn one_header_method() -> Rule {
    one_method("headers")
}

/// For HTTP routes: ranges of header values are not empty.
pub(super) fn header_range() -> Rule {
    range("headers")
}

/// For gRPC routes: at most one way to match metadata.
pub(super) fn one_metadata_method() -> Rule {
    one_method("metadata")
}

/// For gRPC routes: ranges of metadata values are not empty.
pub(super) fn metadata_range() -> Rule {
    range("metadata")
}

/// For gRPC routes: a method requires its service.
pub(super) fn method_of_service() -> Rule {
    Rule::new("!has(self.match.methodName) || has(self.match.serviceName)")
        .message("match.methodName requires match.serviceName: set the service of the method")
}

/// For all routes: each target has exactly one reference.
pub(super) fn one_target_name() -> Rule {
    Rule::new(
        "self.action.weightedTargets.all(target, has(target.virtualNodeRef) != has(target.virtualNodeARN))",
    )
    .message("set exactly one of virtualNodeRef and virtualNodeARN in each of action.weightedTargets")
}

/// For all routes: the weights do not sum to zero.
pub(super) fn some_weight() -> Rule {
    Rule::new("self.action.weightedTargets.exists(target, target.weight > 0)")
        .message("give at least one of action.weightedTargets a weight above 0")
}

fn one_method(list: &str) -> Rule {
    Rule::new(format!(
        "!has(self.match.{list}) || self.match.{list}.all(entry, !has(entry.match) || [has(entry.match.exact), has(entry.match.prefix), has(entry.match.range), has(entry.match.regex), has(entry.match.suffix)].filter(set, set).size() == 1)"
    ))
    .message(Message::Message(format!(
        "set exactly one of exact, prefix, range, regex and suffix in the match of each of match.{list}, or leave the match out"
    )))
}

fn range(list: &str) -> Rule {
    Rule::new(format!(
        "!has(self.match.{list}) || self.match.{list}.all(entry, !has(entry.match) || !has(entry.match.range) || entry.match.range.start < entry.match.range.end)"
    ))
    .message(Message::Message(format!(
        "set range.start below range.end in each of match.{list}; the range does not include end"
    )))
}
