//! The mutation check: which changes of `evermesh-translate` and `evermesh-ingest` no test notices.
//!
//! A copy of the workspace below `target/mutate/workspace` contains all mutations at once. Each is a branch that the
//! environment variable `EVERMESH_MUTATION` selects by its number:
//!
//! ```text
//! timeout: seconds(1)  →  timeout: (if crate::mutation::is_active(7) { Default::default() } else { seconds(1) })
//! ```
//!
//! So the tests are built once. A first run of each test records the mutations that it reaches; then each mutation is
//! tried with those tests until one fails. `target/mutate/results.txt` has the outcome of each mutation.

mod exceptions;
mod find;
mod outcome;
mod pairs;
mod programs;
mod site;
mod workspace;

use std::{
    collections::BTreeMap,
    env,
    fs::{self, File},
    io::Write,
    path::PathBuf,
    time::Instant,
};

use anyhow::Result;

pub(crate) use self::exceptions::EXCEPTIONS;
use self::{
    exceptions::{Exceptions, includes},
    outcome::Outcome,
    pairs::try_each,
    programs::MutatedTests,
    workspace::{CRATES, MutatedWorkspace, Mutation},
};
use crate::{Finding, files};

/// Tries the mutations of the files whose path begins with one of the arguments, or all. With `--again`, mutations
/// that the previous run caught are not tried.
///
/// # Errors
///
/// If the workspace does not build, or a test fails without a mutation.
pub(crate) fn check(arguments: &[&str]) -> Result<Vec<Finding>> {
    let (options, paths): (Vec<&str>, Vec<&str>) = arguments
        .iter()
        .partition(|argument| **argument == "--again");
    let exceptions = Exceptions::read()?;
    let start = Instant::now();
    let report = |what: &str| eprintln!("{:5} s: {what}", start.elapsed().as_secs());

    let target =
        env::var_os("CARGO_TARGET_DIR").map_or_else(|| files::root().join("target"), PathBuf::from);
    let folder = target.join("mutate");
    fs::create_dir_all(&folder)?;
    let folder = folder.canonicalize()?;
    let mut workspace = MutatedWorkspace::copy(&folder)?;
    report(&format!("building {} mutations", workspace.mutations.len()));
    let programs = workspace.build()?;
    report("running each test without a mutation");
    let tests = MutatedTests::list(programs, &workspace.root)?;
    report(&format!(
        "trying the mutations with {} tests",
        tests.tests.len()
    ));

    let results = folder.join("results.txt");
    let previous = fs::read_to_string(&results).unwrap_or_default();
    let previous = if options.is_empty() {
        BTreeMap::new()
    } else {
        outcome::parse(&previous)
    };
    let chosen: Vec<usize> = (0..workspace.mutations.len())
        .filter(|number| !workspace.dropped.contains(number))
        .filter(|number| includes(&paths, &workspace.mutations[*number].path))
        .collect();
    // An unfinished run leaves what it found.
    let mut log = File::create(&results)?;
    let outcome = |number: usize| {
        let name = workspace.mutations[number].name();
        if previous.get(name.as_str()) == Some(&Outcome::Caught) {
            return Ok(Outcome::Caught);
        }
        tests.outcome(number)
    };
    let count = chosen.len();
    let mut outcomes = BTreeMap::new();
    try_each(chosen, outcome, |number, outcome| {
        outcomes.insert(number, outcome);
        if outcomes.len().is_multiple_of(200) {
            report(&format!("{} of {count} mutations", outcomes.len()));
        }
        let line = outcome::render(&[(&workspace.mutations[number], outcome)]);
        Ok(log.write_all(line.as_bytes())?)
    })?;
    let outcomes: Vec<(&Mutation, Outcome)> = outcomes
        .into_iter()
        .map(|(number, outcome)| (&workspace.mutations[number], outcome))
        .collect();
    fs::write(&results, outcome::render(&outcomes))?;
    for (package, folder) in CRATES {
        report(&format!(
            "{package}: {}",
            outcome::summary(&outcomes, folder)
        ));
    }
    Ok(exceptions.findings(&outcomes, &paths))
}
