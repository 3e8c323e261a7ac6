//! The outcome of each mutation, as a file that people and the next run read.

use std::{
    collections::BTreeMap,
    fmt::{self, Display, Formatter, Write},
};

use super::workspace::Mutation;

/// What the tests said about a mutation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Outcome {
    /// A test failed.
    Caught,
    /// Every test that reaches the mutation passed.
    Survived,
    /// Every test passes without reaching the mutation.
    Unreached,
}

impl Outcome {
    const ALL: [Self; 3] = [Self::Caught, Self::Survived, Self::Unreached];

    fn name(self) -> &'static str {
        match self {
            Self::Caught => "caught",
            Self::Survived => "survived",
            Self::Unreached => "unreached",
        }
    }
}

impl Display for Outcome {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// One line for each mutation: outcome, place and kind.
pub(crate) fn render(outcomes: &[(&Mutation, Outcome)]) -> String {
    let mut text = String::new();
    for (mutation, outcome) in outcomes {
        let _ = writeln!(text, "{outcome} {}", mutation.name());
    }
    text
}

/// The outcomes of a rendered text by the name of the mutation.
pub(crate) fn parse(text: &str) -> BTreeMap<&str, Outcome> {
    let lines = text.lines().filter_map(|line| line.split_once(' '));
    lines
        .filter_map(|(outcome, name)| {
            let outcome = Outcome::ALL.into_iter().find(|it| it.name() == outcome)?;
            Some((name, outcome))
        })
        .collect()
}

/// How many mutations have each outcome, such as `12 caught, 3 survived, 0 unreached`.
pub(crate) fn summary(outcomes: &[(&Mutation, Outcome)], folder: &str) -> String {
    let counts = Outcome::ALL.map(|counted| {
        let of_folder = outcomes
            .iter()
            .filter(|(it, _)| it.path.starts_with(folder));
        let count = of_folder.filter(|(_, outcome)| *outcome == counted).count();
        format!("{count} {counted}")
    });
    counts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mutate::site::{MutationForm, MutationSite};

    #[test]
    fn next_run_reads_the_outcomes() {
        let mutation = |path: &str| Mutation {
            path: path.to_owned(),
            site: MutationSite {
                place: (3, 5),
                source: "f();".to_owned(),
                kind: "statement skipped".to_owned(),
                range: 0..1,
                form: MutationForm::Skip,
            },
        };
        let (one, other) = (mutation("a/b.rs"), mutation("c.rs"));
        let outcomes = [(&one, Outcome::Caught), (&other, Outcome::Unreached)];
        let text = render(&outcomes);
        assert_eq!(
            text,
            "caught a/b.rs:3:5 statement skipped\nunreached c.rs:3:5 statement skipped\n"
        );
        let parsed: Vec<_> = parse(&text).into_iter().collect();
        assert_eq!(
            parsed,
            [
                ("a/b.rs:3:5 statement skipped", Outcome::Caught),
                ("c.rs:3:5 statement skipped", Outcome::Unreached)
            ]
        );
        assert_eq!(
            summary(&outcomes, "a/"),
            "1 caught, 0 survived, 0 unreached"
        );
    }
}
