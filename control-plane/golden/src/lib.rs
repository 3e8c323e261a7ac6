//! Golden tests: each folder of a crate's `testdata` is one test, which can be run by name.
//!
//! A case is a folder `testdata/FEATURE/CASE` with the input `in.yaml`; its expected output is `out.snap` beside it.
//! The test target sets `harness = false` and hands its function to [`run`]:
//!
//! ```no_run
//! fn main() -> std::process::ExitCode {
//!     evermesh_golden::run(concat!(env!("CARGO_MANIFEST_DIR"), "/testdata"), |case| {
//!         case.assert_snapshot(&case.input.to_uppercase());
//!     })
//! }
//! ```
//!
//! `cargo test -p evermesh-ingest --test golden route/weights` runs the cases whose name contains `route/weights`,
//! and `INSTA_UPDATE=always` records their output.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use libtest_mimic::{Arguments, Trial};
use serde::Serialize;

/// One golden case.
#[derive(Debug)]
pub struct GoldenCase {
    /// `FEATURE/CASE`.
    pub name: String,
    /// The folder of the case.
    pub folder: PathBuf,
    /// The text of `in.yaml`.
    pub input: String,
}

impl GoldenCase {
    /// Compares the value, as YAML, with `out.snap` of this case.
    ///
    /// # Panics
    ///
    /// If the value differs, or if the snapshot does not exist; `INSTA_UPDATE=always` records the value instead.
    pub fn assert_snapshot(&self, value: &impl Serialize) {
        insta::with_settings!({
            snapshot_path => &self.folder,
            prepend_module_to_snapshot => false,
            omit_expression => true,
        }, {
            insta::assert_yaml_snapshot!("out", value);
        });
    }
}

/// Runs the test once for each case below `testdata`, with the options of `cargo test`.
///
/// # Panics
///
/// If `testdata` cannot be read or has no case.
pub fn run(
    testdata: impl AsRef<Path>,
    test: impl Fn(&GoldenCase) + Send + Sync + 'static,
) -> ExitCode {
    let test = Arc::new(test);
    let trials = cases(testdata).into_iter().map(|case| {
        let test = Arc::clone(&test);
        Trial::test(case.name.clone(), move || {
            test(&case);
            Ok(())
        })
    });
    libtest_mimic::run(&Arguments::from_args(), trials.collect()).exit_code()
}

/// Every folder `FEATURE/CASE` with an `in.yaml`, by name.
///
/// # Panics
///
/// If `testdata` cannot be read or has no case.
pub fn cases(testdata: impl AsRef<Path>) -> Vec<GoldenCase> {
    let testdata = testdata.as_ref();
    let cases = read(testdata).unwrap_or_else(|error| panic!("{}: {error}", testdata.display()));
    assert!(!cases.is_empty(), "no case below {}", testdata.display());
    cases
}

fn read(testdata: &Path) -> io::Result<Vec<GoldenCase>> {
    let mut cases = Vec::new();
    for feature in folders(testdata)? {
        for folder in folders(&feature)? {
            let name = folder.strip_prefix(testdata).unwrap_or(&folder);
            cases.push(GoldenCase {
                name: name.display().to_string(),
                input: fs::read_to_string(folder.join("in.yaml"))?,
                folder,
            });
        }
    }
    Ok(cases)
}

fn folders(parent: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(parent)?.collect::<Result<Vec<_>, _>>()?;
    let mut folders: Vec<PathBuf> = entries.iter().map(fs::DirEntry::path).collect();
    folders.retain(|path| path.is_dir());
    folders.sort();
    Ok(folders)
}
