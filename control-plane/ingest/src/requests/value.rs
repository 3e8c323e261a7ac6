//! The values of one header or query parameter that a match accepts.

use std::cmp::Reverse;

use evermesh_model::route::ValueMatch;

use super::expression::{ExpressionShape, ParsedExpression};

/// The values that the conditions on one name accept.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum ValueSet {
    /// The conditions contradict each other.
    Nothing,
    /// The name is absent.
    Absent,
    /// The name is present, with a value that fits.
    Present(ValuePattern),
}

/// A condition on a present value.
#[derive(Debug, Clone, PartialEq)]
enum Condition {
    Exact(String),
    Prefix(String),
    Suffix(String),
    /// From the first integer to the second one, which is excluded.
    Range(i64, i64),
    Regex(ParsedExpression),
}

/// Conditions on a present value that do not imply each other, as far as that is known.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct ValuePattern {
    exact: Option<String>,
    prefix: String,
    suffix: String,
    range: Option<(i64, i64)>,
    expressions: Vec<ParsedExpression>,
    /// Conditions that the value does not meet.
    not: Vec<Condition>,
}

/// A measure of a set; the greater of two comparable sets is the narrower one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ValueSpecificity {
    is_single: bool,
    expressions: usize,
    prefix: usize,
    suffix: usize,
    range: Option<Reverse<i128>>,
    /// Expressions that say no more than that the value has a prefix.
    prefix_expressions: usize,
    /// The strongest first. A set with further ones is narrower.
    not: Vec<ConditionStrength>,
}

/// A measure of the values that a condition accepts; a condition that another one implies is the greater of the two.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum ConditionStrength {
    Exact,
    Regex,
    Range(i128),
    PrefixOrSuffix(Reverse<usize>),
}

impl ValueSet {
    /// The values that meet all conditions. An inverted condition needs a value too, except for that of presence.
    pub(super) fn of(conditions: &[(ValueMatch, bool)]) -> Self {
        let is_absence =
            |(value, invert): &&(ValueMatch, bool)| *value == ValueMatch::Present && *invert;
        match conditions.iter().filter(is_absence).count() {
            0 => {}
            count if count == conditions.len() => return Self::Absent,
            _ => return Self::Nothing,
        }
        let mut pattern = ValuePattern::default();
        let mut is_possible = true;
        for (value, invert) in conditions {
            match (Condition::of(value), invert) {
                (None, false) => {}
                (None, true) => is_possible = false,
                (Some(condition), true) => pattern.not.push(condition),
                (Some(condition), false) => is_possible &= pattern.add(condition),
            }
        }
        if is_possible && pattern.simplify() {
            Self::Present(pattern)
        } else {
            Self::Nothing
        }
    }

    /// Whether every present value is in the set, and nothing else.
    pub(super) fn is_presence(&self) -> bool {
        matches!(self, Self::Present(pattern) if *pattern == ValuePattern::default())
    }

    pub(super) fn contains(&self, other: &Self) -> bool {
        match (self, other) {
            (_, Self::Nothing) | (Self::Absent, Self::Absent) => true,
            (Self::Present(own), Self::Present(other)) => {
                own.conditions().all(|condition| other.implies(&condition))
                    && own.not.iter().all(|condition| other.excludes(condition))
            }
            _ => false,
        }
    }

    /// The only value that the set can contain.
    pub(super) fn single(&self) -> Option<&str> {
        match self {
            Self::Present(pattern) => pattern.exact.as_deref(),
            Self::Nothing | Self::Absent => None,
        }
    }

    pub(super) fn specificity(&self) -> ValueSpecificity {
        let pattern = match self {
            Self::Nothing | Self::Absent => &ValuePattern::default(),
            Self::Present(pattern) => pattern,
        };
        let longest = |own: &str, of: fn(&ParsedExpression) -> &str| {
            let ends = pattern.expressions.iter().map(|it| of(it).len());
            ends.chain([own.len()]).max().unwrap_or_default()
        };
        let prefix_expressions = pattern
            .expressions
            .iter()
            .filter(|it| it.shape != ExpressionShape::Other)
            .count();
        let mut not: Vec<ConditionStrength> = pattern.not.iter().map(Condition::strength).collect();
        not.sort_by(|one, other| other.cmp(one));
        ValueSpecificity {
            is_single: !matches!(self, Self::Present(pattern) if pattern.exact.is_none()),
            expressions: pattern.expressions.len() - prefix_expressions,
            prefix: longest(&pattern.prefix, |it| &it.prefix),
            suffix: longest(&pattern.suffix, |it| &it.suffix),
            range: pattern.range.map(|range| Reverse(width(range))),
            prefix_expressions,
            not,
        }
    }
}

impl ValuePattern {
    fn of(condition: &Condition) -> Self {
        let mut pattern = Self::default();
        pattern.add(condition.clone());
        pattern
    }

