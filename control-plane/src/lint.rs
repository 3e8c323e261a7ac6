//! `evermesh lint`: prints the problems that `evermesh serve` would report for a folder, found by the same code, and
//! those that the folder's Deployments and the like show.
//!
//! ```text
//! folder ─┬─► source::file ─► engine ─► problems ─┬─► places, in the order of the files ─► output
//!         └─► FolderTexts ─► workloads ───────────┘
//! ```

mod output;
mod workloads;

use std::{
    collections::BTreeSet, io::Write, path::Path, process::ExitCode, sync::Arc, time::Instant,
};

use anyhow::Context;
use evermesh_ingest::IngestSettings;
use evermesh_model::{FieldPath, Problem, Reason, Severity};

use self::output::LintFinding;
use crate::{
    args::LintArgs,
    engine::{Engine, EngineOutputs},
    source::{
        ChangeBatch,
        file::{self, FolderTexts, ManifestObject},
    },
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
    let findings = findings(folder);
    output::print(&findings, args.output, out)?;
    let mut findings = findings.iter();
    Ok(
        if findings.any(|finding| finding.problem.severity == Severity::Error) {
            ExitCode::FAILURE
        } else {
            ExitCode::SUCCESS
        },
    )
}

/// The problems of a folder with their places, in the order of the files and of their lines.
fn findings(folder: &Path) -> Vec<LintFinding> {
    let mut texts = FolderTexts::read(folder);
    let mut located: Vec<_> = problems(folder, &texts.objects())
        .into_iter()
        .map(|problem| (texts.locate(&problem), problem))
        .collect();
    located.sort();
    let findings = located.into_iter().map(|(place, problem)| {
        let file = place.as_ref().map(|place| folder.join(&*place.file));
        let span = place.as_ref().and_then(|place| place.span);
        let line = span.zip(place.as_ref());
        let line = line.and_then(|(span, place)| texts.line(&place.file, span.line));
        LintFinding {
            problem,
            file: file.map(|file| file.display().to_string()),
            span: span.map(Into::into),
            source: line.map(str::to_owned),
        }
    });
    findings.collect()
}

/// Runs one rebuild of the engine with the contents of the folder, without serving them, and compares the mesh with the
/// folder's workloads.
fn problems(folder: &Path, files: &[ManifestObject]) -> Vec<Problem> {
    let noticed = Instant::now();
    let outputs = EngineOutputs::unserved();
    let newest = outputs.snapshots.subscribe();
    let changes = file::read_once(folder);
    let of_workloads = workloads::problems(files, &changes);
    Engine::new([], IngestSettings::default(), outputs).step([ChangeBatch::new(noticed, changes)]);
    let mut problems = newest.borrow().problems.to_vec();
    // Objects for other programs are not findings.
    let foreign = files
        .iter()
        .filter(|file| !workloads::is_meant_for_mesh(&file.value));
    let foreign: BTreeSet<(Arc<str>, FieldPath)> = foreign
        .map(|file| (Arc::clone(&file.origin), file.field()))
        .collect();
    problems.retain(|problem| {
        let place = problem
            .origin
            .clone()
            .map(|origin| (origin, problem.field.clone()));
        problem.reason != Reason::UnknownKind || place.is_none_or(|it| !foreign.contains(&it))
    });
    problems.extend(of_workloads);
    problems
}

#[cfg(test)]
mod tests;
