//! Survivors that are explained in `xtask/mutations.yaml`.

use std::fs;

use anyhow::{Context, Result};
use serde::Deserialize;

use super::{outcome::Outcome, workspace::Mutation};
use crate::{Finding, files};

pub(crate) const EXCEPTIONS: &str = "xtask/mutations.yaml";

/// Mutations that survive for one reason.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ExplainedSurvivors {
    /// The explanation, for readers of the file.
    #[serde(rename = "reason")]
    _reason: String,
    mutations: Vec<SurvivorPattern>,
}

/// Mutations of one kind on lines with one text.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SurvivorPattern {
    path: String,
    /// The line of the source, without indentation.
    line: String,
    /// The kinds of the mutations, such as `condition to true`.
    kinds: Vec<String>,
}

pub(crate) struct Exceptions {
    text: String,
    explained: Vec<ExplainedSurvivors>,
}

impl Exceptions {
    /// # Errors
    ///
    /// If the file cannot be read or parsed.
    pub(crate) fn read() -> Result<Self> {
        Self::parse(fs::read_to_string(files::root().join(EXCEPTIONS)).context(EXCEPTIONS)?)
    }

    fn parse(text: String) -> Result<Self> {
        let explained = serde_saphyr::from_str(&text).context(EXCEPTIONS)?;
        Ok(Self { text, explained })
    }

    /// Survivors that are not listed, and entries below the paths without a survivor.
    pub(crate) fn findings(
        &self,
        outcomes: &[(&Mutation, Outcome)],
        paths: &[&str],
    ) -> Vec<Finding> {
        let survivors: Vec<&(&Mutation, Outcome)> = outcomes
            .iter()
            .filter(|(_, outcome)| *outcome != Outcome::Caught)
            .collect();
        let mut findings = Vec::new();
        for (mutation, outcome) in &survivors {
            if !self.patterns().any(|pattern| pattern.matches(mutation)) {
                findings.push(Finding {
                    path: mutation.path.clone(),
                    line: mutation.site.place.0,
                    message: format!(
                        "{outcome}: {}: {}",
                        mutation.site.kind, mutation.site.source
                    ),
                });
            }
        }
        for pattern in self.patterns().filter(|it| includes(paths, &it.path)) {
            for kind in &pattern.kinds {
                let matches =
                    |mutation: &Mutation| pattern.matches(mutation) && mutation.site.kind == *kind;
                if !survivors.iter().any(|(mutation, _)| matches(mutation)) {
                    findings.push(Finding {
                        path: EXCEPTIONS.to_owned(),
                        line: self.line(&pattern.line),
                        message: format!("`{kind}` of `{}` does not survive", pattern.line),
                    });
                }
            }
        }
        findings
    }

    fn patterns(&self) -> impl Iterator<Item = &SurvivorPattern> {
        self.explained.iter().flat_map(|it| &it.mutations)
    }

    fn line(&self, text: &str) -> usize {
        let mut lines = self.text.lines();
        lines.position(|line| line.contains(text)).unwrap_or(0) + 1
    }
}

impl SurvivorPattern {
    fn matches(&self, mutation: &Mutation) -> bool {
        self.path == mutation.path
            && self.line == mutation.site.source
            && self.kinds.contains(&mutation.site.kind)
    }
}

/// True if a path begins with one of the arguments, or if there are none.
pub(crate) fn includes(paths: &[&str], path: &str) -> bool {
    paths.is_empty() || paths.iter().any(|start| path.starts_with(start))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mutate::site::{MutationForm, MutationSite};

    const EXPLAINED: &str = "- reason: a hint\n  mutations:\n    \
                             - {path: a.rs, line: 'if a {', kinds: [condition to true]}\n";

    fn mutation(path: &str, source: &str) -> Mutation {
        Mutation {
            path: path.to_owned(),
            site: MutationSite {
                place: (7, 1),
                source: source.to_owned(),
                kind: "condition to true".to_owned(),
                range: 0..1,
                form: MutationForm::Skip,
            },
        }
    }

    fn findings(outcomes: &[(&Mutation, Outcome)], paths: &[&str]) -> Vec<(String, usize)> {
        let exceptions = Exceptions::parse(EXPLAINED.to_owned()).unwrap();
        let findings = exceptions.findings(outcomes, paths).into_iter();
        findings.map(|it| (it.path, it.line)).collect()
    }

    #[test]
    fn list_is_valid() {
        assert!(Exceptions::read().unwrap().patterns().count() > 0);
    }

    #[test]
    fn listed_survivor_is_fine() {
        let listed = mutation("a.rs", "if a {");
        assert_eq!(findings(&[(&listed, Outcome::Survived)], &[]), []);
        assert_eq!(findings(&[(&listed, Outcome::Unreached)], &[]), []);
    }

    #[test]
    fn other_survivor_is_a_finding() {
        let listed = (&mutation("a.rs", "if a {"), Outcome::Survived);
        let (line, path) = (mutation("a.rs", "if b {"), mutation("b.rs", "if a {"));
        assert_eq!(
            findings(
                &[
                    listed,
                    (&line, Outcome::Survived),
                    (&path, Outcome::Unreached)
                ],
                &[]
            ),
            [("a.rs".to_owned(), 7), ("b.rs".to_owned(), 7)]
        );
    }

    #[test]
    fn listed_mutation_that_is_caught_or_gone_is_a_finding() {
        let listed = mutation("a.rs", "if a {");
        let finding = [(EXCEPTIONS.to_owned(), 3)];
        assert_eq!(findings(&[(&listed, Outcome::Caught)], &[]), finding);
        assert_eq!(findings(&[], &["a"]), finding);
        assert_eq!(findings(&[], &["b.rs"]), []);
    }
}
