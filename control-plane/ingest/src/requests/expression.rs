//! Properties of an RE2 expression that are known without RE2: its literal ends, and whether it accepts a text.
//!
//! Envoy matches an expression with a whole text. The parser reads a similar syntax; whatever it reads differently from
//! RE2, and all that is not ASCII, is treated as unknown.

use std::collections::BTreeSet;

use regex_syntax::ast::{
    AssertionKind, Ast, ClassAsciiKind, ClassBracketed, ClassPerl, ClassPerlKind, ClassSet,
    ClassSetItem, GroupKind, RepetitionKind, RepetitionRange, parse::Parser,
};

/// A regular expression with its literal beginning and end.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ParsedExpression {
    pub(super) text: String,
    /// The beginning of every text that the expression accepts.
    pub(super) prefix: String,
    /// The end of every text that the expression accepts.
    pub(super) suffix: String,
    pub(super) shape: ExpressionShape,
    /// Absent if the parser cannot read the expression.
    ast: Option<Ast>,
}

/// The form of an expression.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ExpressionShape {
    /// A text, which is the prefix.
    Literal,
    /// The prefix and then `.*`.
    Prefix,
    /// The prefix and then `.+`.
    LongerPrefix,
    Other,
}

/// The length of texts, in bytes, up to which [`ParsedExpression::accepts`] answers: it takes quadratic time.
const MAX_TEXT: usize = 256;

impl ParsedExpression {
    pub(super) fn of(text: &str) -> Self {
        // RE2 reads `{,` as a literal, the parser as the beginning of a count.
        let ast = Parser::new()
            .parse(text)
            .ok()
            .filter(|_| !text.contains("{,"));
        let mut parts = Vec::new();
        if let Some(ast) = &ast {
            flatten(ast, &mut parts);
        }
        // An anchor at its own end has no effect, because the whole text has to match.
        if parts.first().is_some_and(|part| is_assertion(part, true)) {
            parts.remove(0);
        }
        if parts.last().is_some_and(|part| is_assertion(part, false)) {
            parts.pop();
        }
        let prefix: String = parts.iter().map_while(|part| literal(part)).collect();
        let mut suffix: Vec<char> = parts.iter().rev().map_while(|part| literal(part)).collect();
        suffix.reverse();
        // A flag changes the meaning of the literals after it.
        if parts.iter().any(|part| matches!(part, Ast::Flags(_))) {
            suffix.clear();
        }
        let shape = match &parts[prefix.chars().count()..] {
            [] if ast.is_some() => ExpressionShape::Literal,
            [Ast::Repetition(rest)] if matches!(*rest.ast, Ast::Dot(_)) => match rest.op.kind {
                RepetitionKind::ZeroOrMore => ExpressionShape::Prefix,
                RepetitionKind::OneOrMore => ExpressionShape::LongerPrefix,
                RepetitionKind::ZeroOrOne | RepetitionKind::Range(_) => ExpressionShape::Other,
            },
            _ => ExpressionShape::Other,
        };
        Self {
            text: text.to_owned(),
            prefix,
            suffix: suffix.into_iter().collect(),
            shape,
            ast,
        }
    }

    /// Whether the expression accepts the text; `None` if that is unknown.
    pub(super) fn accepts(&self, text: &str) -> Option<bool> {
        if !text.starts_with(&self.prefix) || !text.ends_with(&self.suffix) {
            return Some(false);
        }
        if !text.is_ascii() || text.len() > MAX_TEXT {
            return None;
        }
        let ends = ends(self.ast.as_ref()?, text.as_bytes(), &[0].into())?;
        Some(ends.contains(&text.len()))
    }
}

/// Appends the parts of a concatenation, also of those inside groups.
fn flatten<'a>(ast: &'a Ast, parts: &mut Vec<&'a Ast>) {
    match ast {
        Ast::Empty(_) => {}
        Ast::Concat(concat) => concat.asts.iter().for_each(|ast| flatten(ast, parts)),
        Ast::Group(group) if has_no_flags(&group.kind) => flatten(&group.ast, parts),
        _ => parts.push(ast),
    }
}

fn has_no_flags(group: &GroupKind) -> bool {
    match group {
        GroupKind::CaptureIndex(_) | GroupKind::CaptureName { .. } => true,
        GroupKind::NonCapturing(flags) => flags.items.is_empty(),
    }
}

fn is_assertion(ast: &Ast, at_start: bool) -> bool {
    let Ast::Assertion(assertion) = ast else {
        return false;
    };
    match assertion.kind {
        AssertionKind::StartLine | AssertionKind::StartText => at_start,
        AssertionKind::EndLine | AssertionKind::EndText => !at_start,
        _ => false,
    }
}

fn literal(ast: &Ast) -> Option<char> {
    match ast {
        Ast::Literal(literal) if literal.c.is_ascii() => Some(literal.c),
        _ => None,
    }
}

