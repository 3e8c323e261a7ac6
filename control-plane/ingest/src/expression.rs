//! Validation of regular expressions for Envoy.
//!
//! Envoy compiles expressions with RE2 and rejects a whole route configuration that contains an invalid one. Evermesh
//! does not link RE2. It uses the parser of a similar syntax and reports only the errors that RE2 reports too: a valid
//! expression is never rejected, but some invalid ones are accepted.

use regex_syntax::ast::{ErrorKind, parse::Parser};

/// Returns the error if RE2 certainly rejects the expression.
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
        // RE2 accepts a literal `[` inside brackets.
        ErrorKind::ClassUnclosed => expression.matches('[').count() == 1,
        // RE2 accepts a `{` that does not begin a repetition as a literal.
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
    fn expressions_that_re2_rejects_are_invalid() {
        for expression in [
            "(", "a)", "[a", "[z-a]", "*", "a|*", "a{3,1}", "\\", "(?=a)", "(?!a)", "(a)\\1", "\\y",
        ] {
            assert!(re2_error(expression).is_some(), "{expression}");
        }
    }

    #[test]
    fn expressions_that_re2_accepts_are_valid() {
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
