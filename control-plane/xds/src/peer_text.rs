//! Text of a peer, made fit for logs, answers, conditions and events.

use std::fmt::{self, Write as _};

/// Number of characters of a peer's text that are shown.
const SHOWN_CHARACTERS: usize = 200;

/// Shows at most 200 characters of a text, with an ellipsis if there are more. Control characters, line ends and
/// characters that change the direction of text are escaped, so that a peer cannot write lines of its own into a log.
///
/// ```
/// use evermesh_xds::PeerText;
///
/// assert_eq!(PeerText("cluster\nadmin").to_string(), r"cluster\nadmin");
/// ```
#[derive(Debug, Clone, Copy)]
pub struct PeerText<'a>(pub &'a str);

impl fmt::Display for PeerText<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut characters = self.0.chars();
        for character in characters.by_ref().take(SHOWN_CHARACTERS) {
            if is_harmless(character) {
                f.write_char(character)?;
            } else {
                write!(f, "{}", character.escape_debug())?;
            }
        }
        if characters.next().is_some() {
            f.write_char('…')?;
        }
        Ok(())
    }
}

/// Quotes and backslashes are harmless; [`char::escape_debug`] would escape them too.
fn is_harmless(character: char) -> bool {
    matches!(character, '"' | '\'' | '\\') || character.escape_debug().len() == 1
}

/// Cuts a text to at most `bytes` bytes, at the end of a character.
pub(crate) fn cut(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_and_directions_are_escaped() {
        let hostile = "a\r\n\u{1b}[31m\u{202e}\u{2028}\0 ü \"b\" c\\d";
        let shown = PeerText(hostile).to_string();
        assert_eq!(shown, r#"a\r\n\u{1b}[31m\u{202e}\u{2028}\0 ü "b" c\d"#);
    }

    #[test]
    fn long_text_is_cut_at_a_character() {
        assert_eq!(PeerText(&"ü".repeat(200)).to_string(), "ü".repeat(200));
        let shown = PeerText(&"ü".repeat(1_000_000)).to_string();
        assert_eq!(shown, "ü".repeat(200) + "…");
        assert_eq!(cut("üü", 3), "ü");
        assert_eq!(cut("üü", 9), "üü");
    }
}
