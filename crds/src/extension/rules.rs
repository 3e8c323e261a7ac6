//! The rules of `Route` in CEL: what an API server refuses and what a file is checked for, written once.
//! Each message says what to do.

use kube::core::{Message, Rule};

/// On the spec: one kind of route.
pub(super) fn one_kind() -> Rule {
    Rule::new(
        "[has(self.httpRoute), has(self.http2Route), has(self.grpcRoute), has(self.tcpRoute)].filter(set, set).size() == 1",
    )
    .message("set exactly one of httpRoute, http2Route, grpcRoute and tcpRoute")
}

/// On an HTTP route: a prefix or a path.
pub(super) fn one_path() -> Rule {
    Rule::new("has(self.match.prefix) != has(self.match.path)")
        .message("set exactly one of match.prefix and match.path; match.prefix / takes every path")
}

/// On an HTTP route: how a path is compared.
pub(super) fn one_path_method() -> Rule {
    Rule::new("!has(self.match.path) || has(self.match.path.exact) != has(self.match.path.regex)")
        .message("set exactly one of match.path.exact and match.path.regex")
}

/// On an HTTP route: a prefix is a path.
pub(super) fn prefix_is_path() -> Rule {
    Rule::new("!has(self.match.prefix) || self.match.prefix.startsWith('/')")
        .message("start match.prefix with a slash")
}

/// On an HTTP route: how headers are compared.
pub(super) fn one_header_method() -> Rule {
    one_method("headers")
}

/// On an HTTP route: ranges of headers.
pub(super) fn header_range() -> Rule {
    range("headers")
}

/// On a gRPC route: how metadata is compared.
pub(super) fn one_metadata_method() -> Rule {
    one_method("metadata")
}

/// On a gRPC route: ranges of metadata.
pub(super) fn metadata_range() -> Rule {
    range("metadata")
}

/// On a gRPC route: a method belongs to a service.
pub(super) fn method_of_service() -> Rule {
    Rule::new("!has(self.match.methodName) || has(self.match.serviceName)")
        .message("set match.serviceName too: match.methodName is a method of that service")
}

/// On any kind of route: who the targets are.
pub(super) fn one_target_name() -> Rule {
    Rule::new(
        "self.action.weightedTargets.all(target, has(target.virtualNodeRef) != has(target.virtualNodeARN))",
    )
    .message("set exactly one of virtualNodeRef and virtualNodeARN in each of action.weightedTargets")
}

/// On any kind of route: somebody gets the traffic.
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
        "let range.start be below range.end in each of match.{list}; end itself does not fit"
    )))
}