/// The positions at which a match can end that begins at one of `starts`.
fn ends(ast: &Ast, text: &[u8], starts: &BTreeSet<usize>) -> Option<BTreeSet<usize>> {
    let one = |fits: &dyn Fn(u8) -> bool| {
        let fitting = starts
            .iter()
            .filter(|at| text.get(**at).is_some_and(|byte| fits(*byte)));
        Some(fitting.map(|at| at + 1).collect())
    };
    match ast {
        Ast::Empty(_) => Some(starts.clone()),
        Ast::Literal(literal) if literal.c.is_ascii() => one(&|byte| char::from(byte) == literal.c),
        Ast::Dot(_) => one(&|byte| byte != b'\n'),
        Ast::ClassPerl(class) => one(&|byte| perl_class(class, byte)),
        Ast::ClassBracketed(class) => {
            let accepted = class_bytes(class)?;
            one(&|byte| accepted.contains(&byte))
        }
        Ast::Assertion(assertion) => {
            let at = match assertion.kind {
                AssertionKind::StartLine | AssertionKind::StartText => 0,
                AssertionKind::EndLine | AssertionKind::EndText => text.len(),
                _ => return None,
            };
            Some(
                starts
                    .iter()
                    .copied()
                    .filter(|start| *start == at)
                    .collect(),
            )
        }
        Ast::Group(group) if has_no_flags(&group.kind) => ends(&group.ast, text, starts),
        Ast::Concat(concat) => concat
            .asts
            .iter()
            .try_fold(starts.clone(), |starts, ast| ends(ast, text, &starts)),
        Ast::Alternation(alternation) => {
            let mut all = BTreeSet::new();
            for ast in &alternation.asts {
                all.extend(ends(ast, text, starts)?);
            }
            Some(all)
        }
        Ast::Repetition(repetition) => {
            let (least, most) = match &repetition.op.kind {
                RepetitionKind::ZeroOrOne => (0, Some(1)),
                RepetitionKind::ZeroOrMore => (0, None),
                RepetitionKind::OneOrMore => (1, None),
                RepetitionKind::Range(RepetitionRange::Exactly(count)) => (*count, Some(*count)),
                RepetitionKind::Range(RepetitionRange::AtLeast(count)) => (*count, None),
                RepetitionKind::Range(RepetitionRange::Bounded(least, most)) => {
                    (*least, Some(*most))
                }
            };
            repeated(&repetition.ast, text, starts, (least, most))
        }
        Ast::Literal(_) | Ast::Flags(_) | Ast::ClassUnicode(_) | Ast::Group(_) => None,
    }
}

fn repeated(
    ast: &Ast,
    text: &[u8],
    starts: &BTreeSet<usize>,
    (least, most): (u32, Option<u32>),
) -> Option<BTreeSet<usize>> {
    let mut reached = starts.clone();
    for _ in 0..least {
        let next = ends(ast, text, &reached)?;
        if next == reached {
            break;
        }
        reached = next;
    }
    let mut all = reached.clone();
    let mut count = least;
    while most.is_none_or(|most| count < most) {
        reached = ends(ast, text, &reached)?;
        reached.retain(|end| !all.contains(end));
        if reached.is_empty() {
            break;
        }
        all.extend(&reached);
        count += 1;
    }
    Some(all)
}

/// `\d`, `\s` and `\w` in RE2, which has only ASCII there and no vertical tab in `\s`.
fn perl_class(class: &ClassPerl, byte: u8) -> bool {
    let is_in = match class.kind {
        ClassPerlKind::Digit => byte.is_ascii_digit(),
        ClassPerlKind::Space => matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | 0x0c),
        ClassPerlKind::Word => byte.is_ascii_alphanumeric() || byte == b'_',
    };
    is_in != class.negated
}

fn class_bytes(class: &ClassBracketed) -> Option<BTreeSet<u8>> {
    let ClassSet::Item(item) = &class.kind else {
        return None;
    };
    let mut bytes = BTreeSet::new();
    add_bytes(item, &mut bytes)?;
    Some(
        (0..0x80)
            .filter(|byte| bytes.contains(byte) != class.negated)
            .collect(),
    )
}

fn add_bytes(item: &ClassSetItem, bytes: &mut BTreeSet<u8>) -> Option<()> {
    match item {
        ClassSetItem::Literal(literal) => bytes.extend(u8::try_from(literal.c)),
        ClassSetItem::Range(range) => {
            bytes.extend((range.start.c..=range.end.c).map_while(|c| u8::try_from(c).ok()));
        }
        ClassSetItem::Perl(class) => {
            bytes.extend((0..0x80).filter(|byte| perl_class(class, *byte)));
        }
        ClassSetItem::Ascii(class) => {
            let is_in: fn(&u8) -> bool = match class.kind {
                ClassAsciiKind::Alnum => u8::is_ascii_alphanumeric,
                ClassAsciiKind::Alpha => u8::is_ascii_alphabetic,
                ClassAsciiKind::Digit => u8::is_ascii_digit,
                ClassAsciiKind::Lower => u8::is_ascii_lowercase,
                ClassAsciiKind::Upper => u8::is_ascii_uppercase,
                ClassAsciiKind::Punct => u8::is_ascii_punctuation,
                ClassAsciiKind::Xdigit => u8::is_ascii_hexdigit,
                _ => return None,
            };
            bytes.extend((0..0x80).filter(|byte| is_in(byte) != class.negated));
        }
        ClassSetItem::Union(union) => {
            for item in &union.items {
                add_bytes(item, bytes)?;
            }
        }
        ClassSetItem::Empty(_) | ClassSetItem::Unicode(_) | ClassSetItem::Bracketed(_) => {
            return None;
        }
    }
    Some(())
}
