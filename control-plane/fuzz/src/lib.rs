//! Hostile input for everything that reads bytes from the network or from users, with the invariants that must hold.
//!
//! A [`FuzzTarget`] is a function from bytes to nothing that panics if an invariant does not hold. Two engines call it:
//!
//! ```text
//! seeds, corpus/NAME ──┬─▶ tests/targets.rs   a fixed number of inputs, made by mutate() with a fixed seed
//!                      │                      │
//!                      │                      ▼
//!                      │                  FuzzTarget::run(bytes)
//!                      │                      ▲
//!                      └─▶ evermesh-libfuzzer libFuzzer, guided by coverage, for as long as it may (`make fuzz`)
//! ```
//!
//! | target | bytes | code under test |
//! |---|---|---|
//! | `xds` | steps of a client and of the store | a stream: frames, requests, subscriptions, responses |
//! | `manifests` | a file of a folder | the reader of files, ingest, translation |
//! | `admission` | the body of an `AdmissionReview` | the webhooks: parsing, defaults, validation, injection |
//! | `annotations` | one annotation or label of a pod per line | the injector |
//! | `bootstrap` | one command line argument per line | `evermesh bootstrap`, and the injection flags of `serve` |
//!
//! An input that broke an invariant is kept below `corpus`, and a test beside the code shows the mistake.
//!
//! The crate is not linked into the binary.

mod admission;
mod annotations;
mod bootstrap;
mod injected_pod;
mod manifests;
mod mutation;
mod translated;
mod tree;
mod xds;

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use fastrand::Rng;

pub use mutation::{InputFormat, mutate};

/// A function that reads hostile bytes.
#[derive(Debug, Clone, Copy)]
pub struct FuzzTarget {
    /// The name of the target, and of its folder below `corpus`.
    pub name: &'static str,
    /// The form of the inputs.
    pub format: InputFormat,
    /// Handles one input.
    ///
    /// # Panics
    /// If an invariant does not hold.
    pub run: fn(&[u8]),
    /// Inputs from golden cases and examples.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// All targets.
pub const TARGETS: [FuzzTarget; 5] = [
    xds::TARGET,
    manifests::TARGET,
    admission::TARGET,
    annotations::TARGET,
    bootstrap::TARGET,
];

impl FuzzTarget {
    /// The target with this name.
    pub fn find(name: &str) -> Option<Self> {
        TARGETS.into_iter().find(|target| target.name == name)
    }

    /// The inputs that are kept in the repository, with their files.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn corpus(&self) -> io::Result<Vec<(PathBuf, Vec<u8>)>> {
        let folder = workspace()
            .join("control-plane/fuzz/corpus")
            .join(self.name);
        let files = fs::read_dir(folder)?.collect::<io::Result<Vec<_>>>()?;
        let mut files: Vec<PathBuf> = files.iter().map(fs::DirEntry::path).collect();
        files.sort();
        let read = |file: PathBuf| fs::read(&file).map(|input| (file, input));
        files.into_iter().map(read).collect()
    }

    /// Changed inputs, as many as `count`, the same for the same `seed`.
    pub fn mutated<'a>(
        &self,
        inputs: &'a [Vec<u8>],
        count: usize,
        seed: u64,
    ) -> impl Iterator<Item = Vec<u8>> + use<'a> {
        let format = self.format;
        let mut random = Rng::with_seed(seed);
        (0..count).filter_map(move |_| {
            let input = random.choice(inputs)?;
            let other = random.choice(inputs)?;
            Some(mutate(format, input, other, &mut random))
        })
    }
}

/// The root of the workspace.
fn workspace() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}
