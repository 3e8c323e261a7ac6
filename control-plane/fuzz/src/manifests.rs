//! Target `manifests`: a file of a folder, through the reader of files, ingest and translation.
//!
//! The input is the contents of `a.yaml`, or of `a.json` if it begins with `{`.

use std::{collections::BTreeSet, fs, path::Path};

use evermesh::source::{SourceChange, file};
use evermesh_ingest::{BuildMemo, BuildOutput, Inputs, build};
use evermesh_model::{ObjectRef, Problem};
use evermesh_translate::{DeriveMemo, Derived, derive};
use tempfile::TempDir;

use crate::{FuzzTarget, mutation::InputFormat, translated::consistent, workspace};

pub(crate) const TARGET: FuzzTarget = FuzzTarget {
    name: "manifests",
    format: InputFormat::Yaml,
    run,
    seeds,
};

/// Bytes of all messages about a file, for each of its bytes: a problem of one field quotes a part of the file at most.
const MESSAGE_BYTES_PER_BYTE: usize = 128;

thread_local! {
    static FOLDER: TempDir = tempfile::tempdir().expect("a folder for temporary files");
}

/// A rebuild and what was derived from it.
struct Rebuild {
    built: BuildOutput,
    derived: Derived,
}

fn run(input: &[u8]) {
    let changes = FOLDER.with(|folder| read(folder.path(), input));
    let mut inputs = Inputs::default();
    let mut objects = BTreeSet::new();
    let mut problems = Vec::new();
    for change in changes {
        match change {
            SourceChange::Object { object, value, .. } => {
                objects.insert(object.clone());
                inputs.apply(object, value);
            }
            SourceChange::Problems { problems: read, .. } => problems.extend(read),
            SourceChange::CloudMap { .. } | SourceChange::Synced(_) => {}
        }
    }
    let mut memos = (BuildMemo::default(), DeriveMemo::default());
    let whole = rebuild(&inputs, &mut memos);
    consistent(&whole.built.graph, &whole.derived);
    problems.extend(whole.built.problems.iter().cloned());
    are_readable(&problems, input.len());
    if let Some(object) = objects.first() {
        memos_change_nothing(inputs, object.clone(), &mut memos);
    }
}

/// Reads a folder with this file only.
fn read(folder: &Path, input: &[u8]) -> Vec<SourceChange> {
    let name = if input.starts_with(b"{") {
        "a.json"
    } else {
        "a.yaml"
    };
    let path = folder.join(name);
    fs::write(&path, input).expect("a writable folder");
    let changes = file::read_once(folder);
    fs::remove_file(path).expect("a writable folder");
    changes
}

fn rebuild(inputs: &Inputs, (build_memo, derive_memo): &mut (BuildMemo, DeriveMemo)) -> Rebuild {
    let built = build(inputs, build_memo);
    let derived = derive(&built.graph, derive_memo);
    Rebuild { built, derived }
}

/// Checks that each problem says where it is, in a message of one line, and that the messages are not much longer than
/// what they are about.
fn are_readable(problems: &[Problem], input_bytes: usize) {
    let mut bytes = 0;
    for problem in problems {
        assert!(
            problem.object.is_some() || problem.origin.is_some(),
            "{problem}"
        );
        assert!(!problem.message.is_empty(), "{problem:?}");
        let line = problem.to_string();
        assert!(!line.contains(char::is_control), "{line:?}");
        bytes += line.len();
    }
    let limit = 4096 + MESSAGE_BYTES_PER_BYTE * input_bytes;
    assert!(
        bytes <= limit,
        "{bytes} bytes of messages about {input_bytes}"
    );
}

/// Checks that a rebuild after a removal equals a rebuild from nothing.
fn memos_change_nothing(
    mut inputs: Inputs,
    removed: ObjectRef,
    memos: &mut (BuildMemo, DeriveMemo),
) {
    inputs.apply(removed, None);
    let after = rebuild(&inputs, memos);
    let fresh = rebuild(&inputs, &mut (BuildMemo::default(), DeriveMemo::default()));
    assert_eq!(after.built.problems, fresh.built.problems);
    assert!(
        after.derived == fresh.derived,
        "a memo changed what is derived"
    );
}

fn seeds() -> Vec<Vec<u8>> {
    let crates = ["ingest", "translate"];
    let cases = crates.map(|name| {
        workspace()
            .join("control-plane")
            .join(name)
            .join("testdata")
    });
    let cases = cases.iter().flat_map(evermesh_golden::cases);
    cases.map(|case| case.input.into_bytes()).collect()
}
