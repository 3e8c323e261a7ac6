//! One mutation of a source file, and the text edits that make it selectable at run time.

use std::{cmp::Reverse, ops::Range};

/// A change of one place of a file.
#[derive(Debug)]
pub(crate) struct MutationSite {
    /// Line and column, both from 1.
    pub(crate) place: (usize, usize),
    /// The text of the line, without indentation.
    pub(crate) source: String,
    /// The change in words, such as `condition to true`.
    pub(crate) kind: String,
    /// The bytes that the mutation replaces or skips; empty if it only inserts.
    pub(crate) range: Range<usize>,
    pub(crate) form: MutationForm,
}

/// The shape of the inserted text. `is_active` stands for a call with the mutation's number.
#[derive(Debug)]
pub(crate) enum MutationForm {
    /// `(if is_active { TEXT } else { ORIGINAL })`.
    Replace(String),
    /// The same as the value of a field in shorthand: `NAME: (if …)`.
    ReplaceShorthand { name: String, text: String },
    /// `if is_active { TEXT } else ORIGINAL`, for a block, after which an arm needs no comma.
    ReplaceBlock(String),
    /// `if !is_active { ORIGINAL }`, for a statement.
    Skip,
    /// `if is_active { return TEXT; }` before the range.
    Return(String),
    /// `!is_active && ` before the range, which begins a pattern's `let`.
    RefuseLet,
    /// ` if !is_active` before the range, which follows a pattern.
    RefuseArm,
}

impl MutationSite {
    /// The texts before and after the range.
    fn insertions(&self, number: usize) -> (String, &'static str) {
        let active = format!("crate::mutation::is_active({number})");
        match &self.form {
            MutationForm::Replace(text) => (format!("(if {active} {{ {text} }} else {{ "), " })"),
            MutationForm::ReplaceShorthand { name, text } => {
                (format!("{name}: (if {active} {{ {text} }} else {{ "), " })")
            }
            MutationForm::ReplaceBlock(text) => (format!("if {active} {{ {text} }} else "), ""),
            MutationForm::Skip => (format!("if !{active} {{ "), " }"),
            MutationForm::Return(text) => (format!(" if {active} {{ return {text}; }} "), ""),
            MutationForm::RefuseLet => (format!("!{active} && "), ""),
            MutationForm::RefuseArm => (format!(" if !{active}"), ""),
        }
    }

    /// True if the insertion stands after all that ends at its place, and before all that begins there.
    fn is_point(&self) -> bool {
        matches!(self.form, MutationForm::Return(_) | MutationForm::RefuseArm)
    }
}

/// A source text with mutations.
#[derive(Debug)]
pub(crate) struct MutatedText {
    pub(crate) text: String,
    fragments: Vec<Fragment>,
}

/// The bytes of a mutated text that belong to a mutation: all of it, and what was inserted.
#[derive(Debug)]
struct Fragment {
    number: usize,
    whole: Range<usize>,
    inserted: [Range<usize>; 2],
}

impl MutatedText {
    /// Applies the mutations, each with its number. Lines keep their numbers.
    pub(crate) fn new(source: &str, sites: &[(usize, &MutationSite)]) -> Self {
        let mut insertions = Vec::new();
        for (index, (number, site)) in sites.iter().enumerate() {
            let (open, close) = site.insertions(*number);
            let Range { start, end } = site.range;
            // At one place: first what ends there, inner before outer; then points; then what begins there, outer
            // before inner.
            let order = if site.is_point() {
                (1, Reverse(0), *number)
            } else {
                (2, Reverse(end), *number)
            };
            insertions.push((start, order, index, 0, open));
            insertions.push((
                end,
                (0, Reverse(start), usize::MAX - number),
                index,
                1,
                close.to_owned(),
            ));
        }
        insertions.retain(|(.., text)| !text.is_empty());
        insertions.sort();
        let mut fragments: Vec<Fragment> = sites
            .iter()
            .map(|(number, _)| Fragment {
                number: *number,
                whole: 0..0,
                inserted: [0..0, 0..0],
            })
            .collect();
        let mut text = String::new();
        let mut copied = 0;
        for (at, _, index, side, inserted) in insertions {
            text.push_str(&source[copied..at]);
            copied = at;
            let start = text.len();
            text.push_str(&inserted);
            let fragment = &mut fragments[index];
            fragment.inserted[side] = start..text.len();
            if side == 0 {
                fragment.whole.start = start;
            }
            fragment.whole.end = text.len();
        }
        text.push_str(&source[copied..]);
        Self { text, fragments }
    }

