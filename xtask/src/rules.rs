//! The rules of `docs/style.md` that a program can check, as functions from text to what is wrong with it.

use std::sync::LazyLock;

use regex::Regex;

/// Words that stand for a missing noun.
static VAGUE: LazyLock<Regex> = LazyLock::new(|| {
    regex(r"(?i)\b(whoever|whomever|whom|nobody|somebody|anybody|everybody|somebody else)\b")
});

/// "is no operator"; "there is no leader" and "is no longer" are fine.
static IS_NO: LazyLock<Regex> =
    LazyLock::new(|| regex(r"(?i)(\bthere )?\b(?:is|are|was|were) no (\w+)"));

/// Pronouns and question words, as the first word of a comment.
static OPENING: LazyLock<Regex> = LazyLock::new(|| {
    regex(concat!(
        r"^(It|Its|They|Their|Them|That|What|Which|Who|Whom|Whose|How|Why|Where|There|He|She)\b",
        r"|^(This|These|Those) (is|are|was|were|has|have|do|does|can|must|means?|makes?|keeps?|lets?|needs?)\b",
        r"|^(Of|By) "
    ))
});

/// The same for messages, which may begin in lower case.
static MESSAGE_OPENING: LazyLock<Regex> =
    LazyLock::new(|| regex(r"^(?i:it|they|what|whose|he|she) [a-z]"));

fn regex(pattern: &str) -> Regex {
    Regex::new(pattern).expect("the patterns are constants, and a test compiles them")
}

/// Words that no text contains.
pub(crate) fn words(text: &str) -> Vec<String> {
    let vague = VAGUE
        .find_iter(text)
        .map(|found| format!("`{}`: name the person or thing that acts", found.as_str()));
    let is_no = IS_NO.captures_iter(text).filter_map(|found| {
        let is_fine = found.get(1).is_some() || ["longer", "more", "less"].contains(&&found[2]);
        (!is_fine).then(|| format!("`{}`: write \"is not\"", &found[0]))
    });
    vague.chain(is_no).collect()
}

/// The first word of a comment: a noun or an imperative verb.
pub(crate) fn opening(comment: &str) -> Option<String> {
    let comment = comment.trim_start();
    if comment.starts_with("By default") {
        return None;
    }
    let word = OPENING.find(comment)?.as_str().trim_end();
    Some(format!(
        "a comment begins with `{word}`; begin with a noun or a verb"
    ))
}

/// The first word of a message.
pub(crate) fn message_opening(message: &str) -> Option<String> {
    MESSAGE_OPENING.find(message)?;
    let word = message.split(' ').next().unwrap_or_default();
    Some(format!("a message begins with `{word}`; name the object"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vague_words_are_findings() {
        for text in [
            "for whoever asks",
            "Nobody waits.",
            "to whom it belongs",
            "`Near` is no operator",
            "these are no pair",
        ] {
            assert_eq!(words(text).len(), 1, "{text}");
        }
    }

    #[test]
    fn plain_sentences_are_fine() {
        for text in [
            "there is no leader",
            "there are no replicas",
            "the stream is no longer needed",
            "the wholesale nowhere of somebodys",
            "`Near` is not a valid operator",
        ] {
            assert_eq!(words(text), Vec::<String>::new(), "{text}");
        }
    }

    #[test]
    fn comments_begin_with_a_noun_or_a_verb() {
        for comment in [
            "It waits.",
            " What is sent.",
            "Of this mesh.",
            "That it is there.",
            "This is a port.",
        ] {
            assert!(opening(comment).is_some(), "{comment}");
        }
        for comment in [
            "Waits for the ACK.",
            "Items that wait.",
            "Itself",
            "This crate is pure.",
            "These values are old.",
            "By default it is off.",
            "Office hours",
        ] {
            assert_eq!(opening(comment), None, "{comment}");
        }
    }

    #[test]
    fn messages_begin_with_the_object() {
        for message in [
            "it is not a quantity",
            "They differ",
            "what it names is absent",
        ] {
            assert!(message_opening(message).is_some(), "{message}");
        }
        for message in ["item {name} is not a quantity", "it", "whatever"] {
            assert_eq!(message_opening(message), None, "{message}");
        }
    }
}
