//! Prints findings in the format that the user chose.

use std::io::{self, Write};

use evermesh_model::{Problem, Severity};
use serde::Serialize;
use serde_json::{Value, json};

use crate::{args::LintFormat, source::file::TextSpan};

/// Longest part of a line that is shown, in characters.
const MAX_SHOWN: usize = 120;

/// A problem and where it is.
#[derive(Debug, Serialize)]
pub(super) struct LintFinding {
    #[serde(flatten)]
    pub(super) problem: Problem,
    /// Path of the file, as the command's user can open it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) file: Option<String>,
    #[serde(flatten)]
    pub(super) span: Option<FindingSpan>,
    /// The line, unless it may be secret.
    #[serde(skip)]
    pub(super) source: Option<String>,
}

/// The place of a finding in its file, as programs read it.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct FindingSpan {
    line: u64,
    column: usize,
    end_column: usize,
}

impl From<TextSpan> for FindingSpan {
    fn from(span: TextSpan) -> Self {
        Self {
            line: span.line,
            column: span.column,
            end_column: span.column + span.width,
        }
    }
}

pub(super) fn print(
    findings: &[LintFinding],
    format: LintFormat,
    out: &mut impl Write,
) -> io::Result<()> {
    match format {
        LintFormat::Text => {
            for finding in findings {
                text(finding, out)?;
            }
            writeln!(out, "{}", summary(findings))
        }
        LintFormat::Json => json_lines(out, &serde_json::to_value(findings)?),
        LintFormat::Sarif => json_lines(out, &sarif(findings)),
        LintFormat::Github => {
            for finding in findings {
                github(finding, out)?;
            }
            writeln!(out, "{}", summary(findings))
        }
    }
}

fn json_lines(out: &mut impl Write, value: &Value) -> io::Result<()> {
    serde_json::to_writer_pretty(&mut *out, value)?;
    writeln!(out)
}

fn summary(findings: &[LintFinding]) -> String {
    let count = |severity| {
        let findings = findings.iter();
        findings
            .filter(|it| it.problem.severity == severity)
            .count()
    };
    format!(
        "{} errors, {} warnings",
        count(Severity::Error),
        count(Severity::Warning)
    )
}

/// The problem without its origin, which the place replaces.
fn description(finding: &LintFinding) -> String {
    let problem = Problem {
        origin: None,
        ..finding.problem.clone()
    };
    problem.to_string()
}

/// Prints `FILE:LINE:COLUMN: SEVERITY: DESCRIPTION`, the line, and carets below the text at fault.
fn text(finding: &LintFinding, out: &mut impl Write) -> io::Result<()> {
    let severity = finding.problem.severity;
    let description = description(finding);
    let (Some(file), Some(span)) = (&finding.file, finding.span) else {
        let place = finding
            .file
            .as_deref()
            .or(finding.problem.origin.as_deref());
        let place = place.map(|place| format!("{place}: ")).unwrap_or_default();
        return writeln!(out, "{place}{severity}: {description}");
    };
    let FindingSpan { line, column, .. } = span;
    writeln!(out, "{file}:{line}:{column}: {severity}: {description}")?;
    let Some(source) = &finding.source else {
        return Ok(());
    };
    let number = line.to_string();
    let (shown, before, width) = excerpt(source, span);
    let margin = " ".repeat(number.len());
    writeln!(out, "{number} | {shown}")?;
    writeln!(out, "{margin} | {before}{}", "^".repeat(width))
}

/// The shown part of a line, the blanks before the carets, and the number of carets.
fn excerpt(source: &str, span: FindingSpan) -> (String, String, usize) {
    let characters: Vec<char> = source.chars().collect();
    let start = (span.column - 1).min(characters.len());
    let first = if characters.len() > MAX_SHOWN {
        start.saturating_sub(MAX_SHOWN / 2)
    } else {
        0
    };
    let last = characters.len().min(first + MAX_SHOWN);
    let mut shown: String = characters[first..last].iter().collect();
    // A tab before the carets is as wide as the one above.
    let blank = |it: &char| if *it == '\t' { '\t' } else { ' ' };
    let mut before: String = characters[first..start].iter().map(blank).collect();
    if first > 0 {
        shown.insert(0, '…');
        before.insert(0, ' ');
    }
    if last < characters.len() {
        shown.push('…');
    }
    let end = (span.end_column - 1).clamp(start + 1, last.max(start + 1));
    (shown, before, end - start)
}

/// Prints a command of GitHub Actions, which shows the problem beside the line.
fn github(finding: &LintFinding, out: &mut impl Write) -> io::Result<()> {
    /// Escapes the characters that end a message, or a property.
    fn escape(text: &str, is_property: bool) -> String {
        let text = text
            .replace('%', "%25")
            .replace('\r', "%0D")
            .replace('\n', "%0A");
        if is_property {
            text.replace(':', "%3A").replace(',', "%2C")
        } else {
            text
        }
    }
    let mut properties = Vec::new();
    if let Some(file) = &finding.file {
        properties.push(format!("file={}", escape(file, true)));
    }
    if let Some(FindingSpan {
        line,
        column,
        end_column,
    }) = finding.span
    {
        properties.push(format!("line={line},col={column},endColumn={end_column}"));
    }
    properties.push(format!("title={}", finding.problem.reason));
    writeln!(
        out,
        "::{} {}::{}",
        finding.problem.severity,
        properties.join(","),
        escape(&description(finding), false)
    )
}

/// A log in the Static Analysis Results Interchange Format 2.1.0.
fn sarif(findings: &[LintFinding]) -> Value {
    let mut rules: Vec<&str> = findings
        .iter()
        .map(|it| it.problem.reason.as_str())
        .collect();
    rules.sort_unstable();
    rules.dedup();
    let rules: Vec<Value> = rules.into_iter().map(|id| json!({ "id": id })).collect();
    let results: Vec<Value> = findings.iter().map(sarif_result).collect();
    json!({
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": { "driver": {
                "name": "evermesh lint",
                "semanticVersion": env!("CARGO_PKG_VERSION"),
                "rules": rules,
            } },
            "columnKind": "unicodeCodePoints",
            "results": results,
        }],
    })
}

fn sarif_result(finding: &LintFinding) -> Value {
    let mut location = json!({});
    if let Some(file) = &finding.file {
        location["physicalLocation"]["artifactLocation"]["uri"] = file.as_str().into();
    }
    if let Some(FindingSpan {
        line,
        column,
        end_column,
    }) = finding.span
    {
        location["physicalLocation"]["region"] =
            json!({ "startLine": line, "startColumn": column, "endColumn": end_column });
    }
    let names = [
        finding.problem.object.as_ref().map(ToString::to_string),
        Some(finding.problem.field.to_string()).filter(|field| !field.is_empty()),
    ];
    let names: Vec<String> = names.into_iter().flatten().collect();
    if !names.is_empty() {
        location["logicalLocations"] = json!([{ "fullyQualifiedName": names.join(": ") }]);
    }
    json!({
        "ruleId": finding.problem.reason,
        "level": finding.problem.severity,
        "message": { "text": finding.problem.message },
        "locations": [location],
    })
}
