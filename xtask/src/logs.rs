//! The check of log lines: in the modules that talk to peers, each field is text that `PeerText` made fit, or is listed
//! here with the reason why a peer cannot choose it.

use anyhow::Result;
use ra_ap_rustc_lexer::{FrontmatterAllowed, TokenKind, tokenize};

use crate::{Finding, files};

pub(crate) const RULES: &str = "xtask/src/logs.rs";

/// The modules that handle what peers send.
const MODULES: [&str; 6] = [
    "control-plane/xds/src/",
    "control-plane/src/admin.rs",
    "control-plane/src/auth/",
    "control-plane/src/changes.rs",
    "control-plane/src/effect/peers",
    "control-plane/src/webhook/",
];

/// Fields that need no `PeerText`: the beginning of the path, the name and the reason.
const TRUSTED: [(&str, &str, &str); 26] = [
    (
        "",
        "suppressed",
        "the number of lines that LogThrottle held back",
    ),
    ("control-plane/src/admin.rs", "part", "a constant"),
    ("control-plane/src/admin.rs", "seconds", "a number"),
    (
        "control-plane/src/auth/mod.rs",
        "caller",
        "its `Display` uses PeerText",
    ),
    ("control-plane/src/auth/mod.rs", "reason", "a constant"),
    ("control-plane/src/changes.rs", "change", "a number"),
    ("control-plane/src/changes.rs", "events", "a number"),
    (
        "control-plane/src/effect/peers/client.rs",
        "address",
        "an address in the Lease",
    ),
    (
        "control-plane/src/effect/peers/client.rs",
        "error",
        "an error of the connection to the leader",
    ),
    (
        "control-plane/src/webhook/bundle.rs",
        "error",
        "an answer of the API server",
    ),
    (
        "control-plane/src/webhook/bundle.rs",
        "configuration",
        "a name in a flag",
    ),
    (
        "control-plane/src/webhook/events.rs",
        "error",
        "an answer of the API server",
    ),
    (
        "control-plane/src/webhook/pods.rs",
        "error",
        "a bug of Evermesh",
    ),
    (
        "control-plane/src/webhook/pods.rs",
        "member",
        "the name of an object",
    ),
    (
        "control-plane/src/webhook/secret.rs",
        "error",
        "an answer of the API server",
    ),
    (
        "control-plane/src/webhook/secret.rs",
        "secret",
        "a name in a flag",
    ),
    (
        "control-plane/src/webhook/server.rs",
        "error",
        "the `Display` of `InvalidReview` uses PeerText",
    ),
    ("control-plane/xds/src/accept.rs", "address", "an address"),
    (
        "control-plane/xds/src/accept.rs",
        "error",
        "an error of the operating system",
    ),
    (
        "control-plane/xds/src/body.rs",
        "proxy",
        "a number, or the name of a view that the store has",
    ),
    (
        "control-plane/xds/src/body.rs",
        "resources",
        "names of resources that the store has",
    ),
    (
        "control-plane/xds/src/tls.rs",
        "error",
        "an error of the TLS library",
    ),
    ("control-plane/xds/src/fair_share.rs", "what", "a constant"),
    ("control-plane/xds/src/fair_share.rs", "limit", "a number"),
    (
        "control-plane/xds/src/fair_share.rs",
        "address",
        "an IP address",
    ),
    ("control-plane/xds/src/fair_share.rs", "ended", "a number"),
];

/// A field of a log line, or an argument of its message.
#[derive(Debug, PartialEq, Eq)]
struct LogField {
    line: usize,
    name: String,
    value: String,
}

/// Every field that a peer may have chosen and that `PeerText` does not make fit.
///
/// # Errors
///
/// If the files cannot be listed or read.
pub(crate) fn check() -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for file in files::with_suffix(&[".rs"])? {
        if !MODULES.iter().any(|module| file.path.starts_with(module)) {
            continue;
        }
        let is_trusted = |field: &LogField| {
            let mut trusted = TRUSTED.iter();
            trusted.any(|(path, name, _)| file.path.starts_with(path) && *name == field.name)
        };
        let fields = fields(&file.text).into_iter();
        let unfit = fields.filter(|field| !field.value.contains("PeerText(") && !is_trusted(field));
        findings.extend(unfit.map(|LogField { line, name, .. }| Finding {
            path: file.path.clone(),
            line,
            message: format!(
                "the field `{name}` of a log line may be a peer's text; write `%PeerText(…)`, or list it in {RULES}"
            ),
        }));
    }
    Ok(findings)
}

/// The fields of all log lines in a file.
fn fields(text: &str) -> Vec<LogField> {
    let mut tokens = Vec::new();
    let (mut offset, mut line) = (0, 1);
    for token in tokenize(text, FrontmatterAllowed::Yes) {
        let length = usize::try_from(token.len).unwrap_or(usize::MAX);
        let source = &text[offset..offset + length];
        let is_code = !matches!(
            token.kind,
            TokenKind::LineComment { .. } | TokenKind::BlockComment { .. } | TokenKind::Whitespace
        );
        if is_code {
            tokens.push((line, source));
        }
        offset += length;
        line += source.matches('\n').count();
    }
    let mut fields = Vec::new();
    for (at, window) in tokens.windows(3).enumerate() {
        let [(_, level), (_, "!"), (_, "(")] = window else {
            continue;
        };
        if ["trace", "debug", "info", "warn", "error"].contains(level) {
            fields.extend(arguments(&tokens[at + 3..]).filter_map(field));
        }
    }
    fields
}

/// The arguments of a macro call up to its closing parenthesis.
fn arguments<'a>(tokens: &'a [(usize, &'a str)]) -> impl Iterator<Item = &'a [(usize, &'a str)]> {
    let mut depth = 1_usize;
    let end = tokens.iter().position(|(_, token)| {
        depth = match *token {
            "(" | "[" | "{" => depth + 1,
            ")" | "]" | "}" => depth - 1,
            _ => depth,
        };
        depth == 0
    });
    let mut depth = 0_usize;
    tokens[..end.unwrap_or_default()].split(move |(_, token)| {
        match *token {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth -= 1,
            _ => {}
        }
        depth == 0 && *token == ","
    })
}

/// A field: `%name`, `?name`, `name` or `name = value`. The message itself is none.
fn field(argument: &[(usize, &str)]) -> Option<LogField> {
    let (line, first) = argument.first()?;
    if first.starts_with('"') {
        return None;
    }
    let mut words = argument.iter().map(|(_, token)| *token);
    let name = words.find(|token| !matches!(*token, "%" | "?" | "&"))?;
    Some(LogField {
        line: *line,
        name: name.to_owned(),
        value: argument.iter().map(|(_, token)| *token).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_and_arguments_of_log_lines_are_found() {
        let text = r#"
            // warn!(%comment, "no")
            fn log() {
                tracing::warn!(%caller, reason, name = %PeerText(f(a, b)), ?c, "a, (b) {}", d);
                print(e);
                info!("nothing");
            }
        "#;
        let found = fields(text);
        let names: Vec<&str> = found.iter().map(|field| field.name.as_str()).collect();
        assert_eq!(names, ["caller", "reason", "name", "c", "d"]);
        assert_eq!(found[2].value, "name=%PeerText(f(a,b))");
        assert_eq!(found[0].line, 4);
    }
}
