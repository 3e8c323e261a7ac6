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

impl PeerText<'_> {
    /// As much of the escaped text as fits into this number of bytes, for a text that is kept.
    ///
    /// ```
    /// use evermesh_xds::PeerText;
    ///
    /// assert_eq!(PeerText("ab\ncd").within(4), r"ab\n");
    /// ```
    pub fn within(self, bytes: usize) -> String {
        let mut kept = String::new();
        for character in self.0.chars() {
            let before = kept.len();
            if is_harmless(character) {
                kept.push(character);
            } else {
                kept.extend(character.escape_debug());
            }
            if kept.len() > bytes {
                kept.truncate(before);
                break;
            }
        }
        kept
    }
}

/// Quotes and backslashes are harmless; [`char::escape_debug`] would escape them too.
fn is_harmless(character: char) -> bool {
    matches!(character, '"' | '\'' | '\\') || character.escape_debug().len() == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_and_directions_are_escaped() {
        let hostile = "a\r\n\u{1b}[31m\u{202e}\u{2028}\0 ü \"b\" c\\d";
        let shown = PeerText(hostile).to_string();
        assert_eq!(PeerText(hostile).within(1000), shown);
        assert_eq!(shown, r#"a\r\n\u{1b}[31m\u{202e}\u{2028}\0 ü "b" c\d"#);
    }

    #[test]
    fn long_text_is_cut_at_a_character() {
        assert_eq!(PeerText(&"ü".repeat(200)).to_string(), "ü".repeat(200));
        let shown = PeerText(&"ü".repeat(1_000_000)).to_string();
        assert_eq!(shown, "ü".repeat(200) + "…");
        assert_eq!(PeerText("üü").within(3), "ü");
        assert_eq!(PeerText("üü").within(4), "üü");
        assert_eq!(PeerText("a\n\n").within(4), r"a\n");
    }
}
