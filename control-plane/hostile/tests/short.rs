//! The short form of every attack, against the binary that the tests were built with.

#![allow(clippy::unwrap_used)] // a panic fails the test

use clap::ValueEnum as _;
use evermesh_hostile::{Attack, Form, run};

#[tokio::test]
async fn no_attack_breaks_a_bound() {
    let mut broken = Vec::new();
    for attack in Attack::value_variants() {
        let outcome = run(*attack, Form::Short).await.unwrap();
        if !outcome.broken.is_empty() {
            broken.push(outcome);
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}
