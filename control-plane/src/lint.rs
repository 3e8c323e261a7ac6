//! `evermesh lint`: every problem of a folder, found by the same code that serves it.

use std::{io::Write, path::Path, process::ExitCode};

use anyhow::Context;
use evermesh_ingest::Inputs;
use evermesh_model::{Problem, Severity};

use crate::{
    args::{LintArgs, Output},
    source::file,
};

/// Prints the problems of a folder. The exit code is 1 if any is an error.
///
/// # Errors
/// The folder cannot be read, or standard output is closed.
pub fn run(args: &LintArgs, out: &mut impl Write) -> anyhow::Result<ExitCode> {
    let problems = problems(&args.config).with_context(|| format!("{}", args.config.display()))?;
    match args.output {
        Output::Json => {
            serde_json::to_writer_pretty(&mut *out, &problems)?;
            writeln!(out)?;
        }
        Output::Text => {
            for problem in &problems {
                let severity = match problem.severity {
                    Severity::Error => "error",
                    Severity::Warning => "warning",
                };
                writeln!(out, "{severity}: {problem}")?;
            }
            let errors = count(&problems, Severity::Error);
            let warnings = count(&problems, Severity::Warning);
            writeln!(out, "{errors} errors, {warnings} warnings")?;
        }
    }
    Ok(if count(&problems, Severity::Error) == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn count(problems: &[Problem], severity: Severity) -> usize {
    problems.iter().filter(|problem| problem.severity == severity).count()
}
