//! Validation of regular expressions for Envoy.
//!
//! Envoy compiles expressions with RE2 and rejects a whole route configuration that contains an invalid one. Evermesh
//! does not link RE2. It uses the parser of a similar syntax and reports only the errors that RE2 reports too: a valid
//! expression is never rejected, but some invalid ones are accepted.
//!
//! Envoy also rejects expressions whose program is too large. [`least_size`] estimates the size and never exceeds that of
//! RE2 in Envoy 1.36; newer releases make smaller programs.

use regex_syntax::ast::{
    self, Ast, ClassBracketed, ClassSet, ClassSetItem, ClassUnicode, ClassUnicodeKind, ErrorKind,
    Flag, Flags, FlagsItemKind, GroupKind, HexLiteralKind, Literal, LiteralKind, RepetitionKind,
    RepetitionRange, Visitor, parse::Parser,
};

/// The largest count of a repetition in RE2; nested counts are multiplied.
const MAX_COUNT: u32 = 1000;

/// The limit of App Mesh and of Evermesh's bootstrap for the size of an expression (`re2.max_program_size.error_level`).
const MAX_SIZE: u64 = 1000;

/// The least size of the constant part of a program.
const LEAST_FRAME: u64 = 3;

/// The least size of the program for one character of any kind, which has up to four bytes.
const ANY_CHARACTER: u64 = 7;

/// Returns the error if Envoy certainly rejects the expression.
pub(crate) fn re2_error(expression: &str) -> Option<String> {
    let ast = match Parser::new().parse(expression) {
        Ok(ast) => ast,
        Err(error) => return parse_error(expression, &error),
    };
    if let Err(error) = ast::visit(&ast, SyntaxOfRe2 { expression }) {
        return Some(error.to_owned());
    }
    let size = least_size(&ast) + LEAST_FRAME;
    (size > MAX_SIZE).then(|| {
        format!("its program has a size of {size} or more, and Envoy's limit is {MAX_SIZE}; use smaller repetitions")
    })
}

/// The error of the parser, if it is an error in RE2 too.
fn parse_error(expression: &str, error: &ast::Error) -> Option<String> {
    let (before, at) = expression.split_at(error.span().start.offset);
    let is_certain = match error.kind() {
        ErrorKind::ClassEscapeInvalid
        | ErrorKind::ClassRangeInvalid
        | ErrorKind::EscapeHexEmpty
        | ErrorKind::EscapeHexInvalidDigit
        | ErrorKind::EscapeUnexpectedEof
        | ErrorKind::FlagDanglingNegation
        | ErrorKind::FlagRepeatedNegation { .. }
        | ErrorKind::FlagUnexpectedEof
        | ErrorKind::FlagUnrecognized
        | ErrorKind::GroupNameDuplicate { .. }
        | ErrorKind::GroupNameEmpty
        | ErrorKind::GroupUnclosed
        | ErrorKind::GroupUnopened
        | ErrorKind::RepetitionCountInvalid
        | ErrorKind::UnicodeClassInvalid
        | ErrorKind::UnsupportedLookAround => true,
        // RE2 accepts `\0` and octal numbers.
        ErrorKind::UnsupportedBackreference => {
            let mut digits = at.chars().skip(1);
            let first = digits.next();
            let is_octal = |digit: char| digit.is_digit(8);
            first != Some('0')
                && !(first.is_some_and(is_octal) && digits.next().is_some_and(is_octal))
        }
        // RE2 accepts a literal `[` inside brackets.
        ErrorKind::ClassUnclosed => expression.matches('[').count() == 1,
        // RE2 accepts a class before the hyphen, as in `[\w-.]`.
        ErrorKind::ClassRangeLiteral => before.ends_with('-'),
        // RE2 accepts a `{` that does not begin a repetition as a literal.
        ErrorKind::RepetitionMissing => !at.starts_with('{') || begins_repetition(at),
        ErrorKind::EscapeUnrecognized => !at.starts_with("\\C") && !at.starts_with("\\Q"),
        _ => false,
    };
    is_certain.then(|| error.kind().to_string())
}

/// Whether the text begins with a count such as `{2}`, `{2,}` or `{2,3}`.
fn begins_repetition(text: &str) -> bool {
    let count = text
        .strip_prefix('{')
        .and_then(|rest| rest.split_once('}'))
        .map(|(count, _)| count.split_once(',').unwrap_or((count, "0")));
    let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    count.is_some_and(|(least, most)| !least.is_empty() && is_number(least) && is_number(most))
}

/// Finds syntax that the parser accepts and RE2 rejects.
struct SyntaxOfRe2<'a> {
    expression: &'a str,
}