    /// Numbers of the mutations that caused an error in these bytes: the innermost whose inserted text contains them,
    /// else the innermost that contains them, else all inside.
    pub(crate) fn guilty(&self, error: &Range<usize>) -> Vec<usize> {
        let contains = |range: &Range<usize>| range.start <= error.start && error.end <= range.end;
        let innermost = |is_candidate: &dyn Fn(&&Fragment) -> bool| {
            let candidates = self.fragments.iter().filter(is_candidate);
            let innermost = candidates.min_by_key(|fragment| fragment.whole.len())?;
            Some(vec![innermost.number])
        };
        innermost(&|fragment| fragment.inserted.iter().any(contains))
            .or_else(|| innermost(&|fragment| contains(&fragment.whole)))
            .unwrap_or_else(|| {
                let inside = self.fragments.iter().filter(|fragment| {
                    error.start <= fragment.whole.start && fragment.whole.end <= error.end
                });
                inside.map(|fragment| fragment.number).collect()
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn site(range: Range<usize>, form: MutationForm) -> MutationSite {
        MutationSite {
            place: (1, 1),
            source: String::new(),
            kind: String::new(),
            range,
            form,
        }
    }

    fn replace(range: Range<usize>, text: &str) -> MutationSite {
        site(range, MutationForm::Replace(text.to_owned()))
    }

    #[test]
    fn outer_mutation_encloses_the_inner_one() {
        let outer = replace(0..6, "a || b");
        let inner = replace(0..1, "true");
        let mutated = MutatedText::new("a && b", &[(1, &outer), (2, &inner)]);
        assert_eq!(
            mutated.text,
            "(if crate::mutation::is_active(1) { a || b } else { \
             (if crate::mutation::is_active(2) { true } else { a }) && b })"
        );
    }

    #[test]
    fn mutations_of_one_range_nest_by_number() {
        let (first, second) = (replace(0..1, "true"), replace(0..1, "false"));
        let mutated = MutatedText::new("a", &[(1, &first), (2, &second)]);
        assert_eq!(
            mutated.text,
            "(if crate::mutation::is_active(1) { true } else { \
             (if crate::mutation::is_active(2) { false } else { a }) })"
        );
    }

    #[test]
    fn insertions_without_an_end_stand_before_what_begins_there() {
        let body = site(1..1, MutationForm::Return("0".to_owned()));
        let value = replace(1..2, "0");
        let mutated = MutatedText::new("{a}", &[(1, &value), (2, &body)]);
        assert_eq!(
            mutated.text,
            "{ if crate::mutation::is_active(2) { return 0; } \
             (if crate::mutation::is_active(1) { 0 } else { a })}"
        );
    }

    #[test]
    fn error_belongs_to_the_mutation_that_inserted_its_text() {
        let outer = replace(0..6, "c");
        let inner = replace(0..1, "nonsense");
        let mutated = MutatedText::new("a && b", &[(1, &outer), (2, &inner)]);
        let range = |text: &str| {
            let start = mutated.text.find(text).unwrap();
            start..start + text.len()
        };
        assert_eq!(mutated.guilty(&range("nonsense")), [2]);
        assert_eq!(mutated.guilty(&range("{ c }")), [1]);
        assert_eq!(mutated.guilty(&range(" && b")), [1]);
        assert_eq!(mutated.guilty(&(0..mutated.text.len())), [1]);
    }

    #[test]
    fn error_around_mutations_belongs_to_all_inside() {
        let (first, second) = (replace(2..3, "x"), replace(5..6, "y"));
        let mutated = MutatedText::new("f(a, b)", &[(1, &first), (2, &second)]);
        assert_eq!(mutated.guilty(&(0..mutated.text.len())), [1, 2]);
    }
}
