//! Each example shows what its README says: the commands of the README run on hosts with real Envoys, and print what
//! the README shows.
//!
//! Each folder below `examples/` is one test for each version of Envoy, for instance `canary/1.40.0`. The oldest version
//! gets its configuration by state-of-the-world xDS, the newest one by delta.
//! [`evermesh_testkit::readme`] says which lines of a README are commands, [`setup`] has what the manifests do not say
//! about the hosts.
//!
//! Needs the programs of the workspace: run `cargo build --workspace --bins` before this test alone.

#![allow(clippy::unwrap_used)] // a panic fails the test

mod certificates;
#[path = "../common/mod.rs"]
mod common;
mod hosts;
mod lab;
#[path = "../tls/sds.rs"]
mod sds;
mod services;
mod setup;

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use evermesh_testkit::{
    envoy::EnvoyVersion,
    readme::{self, ReadmeStep},
    tools,
};
use libtest_mimic::{Arguments, Trial};

use common::{DEADLINE, eventually};
use lab::{ExampleLab, ProxyVariant};

/// Each version of Envoy and each variant of the protocol, once.
const VARIANTS: [ProxyVariant; 2] = [
    ProxyVariant {
        version: EnvoyVersion::Oldest,
        sotw: true,
    },
    ProxyVariant {
        version: EnvoyVersion::Newest,
        sotw: false,
    },
];

/// Time between two repetitions of a command.
const PACE: Duration = Duration::from_millis(200);

fn main() -> ExitCode {
    let root = tools::workspace().unwrap().join("examples");
    let folders = folders(&root);
    let names = folders.iter().map(|folder| name_of(folder).to_owned());
    let names: Vec<String> = names.collect();
    let mut trials = vec![Trial::test("index_lists_every_example", move || {
        index_lists(&root, &names);
        Ok(())
    })];
    for folder in folders {
        trials.extend(VARIANTS.map(|variant| {
            let folder = folder.clone();
            let name = format!("{}/{}", name_of(&folder), variant.version.number());
            Trial::test(name, move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()?;
                runtime.block_on(shows_what_its_readme_says(&folder, variant));
                Ok(())
            })
        }));
    }
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

fn folders(root: &Path) -> Vec<PathBuf> {
    let entries = root.read_dir().unwrap().map(|entry| entry.unwrap().path());
    let mut folders: Vec<PathBuf> = entries.filter(|path| path.is_dir()).collect();
    folders.sort();
    folders
}

fn name_of(folder: &Path) -> &str {
    folder.file_name().unwrap().to_str().unwrap()
}

/// Checks that the page of examples has a link to each example.
fn index_lists(root: &Path, names: &[String]) {
    let index = fs::read_to_string(root.join("README.md")).unwrap();
    for name in names {
        assert!(
            index.contains(&format!("]({name})")),
            "examples/README.md does not list {name}"
        );
    }
}

async fn shows_what_its_readme_says(folder: &Path, variant: ProxyVariant) {
    let name = name_of(folder);
    let readme = fs::read_to_string(folder.join("README.md")).unwrap();
    for start in ["evermesh serve --config", "kubectl apply -f"] {
        let command = format!("    {start} examples/{name}");
        assert!(
            readme.lines().any(|line| line.starts_with(&command)),
            "examples/{name}/README.md has no line `{command}`"
        );
    }
    let steps = readme::steps(&readme).unwrap();
    assert!(!steps.is_empty(), "examples/{name}/README.md shows nothing");
    let lab = ExampleLab::build(folder, &steps, variant).await;
    for step in &steps {
        run(&lab, name, step).await;
    }
    eventually("ACKs of every proxy", async || lab.is_accepted().await).await;
    assert_eq!(lab.rejected().await, [""; 0]);
}

async fn run(lab: &ExampleLab, name: &str, step: &ReadmeStep) {
    let mut output = lab.run(step).await;
    if step.is_repeated {
        let repeat = async {
            let mut pace = tokio::time::interval(PACE);
            while !step.expects(&output) {
                pace.tick().await;
                output = lab.run(step).await;
            }
        };
        // The assertion reports the last output.
        let _ = tokio::time::timeout(DEADLINE, repeat).await;
    }
    assert!(
        step.expects(&output),
        "examples/{name}/README.md, line {}: `{}` printed\n{output}\ninstead of\n{}\n{}",
        step.line,
        step.command,
        step.expected.join("\n"),
        lab.report().await,
    );
}