    /// Adds a condition; returns whether a value can meet it and the ones before, as far as that is known.
    fn add(&mut self, condition: Condition) -> bool {
        match condition {
            Condition::Exact(text) => {
                let is_possible = self.exact.as_ref().is_none_or(|exact| *exact == text);
                self.exact = Some(text);
                is_possible
            }
            Condition::Prefix(text) => {
                let is_possible = text.starts_with(&self.prefix) || self.prefix.starts_with(&text);
                if text.len() > self.prefix.len() {
                    self.prefix = text;
                }
                is_possible
            }
            Condition::Suffix(text) => {
                let is_possible = text.ends_with(&self.suffix) || self.suffix.ends_with(&text);
                if text.len() > self.suffix.len() {
                    self.suffix = text;
                }
                is_possible
            }
            Condition::Range(start, end) => {
                let (own_start, own_end) = self.range.unwrap_or((start, end));
                let (start, end) = (start.max(own_start), end.min(own_end));
                self.range = Some((start, end));
                start < end
            }
            Condition::Regex(expression) => {
                if !self.expressions.contains(&expression) {
                    self.expressions.push(expression);
                }
                true
            }
        }
    }

    /// Removes conditions that others imply. Returns whether a value can meet the rest, as far as that is known.
    fn simplify(&mut self) -> bool {
        self.expressions
            .sort_by(|one, other| one.text.cmp(&other.text));
        if let Some(exact) = &self.exact {
            let exact = exact.clone();
            let fits = |condition: &Condition| condition.accepts(&exact);
            let results: Vec<_> = self
                .conditions()
                .map(|it| fits(&it))
                .chain(self.not.iter().map(|it| fits(it).map(|fits| !fits)))
                .collect();
            if results.contains(&Some(false)) {
                return false;
            }
            if !results.contains(&None) {
                *self = Self::of(&Condition::Exact(exact));
            }
            return true;
        }
        self.simplify_ranges();
        let is_contradiction = self.conditions().any(|it| self.positives_exclude(&it))
            || self.not.iter().any(|it| self.implies(it));
        if self.range.is_some_and(|(start, end)| start >= end) || is_contradiction {
            return false;
        }
        let leads =
            |text: &str, of: fn(&ParsedExpression) -> &str, holds: fn(&str, &str) -> bool| {
                self.expressions.iter().any(|it| holds(of(it), text))
            };
        if leads(
            &self.prefix,
            |it| &it.prefix,
            |one, other| one.starts_with(other),
        ) {
            self.prefix.clear();
        }
        if leads(
            &self.suffix,
            |it| &it.suffix,
            |one, other| one.ends_with(other),
        ) {
            self.suffix.clear();
        }
        let mut kept: Vec<Condition> = Vec::new();
        let mut not = std::mem::take(&mut self.not);
        not.sort_by_key(|it| Reverse(it.strength()));
        for condition in not {
            let implied = Self::of(&condition);
            if !self.positives_exclude(&condition) && !kept.iter().any(|it| implied.implies(it)) {
                kept.push(condition);
            }
        }
        self.not = kept;
        true
    }

    /// Merges the excluded ranges that touch each other, and cuts them off the ends of the accepted one.
    fn simplify_ranges(&mut self) {
        let mut excluded: Vec<(i64, i64)> = Vec::new();
        self.not.retain(|condition| match condition {
            Condition::Range(start, end) => {
                excluded.extend((start < end).then_some((*start, *end)));
                false
            }
            _ => true,
        });
        excluded.sort_unstable();
        let mut merged: Vec<(i64, i64)> = Vec::new();
        for (start, end) in excluded {
            match merged.last_mut() {
                Some((_, last)) if start <= *last => *last = end.max(*last),
                _ => merged.push((start, end)),
            }
        }
        if let Some((own_start, own_end)) = &mut self.range {
            for &(start, end) in &merged {
                if start <= *own_start {
                    *own_start = end.max(*own_start);
                }
            }
            for &(start, end) in merged.iter().rev() {
                if end >= *own_end {
                    *own_end = start.min(*own_end);
                }
            }
        }
        let ranges = merged
            .into_iter()
            .map(|(start, end)| Condition::Range(start, end));
        self.not.extend(ranges);
    }

    /// The conditions that a value meets.
    fn conditions(&self) -> impl Iterator<Item = Condition> {
        let text = |text: &String, of: fn(String) -> Condition| {
            (!text.is_empty()).then(|| of(text.clone()))
        };
        let single = [
            self.exact.clone().map(Condition::Exact),
            text(&self.prefix, Condition::Prefix),
            text(&self.suffix, Condition::Suffix),
            self.range.map(|(start, end)| Condition::Range(start, end)),
        ];
        let expressions = self.expressions.iter().cloned().map(Condition::Regex);
        single.into_iter().flatten().chain(expressions)
    }

