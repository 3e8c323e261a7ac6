//! `evermesh lint`: prints the problems that `evermesh serve` would report for a folder, found by the same code.

use std::{io::Write, path::Path, process::ExitCode, sync::Arc, time::Instant};

use anyhow::Context;
use evermesh_ingest::IngestSettings;
use evermesh_model::{Problem, Severity};

use crate::{
    args::{LintArgs, LintFormat},
    engine::{Engine, EngineOutputs},
    source::{ChangeBatch, file},
};

/// Prints the problems of a folder. The exit code is 1 if at least one is an error.
///
/// # Errors
/// The folder cannot be read, or standard output is closed.
pub fn run(args: &LintArgs, out: &mut impl Write) -> anyhow::Result<ExitCode> {
    let folder = &args.config;
    folder
        .read_dir()
        .with_context(|| format!("cannot read the folder {}", folder.display()))?;
    let problems = problems(folder);
    match args.output {
        LintFormat::Json => {
            serde_json::to_writer_pretty(&mut *out, &*problems)?;
            writeln!(out)?;
        }
        LintFormat::Text => {
            for problem in &*problems {
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

/// Runs one rebuild of the engine with the contents of the folder, without serving them.
fn problems(folder: &Path) -> Arc<[Problem]> {
    let noticed = Instant::now();
    let outputs = EngineOutputs::unserved();
    let newest = outputs.snapshots.subscribe();
    let changes = file::read_once(folder);
    Engine::new([], IngestSettings::default(), outputs).step([ChangeBatch::new(noticed, changes)]);
    Arc::clone(&newest.borrow().problems)
}

fn count(problems: &[Problem], severity: Severity) -> usize {
    problems
        .iter()
        .filter(|problem| problem.severity == severity)
        .count()
}
