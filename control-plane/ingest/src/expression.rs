//! Whether a regular expression is one for Envoy.
//!
//! Envoy compiles expressions with RE2 and refuses a whole route table for one that is broken. There is no
//! RE2 here, but a parser of a syntax close to it: what both refuse is a problem, and where the two differ
//! the benefit of the doubt is the user's.
//!
//! Must not refuse an expression that RE2 takes.

use regex_syntax::ast::{ErrorKind, parse::Parser};

/// Why RE2 will not take the expression, if that is certain.
pub(crate) fn re2_error(expression: &str) -> Option<String> {
    let error = Parser::new().parse(expression).err()?;
    let at = &expression[error.span().start.offset..];
    let is_certain = match error.kind() {
        ErrorKind::ClassRangeInvalid
        | ErrorKind::EscapeUnexpectedEof
        | ErrorKind::GroupUnclosed
        | ErrorKind::GroupUnopened
        | ErrorKind::RepetitionCountInvalid
        | ErrorKind::UnsupportedBackreference
        | ErrorKind::UnsupportedLookAround => true,
        // RE2 takes a bracket inside brackets for itself.
        ErrorKind::ClassUnclosed => expression.matches('[').count() == 1,
        // RE2 takes a brace that counts nothing for itself.
        ErrorKind::RepetitionMissing => !at.starts_with('{'),
        ErrorKind::EscapeUnrecognized => !["\\C", "\\Q", "\\E"]
            .iter()
            .any(|known| at.starts_with(known)),
        _ => false,
    };
    is_certain.then(|| error.kind().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_what_re2_refuses() {
        for expression in [
            "(", "a)", "[a", "[z-a]", "*", "a|*", "a{3,1}", "\\", "(?=a)", "(?!a)", "(a)\\1", "\\y",
        ] {
            assert!(re2_error(expression).is_some(), "{expression}");
        }
    }

    #[test]
    fn takes_what_re2_takes() {
        for expression in [
            "",
            "/users/[0-9]+",
            "/users/{id}",
            "{id}",
            "a{",
            "a{,3}",
            "[^[]+",
            "[[]",
            "\\Qa.b\\E",
            "\\C",
            "(?i)abc",
            "(?P<name>x)",
            "\\pN\\d\\w\\s\\b",
            "/v[0-9]\\.[0-9]/.*",
            "\u{e9}+",
        ] {
            assert_eq!(re2_error(expression), None, "{expression}");
        }
    }
}
