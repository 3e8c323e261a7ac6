//! Checks of the repository, most of them for `make check`.
//!
//! - `cargo run -p xtask -- text` finds words and shapes that `docs/style.md` rules out in comments, string literals and
//!   pages.
//! - `cargo run -p xtask -- names` finds exported types that share a name.
//! - `cargo run -p xtask -- logs` finds fields of log lines that a peer may have chosen.
//! - `cargo run -p xtask -- fields` writes `docs/fields.md` from `docs/fields.yaml`; with `--check` it only compares them.
//! - `cargo run -p xtask -- mutate [--again] [PATH…]` finds mutations that no test catches (`make mutate`).
//!
//! Each prints one finding per line as `file:line: what is wrong` and fails if there is one.

mod fields;
mod files;
mod logs;
mod mutate;
mod names;
mod prose;
mod rules;

use std::{env, process::ExitCode};

use anyhow::{Result, bail};

/// A place that breaks a rule.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Finding {
    path: String,
    line: usize,
    message: String,
}

const STYLE: &str = "docs/style.md";

fn main() -> Result<ExitCode> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (findings, rules) = match arguments[..] {
        ["text"] => (prose::check()?, STYLE),
        ["names"] => (names::check()?, STYLE),
        ["logs"] => (logs::check()?, logs::RULES),
        ["fields"] => (fields::write()?, fields::RULES),
        ["fields", "--check"] => (fields::check()?, fields::RULES),
        ["mutate", ref arguments @ ..] => (mutate::check(arguments)?, mutate::EXCEPTIONS),
        _ => bail!(
            "usage: cargo run -p xtask -- text|names|logs|fields [--check]|mutate [--again] [PATH…]"
        ),
    };
    for finding in &findings {
        let Finding {
            path,
            line,
            message,
        } = finding;
        eprintln!("{path}:{line}: {message}");
    }
    if findings.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!("{} findings; {rules} has the rules", findings.len());
    Ok(ExitCode::FAILURE)
}
