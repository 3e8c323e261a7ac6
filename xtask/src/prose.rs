//! The text check: comments and string literals of Rust files, comments of YAML files, scripts and Makefiles, and
//! pages.

use anyhow::Result;
use ra_ap_rustc_lexer::{FrontmatterAllowed, LiteralKind, TokenKind, tokenize};

use crate::{Finding, files, rules};

/// Text of a file and the rules that apply to it.
#[derive(Debug, PartialEq, Eq)]
struct Passage {
    line: usize,
    kind: PassageKind,
    text: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PassageKind {
    Comment,
    StringLiteral,
    Page,
}

/// Everything that breaks a rule.
///
/// # Errors
///
/// If the files cannot be listed or read.
pub(crate) fn check() -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    let suffixes = [
        ".rs",
        ".md",
        ".yaml",
        ".yml",
        ".tpl",
        ".toml",
        ".sh",
        "Makefile",
        "Dockerfile",
    ];
    let scripts = [
        "scripts/fuzz",
        "scripts/fuzz-rustc",
        "scripts/go-programs",
        "scripts/images",
        "scripts/kubernetes",
        "scripts/sbom.py",
        "scripts/setup",
        "scripts/spire",
        ".ci/run",
    ];
    for file in files::with_suffix(&[&suffixes[..], &scripts[..]].concat())? {
        // The style guide and this check quote what they rule out.
        if file.path == "docs/style.md" || file.path.starts_with("xtask/") {
            continue;
        }
        for passage in passages(&file.path, &file.text) {
            let messages = broken_rules(&passage);
            findings.extend(messages.into_iter().map(|message| Finding {
                path: file.path.clone(),
                line: passage.line,
                message,
            }));
        }
    }
    findings.sort();
    Ok(findings)
}

fn passages(path: &str, text: &str) -> Vec<Passage> {
    match path.rsplit_once('.') {
        Some((_, "rs")) => of_rust(text),
        Some((_, "md")) => of_page(text),
        _ => of_hash_comments(text),
    }
}

fn broken_rules(passage: &Passage) -> Vec<String> {
    let mut messages = rules::words(&passage.text);
    messages.extend(match passage.kind {
        PassageKind::Comment => rules::opening(&passage.text),
        PassageKind::StringLiteral => rules::message_opening(&passage.text),
        PassageKind::Page => None,
    });
    messages
}

/// Comments, with consecutive lines joined, and string literals.
fn of_rust(text: &str) -> Vec<Passage> {
    let mut passages: Vec<Passage> = Vec::new();
    let (mut offset, mut line) = (0, 1);
    // The line on which a comment may go on, and the kind of its marker.
    let mut open: Option<(usize, &str)> = None;
    for token in tokenize(text, FrontmatterAllowed::Yes) {
        let length = usize::try_from(token.len).unwrap_or(usize::MAX);
        let source = &text[offset..offset + length];
        match token.kind {
            TokenKind::LineComment { .. } => {
                let marker = ["//!", "///", "//"]
                    .into_iter()
                    .find(|marker| source.starts_with(marker))
                    .unwrap_or_default();
                let comment = source[marker.len()..].trim();
                match (open, passages.last_mut()) {
                    (Some(expected), Some(last)) if expected == (line, marker) => {
                        last.text.push(' ');
                        last.text.push_str(comment);
                    }
                    _ => passages.push(Passage {
                        line,
                        kind: PassageKind::Comment,
                        text: comment.to_owned(),
                    }),
                }
                open = Some((line + 1, marker));
            }
            TokenKind::Literal {
                kind: LiteralKind::Str { .. } | LiteralKind::RawStr { .. },
                ..
            } => {
                let literal = source
                    .trim_start_matches(['r', '#'])
                    .trim_matches(['"', '#']);
                passages.push(Passage {
                    line,
                    kind: PassageKind::StringLiteral,
                    text: literal.to_owned(),
                });
                open = None;
            }
            TokenKind::Whitespace => {}
            _ => open = None,
        }
        offset += length;
        line += source.matches('\n').count();
    }
    passages
}

/// Paragraphs of a page; code blocks are left out.
fn of_page(text: &str) -> Vec<Passage> {
    let mut in_code = false;
    let mut passages = Vec::new();
    for (at, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            in_code = !in_code;
        } else if !in_code {
            passages.push(Passage {
                line: at + 1,
                kind: PassageKind::Page,
                text: line.to_owned(),
            });
        }
    }
    passages
}

/// Comments behind `#` on lines of their own, with consecutive lines joined.
fn of_hash_comments(text: &str) -> Vec<Passage> {
    let mut passages: Vec<Passage> = Vec::new();
    let mut continues = false;
    for (at, line) in text.lines().enumerate() {
        let comment = line.trim_start().strip_prefix('#');
        let comment = comment.map(|it| it.trim_start_matches(['#', '-']).trim());
        match (comment, continues, passages.last_mut()) {
            (Some(comment), true, Some(last)) => {
                last.text.push(' ');
                last.text.push_str(comment);
            }
            (Some(comment), ..) => passages.push(Passage {
                line: at + 1,
                kind: PassageKind::Comment,
                text: comment.to_owned(),
            }),
            (None, ..) => {}
        }
        continues = comment.is_some();
    }
    passages
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(passages: &[Passage]) -> Vec<(usize, &str)> {
        passages.iter().map(|it| (it.line, &*it.text)).collect()
    }

    #[test]
    fn lines_of_a_comment_are_one_passage() {
        let source =
            "//! The module\n//! reads.\n\n/// A field.\n// Why.\nlet a = 1; // trailing\n";
        assert_eq!(
            texts(&of_rust(source)),
            [
                (1, "The module reads."),
                (4, "A field."),
                (5, "Why."),
                (6, "trailing")
            ]
        );
    }

    #[test]
    fn string_literals_are_passages_and_code_is_not() {
        let source = "let whom = \"for whom\";\nlet raw = r#\"it is \"raw\"\"#;";
        assert_eq!(
            texts(&of_rust(source)),
            [(1, "for whom"), (2, "it is \"raw")]
        );
    }

    #[test]
    fn code_blocks_of_pages_are_left_out() {
        let page = "One.\n```sh\nwhom\n```\nTwo.";
        assert_eq!(texts(&of_page(page)), [(1, "One."), (5, "Two.")]);
    }

    #[test]
    fn yaml_comments_are_passages() {
        let yaml = "# The port\n# of xDS.\nport: 1 # not read\n  # Next\n";
        assert_eq!(
            texts(&of_hash_comments(yaml)),
            [(1, "The port of xDS."), (4, "Next")]
        );
    }
}
