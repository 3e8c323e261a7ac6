//! Changes an input at random: bytes, lines, or values of YAML and JSON documents.
//!
//! Documents are changed as trees, because a changed byte of YAML is rarely YAML. Every format is changed as bytes too.

use fastrand::Rng;

use crate::tree;

/// The form of a target's inputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InputFormat {
    /// Any bytes.
    Bytes,
    /// Lines `NAME=VALUE`.
    Lines,
    /// One JSON value.
    Json,
    /// YAML documents.
    Yaml,
}

/// Longest input that a mutation makes.
const MAX_BYTES: usize = 64 << 10;

/// Words with a meaning to at least one target.
const WORDS: [&str; 34] = [
    "\0",
    "\n",
    "\r\n---\r\n",
    "...",
    "&a",
    "*a",
    "{}",
    "[]",
    "null",
    "*",
    "%",
    "$$",
    "$(A)",
    ",",
    "=",
    ":",
    "/",
    "~1",
    "-1",
    "0",
    "1e309",
    "18446744073709551616",
    "65535",
    "65536",
    "0.0.0.0/0",
    "[::1]:1",
    "::/129",
    "enabled",
    "disabled",
    "\u{202e}",
    "\u{feff}",
    "e\u{301}",
    "<<",
    "mesh/m/virtualNode/a_b",
];

/// Returns the input with one to four changes. `other` is an input whose parts may be inserted.
pub fn mutate(format: InputFormat, input: &[u8], other: &[u8], random: &mut Rng) -> Vec<u8> {
    let mut changed = match format {
        _ if random.u8(..4) == 0 => None,
        InputFormat::Bytes => None,
        InputFormat::Lines => Some(lines(input, other, random)),
        InputFormat::Json => tree::mutate_json(input, other, random),
        InputFormat::Yaml => tree::mutate_yaml(input, other, random),
    }
    .unwrap_or_else(|| {
        let mut bytes = input.to_vec();
        for _ in 0..random.u8(1..=4) {
            change_bytes(&mut bytes, other, random);
        }
        bytes
    });
    changed.truncate(MAX_BYTES);
    changed
}

fn change_bytes(bytes: &mut Vec<u8>, other: &[u8], random: &mut Rng) {
    let at = random.usize(..=bytes.len());
    let end = at + random.usize(..=(bytes.len() - at).min(16));
    let inserted = match random.u8(..7) {
        0 => vec![random.u8(..)],
        1 => word(random).as_bytes().to_vec(),
        2 => slice(other, random).to_vec(),
        3 => slice(bytes, random).to_vec(),
        4 => bytes[at..end].repeat(random.usize(2..64)),
        5 => bytes[at..end]
            .iter()
            .map(|it| it ^ (1 << random.u8(..8)))
            .collect(),
        _ => Vec::new(),
    };
    // Without a removal, the inserted bytes are added before `at`.
    let end = if random.bool() { end } else { at };
    bytes.splice(at..end, inserted);
}

fn slice<'a>(bytes: &'a [u8], random: &mut Rng) -> &'a [u8] {
    let start = random.usize(..=bytes.len());
    let length = random.usize(..=(bytes.len() - start).min(256));
    &bytes[start..start + length]
}

pub(crate) fn word(random: &mut Rng) -> &'static str {
    WORDS[random.usize(..WORDS.len())]
}

/// A text with a change.
pub(crate) fn change_text(text: &str, random: &mut Rng) -> String {
    let places: Vec<usize> = text
        .char_indices()
        .map(|(at, _)| at)
        .chain([text.len()])
        .collect();
    let at = places[random.usize(..places.len())];
    match random.u8(..5) {
        0 => format!("{}{}{}", &text[..at], word(random), &text[at..]),
        1 => text[..at].to_owned(),
        2 => text[at..].to_owned(),
        3 => text.repeat(random.usize(2..200).min(4096 / (text.len() + 1) + 1)),
        _ => word(random).to_owned(),
    }
}

fn lines(input: &[u8], other: &[u8], random: &mut Rng) -> Vec<u8> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (input, other) = (text(input), text(other));
    let mut lines: Vec<String> = input.lines().map(ToOwned::to_owned).collect();
    let others: Vec<&str> = other.lines().collect();
    for _ in 0..random.u8(1..=4) {
        let at = random.usize(..=lines.len());
        let Some(line) = lines.get(at).cloned() else {
            lines.extend(random.choice(&others).map(|line| (*line).to_owned()));
            continue;
        };
        let (name, value) = line.split_once('=').unwrap_or((&line, ""));
        match random.u8(..6) {
            0 => drop(lines.remove(at)),
            1 => lines.insert(at, line),
            2 => lines[at] = change_text(&line, random),
            3 => {
                let value = random.choice(&others).and_then(|it| it.split_once('='));
                lines[at] = format!("{name}={}", value.unwrap_or_default().1);
            }
            _ => lines[at] = format!("{name}={}", change_text(value, random)),
        }
    }
    lines.join("\n").into_bytes()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn same_seed_makes_the_same_inputs_and_most_differ() {
        for (format, input) in [
            (InputFormat::Bytes, "abc"),
            (InputFormat::Lines, "a=1\nb=2"),
            (InputFormat::Json, r#"{"a": [1, {"b": "c"}]}"#),
            (InputFormat::Yaml, "a: 1\n---\nb: [c]\n"),
        ] {
            let made = || {
                let mut random = Rng::with_seed(7);
                let mut one = || mutate(format, input.as_bytes(), b"x: y", &mut random);
                (0..100).map(|_| one()).collect::<Vec<_>>()
            };
            assert_eq!(made(), made());
            let different: BTreeSet<_> = made().into_iter().collect();
            assert!(different.len() > 50, "{format:?}: {}", different.len());
        }
    }
}
