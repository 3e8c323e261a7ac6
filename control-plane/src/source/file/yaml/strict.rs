//! Text that a YAML 1.2 parser takes and that `kubectl` refuses or reads differently.

use std::{collections::HashSet, ops::RangeInclusive, str::Chars};

use super::ReadError;

/// Refuses characters that YAML 1.1 does not allow or takes for line breaks.
pub(in super::super) fn check_characters(text: &str, lines_before: u64) -> Result<(), ReadError> {
    let is_allowed = |next: Option<&u8>, character: char| match character {
        '\t' | '\n' | ' '..='~' => true,
        '\r' => next == Some(&b'\n'),
        '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}' => false,
        _ => character >= '\u{a0}',
    };
    let mut characters = text.char_indices();
    let found =
        characters.find(|(at, character)| !is_allowed(text.as_bytes().get(at + 1), *character));
    let Some((at, character)) = found else {
        return Ok(());
    };
    let line_start = text[..at].rfind('\n').map_or(0, |end| end + 1);
    Err(ReadError {
        line: 1 + lines_before + text[..at].matches('\n').count() as u64,
        column: text[line_start..at].chars().count() + 1,
        message: format!(
            "the character U+{:04X} is not allowed here; write it as an escape in double quotes",
            u32::from(character)
        ),
        is_limit: false,
    })
}

/// Refuses a line `...` before the content.
pub(super) fn check_start(text: &str, lines_before: u64) -> Result<(), ReadError> {
    let is_content = |line: &str| {
        let line = line.trim_start();
        !line.is_empty() && !line.starts_with('#')
    };
    let mut lines = text.lines().zip(lines_before + 1..);
    match lines.find(|(line, _)| is_content(line)) {
        Some((text, line)) if text.starts_with("...") => Err(ReadError {
            line,
            column: 1,
            message: "kubectl refuses `...` before a document; remove the line".to_owned(),
            is_limit: false,
        }),
        _ => Ok(()),
    }
}

/// Refuses tabs that begin a line or follow a `-`. `kubectl` takes them only inside of text, brackets and braces, whose
/// further lines are `continued`.
pub(super) fn check_tabs(
    text: &str,
    lines_before: u64,
    continued: &[RangeInclusive<usize>],
) -> Result<(), ReadError> {
    if !text.contains('\t') {
        return Ok(());
    }
    let continued: HashSet<usize> = continued.iter().cloned().flatten().collect();
    for (line, number) in text.lines().zip(1..) {
        let begin = line.find(|it| !matches!(it, ' ' | '-' | '?'));
        let begin = begin.filter(|begin| line[*begin..].starts_with('\t'));
        if let Some(begin) = begin
            && !continued.contains(&number)
        {
            return Err(ReadError {
                line: number as u64 + lines_before,
                column: begin + 1,
                message: "kubectl refuses a tab here; indent with spaces".to_owned(),
                is_limit: false,
            });
        }
    }
    Ok(())
}

/// Refuses names of anchors that YAML 1.1 does not have.
pub(super) fn check_anchor(name: &str, mut after: Chars<'_>) -> Result<(), &'static str> {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    if after.next().is_none_or(char::is_whitespace) && name.bytes().all(is_allowed) {
        return Ok(());
    }
    Err(
        "the name of an anchor has letters, digits, `_` and `-`, and a space after it; correct the name",
    )
}

/// Refuses escapes that YAML 1.1 does not have, and pairs of escapes for one character.
pub(super) fn check_escapes(quoted: &str) -> Result<(), &'static str> {
    let mut rest = quoted;
    while let Some((_, escape)) = rest.split_once('\\') {
        match escape.as_bytes() {
            [b'/', ..] => return Err("kubectl refuses the escape `\\/`; write `/`"),
            [
                b'u',
                b'd' | b'D',
                b'8' | b'9' | b'a'..=b'f' | b'A'..=b'F',
                ..,
            ] => {
                return Err(
                    "kubectl refuses a character that is written as two escapes; write the character itself, or use `\\U`",
                );
            }
            _ => {}
        }
        // The escaped character, which may be a backslash.
        let mut escaped = escape.chars();
        escaped.next();
        rest = escaped.as_str();
    }
    Ok(())
}

/// Refuses unquoted text between brackets or braces in which `:` or `?` has another meaning in YAML 1.1.
pub(super) fn check_plain_in_flow(text: &str, mut after: Chars<'_>) -> Result<(), &'static str> {
    let is_cut = after.next() == Some(':') && after.next().is_some_and(|it| !it.is_whitespace());
    if is_cut || text.starts_with(':') || text.ends_with(':') || text.contains('?') {
        return Err(
            "`:` and `?` in unquoted text between brackets or braces mean something else to kubectl; write a space after the `:` of a key, and put text in quotes",
        );
    }
    Ok(())
}