impl Visitor for SyntaxOfRe2<'_> {
    type Output = ();
    type Err = &'static str;

    fn finish(self) -> Result<(), Self::Err> {
        Ok(())
    }

    fn visit_pre(&mut self, ast: &Ast) -> Result<(), Self::Err> {
        match ast {
            Ast::Flags(set) => flags(&set.flags),
            Ast::Group(group) => match &group.kind {
                GroupKind::NonCapturing(set) => flags(set),
                GroupKind::CaptureIndex(_) | GroupKind::CaptureName { .. } => Ok(()),
            },
            Ast::Literal(it) => literal(it),
            Ast::ClassUnicode(class) => unicode_class(class),
            Ast::Repetition(repetition) => match &*repetition.ast {
                Ast::Repetition(_) => Err("a repetition is repeated; put it into a group"),
                _ if count(ast, MAX_COUNT) == 0 => {
                    Err("repetitions have a count of more than 1000 in total")
                }
                _ => Ok(()),
            },
            _ => Ok(()),
        }
    }

    fn visit_class_set_item_pre(&mut self, item: &ClassSetItem) -> Result<(), Self::Err> {
        match item {
            ClassSetItem::Literal(it) => literal(it),
            ClassSetItem::Range(range) => literal(&range.start).and(literal(&range.end)),
            ClassSetItem::Unicode(class) => unicode_class(class),
            ClassSetItem::Bracketed(inner) => {
                let text = &self.expression[inner.span.start.offset..inner.span.end.offset];
                if text.starts_with("[:") && text.ends_with(":]") {
                    return Err(
                        "a class of this name does not exist; use a class such as [:alpha:]",
                    );
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

fn flags(flags: &Flags) -> Result<(), &'static str> {
    let unknown = |kind: &FlagsItemKind| {
        matches!(
            kind,
            FlagsItemKind::Flag(Flag::Unicode | Flag::CRLF | Flag::IgnoreWhitespace)
        )
    };
    if flags.items.iter().any(|item| unknown(&item.kind)) {
        return Err("RE2 has only the flags i, m, s and U");
    }
    Ok(())
}

fn literal(literal: &Literal) -> Result<(), &'static str> {
    match literal.kind {
        LiteralKind::HexFixed(HexLiteralKind::UnicodeShort | HexLiteralKind::UnicodeLong)
        | LiteralKind::HexBrace(HexLiteralKind::UnicodeShort | HexLiteralKind::UnicodeLong) => {
            Err("RE2 has no escape \\u or \\U; use \\x{…}")
        }
        _ => Ok(()),
    }
}

fn unicode_class(class: &ClassUnicode) -> Result<(), &'static str> {
    match &class.kind {
        ClassUnicodeKind::OneLetter(letter) if !"CLMNPSZ".contains(*letter) => {
            Err("RE2 has no Unicode class of this letter")
        }
        ClassUnicodeKind::NamedValue { .. } => {
            Err("RE2 has only Unicode classes such as \\p{Greek}")
        }
        ClassUnicodeKind::OneLetter(_) | ClassUnicodeKind::Named(_) => Ok(()),
    }
}

/// The rest of `left` after a division by the counts of nested repetitions. RE2 rejects the expression at 0.
fn count(ast: &Ast, left: u32) -> u32 {
    match ast {
        Ast::Repetition(repetition) => {
            let own = match &repetition.op.kind {
                RepetitionKind::Range(range) => largest(range).max(1),
                _ => 1,
            };
            count(&repetition.ast, left / own)
        }
        Ast::Group(group) => count(&group.ast, left),
        Ast::Alternation(it) => least_count(&it.asts, left),
        Ast::Concat(it) => least_count(&it.asts, left),
        _ => left,
    }
}

fn least_count(asts: &[Ast], left: u32) -> u32 {
    let counts = asts.iter().map(|ast| count(ast, left));
    counts.min().unwrap_or(left)
}

/// The number of copies of an expression that a repetition consists of in RE2's program.
fn largest(range: &RepetitionRange) -> u32 {
    match *range {
        RepetitionRange::Exactly(count)
        | RepetitionRange::AtLeast(count)
        | RepetitionRange::Bounded(_, count) => count,
    }
}

/// The least size of the program for an expression, without its constant part.
///
/// RE2 shares common parts of alternatives and merges neighbouring repetitions, so only the largest alternative counts,
/// and what may be absent does not count.
fn least_size(ast: &Ast) -> u64 {
    match ast {
        Ast::Empty(_) | Ast::Flags(_) | Ast::Assertion(_) => 0,
        Ast::Literal(literal) => literal.c.len_utf8() as u64,
        Ast::Dot(_) => ANY_CHARACTER,
        Ast::ClassUnicode(_) => 1,
        Ast::ClassPerl(class) => size_of_class(class.negated),
        Ast::ClassBracketed(class) => size_of_class(class.negated && is_ascii(class)),
        Ast::Repetition(repetition) => {
            let copies = match &repetition.op.kind {
                RepetitionKind::ZeroOrOne | RepetitionKind::ZeroOrMore => 0,
                RepetitionKind::OneOrMore => 1,
                RepetitionKind::Range(range) => largest(range),
            };
            least_size(&repetition.ast).saturating_mul(copies.into())
        }
        Ast::Group(group) => least_size(&group.ast),
        Ast::Alternation(it) => it.asts.iter().map(least_size).max().unwrap_or(0),
        Ast::Concat(it) => it.asts.iter().map(least_size).fold(0, u64::saturating_add),
    }
}

const fn size_of_class(contains_other_than_ascii: bool) -> u64 {
    if contains_other_than_ascii {
        ANY_CHARACTER
    } else {
        1
    }
}

/// Whether everything inside the brackets is ASCII. `\d`, `\s` and `\w` are, in RE2.
fn is_ascii(class: &ClassBracketed) -> bool {
    match &class.kind {
        ClassSet::Item(item) => item_is_ascii(item),
        ClassSet::BinaryOp(_) => false,
    }
}

fn item_is_ascii(item: &ClassSetItem) -> bool {
    match item {
        ClassSetItem::Literal(literal) => literal.c.is_ascii(),
        ClassSetItem::Range(range) => range.end.c.is_ascii(),
        ClassSetItem::Perl(class) => !class.negated,
        ClassSetItem::Ascii(class) => !class.negated,
        ClassSetItem::Union(union) => union.items.iter().all(item_is_ascii),
        ClassSetItem::Empty(_) | ClassSetItem::Unicode(_) | ClassSetItem::Bracketed(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_that_re2_rejects_are_invalid() {
        for expression in [
            "(",
            "a)",
            "[a",
            "[z-a]",
            "*",
            "a|*",
            "a{3,1}",
            "\\",
            "(?=a)",
            "(?!a)",
            "(a)\\1",
            "\\8",
            "\\y",
            "(?x)a",
            "(?i-u:a)",
            "(?y)a",
            "(?-)a",
            "(?i-)a",
            "(?i",
            "a**",
            "a+*",
            "a{2}{3}",
            "\\u0041",
            "[\\u0041]",
            "[a-\\u0062]",
            "\\x{}",
            "\\xzz",
            "[\\b]",
            "[\\A]",
            "\\pq",
            "[\\pq]",
            "\\p{L",
            "\\p{gc=L}",
            "(?P<>a)",
            "(?P<n>a)(?P<n>b)",
            "\\E",
            "[.-\\w]",
            "[[:alphanum:]]",
            "({2})",
            "a|{2,}",
            "{2,3}",
            "a{1001}",
            "(a{100}){11}",
            "(?:a?){1001}",
            "(?:a?){1001,}",
            "(?:a?){1,1001}",
            "(?:(?:a?){101}|b){10}",
            "(?:(?:a?){101}b){10}",
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
            "a{}",
            "a{0}",
            "a{900}?",
            "(?:a{100}){9}",
            "(?:a*)*",
            "(?:a{2}){3}",
            "[^[]+",
            "[[]",
            "[a&&b]",
            "[a[b]c]",
            "[a[:b]]",
            "[a[b:]]",
            "[\\w-.]",
            "[[:alnum:]]",
            "({,3})",
            "({2,x})",
            "({x,2})",
            "(?:a?){1000}",
            "(?:(?:a?){100}|b){10}",
            "(?:(?:a?){100}b){10}",
            "{2",
            "\\Qa.b\\E",
            "\\C",
            "\\0",
            "\\07",
            "\\12",
            "\\x41\\x{41}",
            "\\_\\-\\/",
            "(?i)abc",
            "(?ii)abc",
            "(?i-s:abc)",
            "(?U)a+",
            "(?P<name>x)",
            "\\pN\\p{Greek}\\p{^Lu}\\d\\w\\s\\b",
            "[\\pN]",
            "/v[0-9]\\.[0-9]/.*",
            "\u{e9}+",
        ] {
            assert_eq!(re2_error(expression), None, "{expression}");
        }
    }

    #[test]
    fn expressions_with_too_large_a_program_are_invalid() {
        for (expression, is_valid) in [
            ("^(.*;\\s*)?session=[0-9a-f]{64}(;.*)?$", true),
            ("[0-9A-Za-z_-]{1,255}", true),
            ("a{997}", true),
            ("a{998}", false),
            (".{1,255}", false),
            ("[^/]{200}", false),
            ("\\D{200}", false),
            ("\\d{997}", true),
            ("\\d{998}", false),
            ("\\pN{998}", false),
            ("[^a-z]{200}", false),
            ("[^a-\u{e9}]{200}", true),
            ("[^a/]{200}", false),
            ("[^a\u{e9}]{200}", true),
            ("[^\\w]{200}", false),
            ("[^\\W]{200}", true),
            ("[^[:alpha:]]{200}", false),
            ("[^[:^alpha:]]{200}", true),
            ("[^\\pN]{200}", true),
            ("(a{900})?b{900}", true),
            ("(a{900})+b{900}", false),
            ("(abc|abd){250}", true),
            ("(abc|abcde){250}", false),
            ("\u{e9}{400}", true),
            ("\u{e9}{600}", false),
        ] {
            assert_eq!(re2_error(expression).is_none(), is_valid, "{expression}");
        }
    }
}