    /// Whether every value of the pattern meets the condition.
    fn implies(&self, condition: &Condition) -> bool {
        if let Some(exact) = &self.exact
            && let Some(fits) = condition.accepts(exact)
        {
            return fits;
        }
        match condition {
            Condition::Exact(_) => false,
            Condition::Prefix(text) => self.prefixes().any(|own| own.starts_with(text)),
            Condition::Suffix(text) => self.suffixes().any(|own| own.ends_with(text)),
            Condition::Range(start, end) => self
                .range
                .is_some_and(|(own_start, own_end)| *start <= own_start && own_end <= *end),
            Condition::Regex(expression) => self
                .expressions
                .iter()
                .any(|own| own.text == expression.text),
        }
    }

    /// Whether no value of the pattern meets the condition.
    fn excludes(&self, condition: &Condition) -> bool {
        let met = Self::of(condition);
        self.positives_exclude(condition) || self.not.iter().any(|not| met.implies(not))
    }

    /// Whether the condition contradicts those that a value of the pattern meets.
    fn positives_exclude(&self, condition: &Condition) -> bool {
        if let Some(exact) = &self.exact {
            return condition.accepts(exact) == Some(false);
        }
        if let Condition::Exact(text) = condition {
            return self
                .conditions()
                .any(|own| own.accepts(text) == Some(false));
        }
        let other = Self::of(condition);
        let disagree = |own: Vec<&str>, others: Vec<&str>, fits: fn(&str, &str) -> bool| {
            let clashes = |own: &&str, other: &&str| !fits(own, other) && !fits(other, own);
            own.iter()
                .any(|own| others.iter().any(|other| clashes(own, other)))
        };
        let is_number = self.range.is_some() || other.range.is_some();
        disagree(
            self.prefixes().collect(),
            other.prefixes().collect(),
            |one, other| one.starts_with(other),
        ) || disagree(
            self.suffixes().collect(),
            other.suffixes().collect(),
            |one, other| one.ends_with(other),
        ) || (is_number
            && (self
                .prefixes()
                .chain(other.prefixes())
                .any(|it| !is_part_of_integer(it))
                || self
                    .suffixes()
                    .chain(other.suffixes())
                    .any(|it| !is_part_of_integer(it))))
            || matches!((self.range, other.range), (Some(own), Some(other)) if own.1 <= other.0 || other.1 <= own.0)
    }

    fn prefixes(&self) -> impl Iterator<Item = &str> {
        let of_expressions = self.expressions.iter().map(|it| it.prefix.as_str());
        of_expressions.chain([self.prefix.as_str()])
    }

    fn suffixes(&self) -> impl Iterator<Item = &str> {
        let of_expressions = self.expressions.iter().map(|it| it.suffix.as_str());
        of_expressions.chain([self.suffix.as_str()])
    }
}

impl Condition {
    /// `None` for a condition that every present value meets.
    fn of(value: &ValueMatch) -> Option<Self> {
        Some(match value {
            ValueMatch::Present => return None,
            ValueMatch::Exact(text) => Self::Exact(text.to_string()),
            ValueMatch::Prefix(text) | ValueMatch::Suffix(text) if text.is_empty() => return None,
            ValueMatch::Prefix(text) => Self::Prefix(text.to_string()),
            ValueMatch::Suffix(text) => Self::Suffix(text.to_string()),
            ValueMatch::Range { start, end } => Self::Range(*start, *end),
            ValueMatch::Regex(text) => {
                let expression = ParsedExpression::of(text);
                match expression.shape {
                    ExpressionShape::Literal => Self::Exact(expression.prefix),
                    _ => Self::Regex(expression),
                }
            }
        })
    }

    /// Whether a value meets the condition; `None` if that is unknown.
    fn accepts(&self, value: &str) -> Option<bool> {
        match self {
            Self::Exact(text) => Some(value == text),
            Self::Prefix(text) => Some(value.starts_with(text)),
            Self::Suffix(text) => Some(value.ends_with(text)),
            Self::Range(start, end) => {
                Some(integer(value).is_some_and(|number| (start..end).contains(&&number)))
            }
            Self::Regex(expression) => expression.accepts(value),
        }
    }

    fn strength(&self) -> ConditionStrength {
        match self {
            Self::Exact(_) => ConditionStrength::Exact,
            Self::Regex(_) => ConditionStrength::Regex,
            Self::Range(start, end) => ConditionStrength::Range(width((*start, *end))),
            Self::Prefix(text) | Self::Suffix(text) => {
                ConditionStrength::PrefixOrSuffix(Reverse(text.len()))
            }
        }
    }
}

fn width((start, end): (i64, i64)) -> i128 {
    i128::from(end) - i128::from(start)
}

/// Reads an integer as Envoy does (`absl::SimpleAtoi`): spaces around it, a sign and zeros before it are accepted.
fn integer(value: &str) -> Option<i64> {
    let text = value.trim_matches(is_space);
    // The standard library accepts a sign and zeros too.
    text.parse().ok()
}

const fn is_space(character: char) -> bool {
    matches!(character, ' ' | '\t'..='\r')
}

/// Whether an integer may begin or end with the text.
fn is_part_of_integer(text: &str) -> bool {
    let text = text.trim_matches(is_space);
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    digits.bytes().all(|byte| byte.is_ascii_digit())
}
