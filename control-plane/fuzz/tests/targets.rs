//! Every target with its seeds, with the inputs that once broke an invariant, and with a fixed number of changed inputs.
//!
//! A failing test prints the input. `FUZZ_CASES` sets the number of changed inputs, and `FUZZ_SEED` another seed.

#![allow(clippy::unwrap_used)] // a panic fails the test

use std::{env, fs, panic};

use evermesh_fuzz::FuzzTarget;

/// Runs a target with everything that is kept, and then with `cases` changed inputs.
fn run(name: &str, cases: usize) {
    let target = FuzzTarget::find(name).unwrap();
    let seeds = (target.seeds)();
    let corpus = target.corpus().unwrap();
    assert!(!seeds.is_empty() && !corpus.is_empty(), "{name}");
    for (file, input) in &corpus {
        check(&target, &file.display().to_string(), input);
    }
    let corpus = corpus.into_iter().map(|(_, input)| input);
    let inputs: Vec<Vec<u8>> = seeds.into_iter().chain(corpus).collect();
    for (number, input) in inputs.iter().enumerate() {
        check(&target, &format!("seed {number}"), input);
    }
    let number = |variable, default| {
        let text = env::var(variable);
        text.map_or(default, |text| text.parse().unwrap())
    };
    let (cases, seed) = (number("FUZZ_CASES", cases), number("FUZZ_SEED", 1));
    let made = target.mutated(&inputs, cases, u64::try_from(seed).unwrap());
    for (number, input) in made.enumerate() {
        check(
            &target,
            &format!("input {number} of FUZZ_SEED={seed}"),
            &input,
        );
    }
}

/// Runs the target. A panic keeps the input in a file, for `evermesh-fuzz run`.
fn check(target: &FuzzTarget, origin: &str, input: &[u8]) {
    if let Err(broken) = panic::catch_unwind(|| (target.run)(input)) {
        let file = env::temp_dir().join(format!("evermesh-fuzz-{}", target.name));
        fs::write(&file, input).unwrap();
        eprintln!(
            "{origin} broke `{}`; the input is {}",
            target.name,
            file.display()
        );
        panic::resume_unwind(broken);
    }
}

#[test]
fn streams_survive_hostile_clients() {
    run("xds", 3_000);
}

#[test]
fn manifests_become_consistent_configuration() {
    run("manifests", 400);
}

#[test]
fn every_admission_review_is_answered() {
    run("admission", 1_500);
}

#[test]
fn annotations_make_a_whole_pod_or_a_message() {
    run("annotations", 500);
}

#[test]
fn arguments_make_a_bootstrap_or_a_message() {
    run("bootstrap", 2_000);
}
