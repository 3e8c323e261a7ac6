//! Checks of the source text, for `make check`.
//!
//! `cargo run -p xtask -- text` finds words and shapes that `docs/style.md` rules out in comments, string literals and
//! pages; `cargo run -p xtask -- names` finds exported types that share a name.
//! Both print one finding per line as `file:line: what is wrong` and fail if there is one.

mod files;
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

fn main() -> Result<ExitCode> {
    let findings = match env::args().nth(1).as_deref() {
        Some("text") => prose::check()?,
        Some("names") => names::check()?,
        _ => bail!("usage: cargo run -p xtask -- text|names"),
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
    eprintln!("{} findings; docs/style.md has the rules", findings.len());
    Ok(ExitCode::FAILURE)
}
