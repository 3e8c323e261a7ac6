//! A reader of RE2's syntax, as Envoy's options select it: Perl's syntax and UTF-8.
//!
//! The reader accepts a part of what RE2 accepts, and reads it as RE2 does. It builds a tree of which only the size of
//! each program is of interest, so a leaf is its size.

use super::class::{self, CharacterSet};

/// The largest count of a repetition in RE2; nested counts are multiplied.
const MAX_COUNT: u32 = 1000;

/// The depth of groups in groups. RE2 allows 1000; a program of the allowed size has no use for that many.
const MAX_DEPTH: usize = 200;

/// An expression, reduced to what its program consists of.
#[derive(Debug)]
pub(super) enum Node {
    /// Instructions that follow each other or are alternatives within one character, such as those of `[a-z]`.
    Leaf(u64),
    /// A condition on the place, such as `^`.
    Assertion,
    /// A group that captures its text.
    Capture(Box<Node>),
    Concat(Vec<Node>),
    /// Alternatives, of which one may be empty.
    Alternate(Vec<Node>),
    Repeat {
        node: Box<Node>,
        least: u32,
        /// Absent if there is no limit.
        most: Option<u32>,
    },
}

impl Node {
    /// Whether the expression matches the empty text.
    pub(super) fn is_nullable(&self) -> bool {
        match self {
            Self::Leaf(size) => *size == 0,
            Self::Assertion => true,
            Self::Capture(node) => node.is_nullable(),
            Self::Concat(nodes) => nodes.iter().all(Self::is_nullable),
            Self::Alternate(nodes) => nodes.iter().any(Self::is_nullable),
            Self::Repeat { node, least, .. } => *least == 0 || node.is_nullable(),
        }
    }

    /// The rest of `left` after a division by the counts of nested repetitions. RE2 rejects the expression at 0.
    fn count(&self, left: u32) -> u32 {
        let least = |nodes: &[Self]| {
            let counts = nodes.iter().map(|node| node.count(left));
            counts.min().unwrap_or(left)
        };
        match self {
            Self::Leaf(_) | Self::Assertion => left,
            Self::Capture(node) => node.count(left),
            Self::Concat(nodes) | Self::Alternate(nodes) => least(nodes),
            Self::Repeat { node, least, most } => node.count(left / most.unwrap_or(*least).max(1)),
        }
    }
}

/// Reads a whole expression. The error completes a sentence about the expression.
pub(super) fn parse(expression: &str) -> Result<Node, String> {
    let mut parser = Parser {
        rest: expression,
        names: Vec::new(),
        depth: 0,
    };
    let node = parser.alternatives(Flags::default())?;
    if parser.rest.is_empty() {
        Ok(node)
    } else {
        Err("a `)` has no `(`; write `\\)` for the character".to_owned())
    }
}

/// The flags that change what a character stands for.
#[derive(Debug, Clone, Copy, Default)]
struct Flags {
    ignores_case: bool,
}

struct Parser<'a> {
    rest: &'a str,
    /// The names of groups.
    names: Vec<&'a str>,
    depth: usize,
}

/// An element of a sequence: something that a repetition may follow, or the end of one.
enum Item {
    Node(Node),
    /// A group of flags such as `(?i)`, which holds to the end of the surrounding group.
    Flags(Flags),
}

impl<'a> Parser<'a> {
    /// Reads up to the end of the group or of the expression.
    fn alternatives(&mut self, mut flags: Flags) -> Result<Node, String> {
        if self.depth == MAX_DEPTH {
            return Err(format!("groups are nested more than {MAX_DEPTH} times"));
        }
        self.depth += 1;
        let mut branches = Vec::new();
        loop {
            branches.push(self.sequence(&mut flags)?);
            if !self.eat("|") {
                break;
            }
        }
        self.depth -= 1;
        Ok(if branches.len() == 1 {
            branches.swap_remove(0)
        } else {
            Node::Alternate(branches)
        })
    }

    fn sequence(&mut self, flags: &mut Flags) -> Result<Node, String> {
        let mut nodes = Vec::new();
        // Whether a repetition may follow, and whether one has just ended.
        let (mut is_repeatable, mut is_repeated) = (false, false);
        while !self.rest.is_empty() && !self.rest.starts_with([')', '|']) {
            if let Some((text, least, most)) = self.repetition() {
                self.rest = &self.rest[text.len()..];
                self.eat("?");
                if is_repeated {
                    return Err("a repetition is repeated; put it into a group".to_owned());
                }
                let node = nodes.pop().filter(|_| is_repeatable);
                let node = node.ok_or_else(|| {
                    format!("`{text}` has nothing to repeat; write `\\{text}` for the text")
                })?;
                nodes.push(repeat(node, least, most)?);
                is_repeated = true;
                continue;
            }
            match self.item(*flags)? {
                Item::Node(node) => {
                    nodes.push(node);
                    is_repeatable = true;
                }
                Item::Flags(new) => {
                    *flags = new;
                    is_repeatable = false;
                }
            }
            is_repeated = false;
        }
        Ok(if nodes.len() == 1 {
            nodes.swap_remove(0)
        } else {
            Node::Concat(nodes)
        })
    }

    /// The text, the least and the largest count of the repetition at the beginning of the rest. A `{` that does not
    /// begin one is a character.
    fn repetition(&self) -> Option<(&'a str, u32, Option<u32>)> {
        let first = self.rest.get(..1)?;
        match first {
            "*" => return Some((first, 0, None)),
            "+" => return Some((first, 1, None)),
            "?" => return Some((first, 0, Some(1))),
            "{" => {}
            _ => return None,
        }
        let end = self.rest.find('}')?;
        let (least, most) = match self.rest[1..end].split_once(',') {
            None => (&self.rest[1..end], Some(&self.rest[1..end])),
            Some((least, "")) => (least, None),
            Some((least, most)) => (least, Some(most)),
        };
        let least = number(least)?;
        let most = match most {
            Some(most) => Some(number(most)?),
            None => None,
        };
        Some((&self.rest[..=end], least, most))
    }

    fn item(&mut self, flags: Flags) -> Result<Item, String> {
        let Some(first) = self.rest.chars().next() else {
            return Ok(Item::Node(Node::Leaf(0)));
        };
        let node = match first {
            '(' => return self.group(flags),
            '[' => Node::Leaf(self.class(flags)?),
            '\\' => self.escape(flags)?,
            '.' => {
                self.rest = &self.rest[1..];
                Node::Leaf(class::ANY_CHARACTER)
            }
            '^' | '$' => {
                self.rest = &self.rest[1..];
                Node::Assertion
            }
            _ => {
                self.rest = &self.rest[first.len_utf8()..];
                literal(first, flags)
            }
        };
        Ok(Item::Node(node))
    }

    fn group(&mut self, flags: Flags) -> Result<Item, String> {
        self.eat("(");
        let is_captured = if self.eat("?P<") || self.eat("?<") {
            self.name()?;
            true
        } else if self.eat("?") {
            let (new, is_group) = self.flags(flags)?;
            if !is_group {
                return Ok(Item::Flags(new));
            }
            let node = self.alternatives(new)?;
            return self.closed(node).map(Item::Node);
        } else {
            true
        };
        let node = self.alternatives(flags)?;
        let node = self.closed(node)?;
        Ok(Item::Node(if is_captured {
            Node::Capture(Box::new(node))
        } else {
            node
        }))
    }

    fn closed(&mut self, node: Node) -> Result<Node, String> {
        if self.eat(")") {
            Ok(node)
        } else {
            Err("a `(` has no `)`; write `\\(` for the character".to_owned())
        }
    }

    /// Reads the name of a group and the `>` after it.
    fn name(&mut self) -> Result<(), String> {
        let end = self.rest.find('>').unwrap_or(0);
        let (name, rest) = self.rest.split_at(end);
        let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        if name.is_empty() || !name.bytes().all(is_word) {
            return Err("the name of a group is not valid; use letters, digits and `_`".to_owned());
        }
        if self.names.contains(&name) {
            return Err(format!("two groups have the name `{name}`"));
        }
        self.names.push(name);
        self.rest = &rest[1..];
        Ok(())
    }

    /// Reads the flags after `(?`, and whether a group follows them.
    fn flags(&mut self, mut flags: Flags) -> Result<(Flags, bool), String> {
        let unknown = "`(?` is not followed by flags of RE2, which are i, m, s and U; lookaround does not exist";
        let (mut is_set, mut is_used) = (true, false);
        loop {
            let next = self.rest.chars().next().ok_or(unknown)?;
            self.rest = &self.rest[next.len_utf8()..];
            match next {
                'i' => flags.ignores_case = is_set,
                'm' | 's' | 'U' => {}
                '-' if is_set => {
                    is_set = false;
                    is_used = false;
                    continue;
                }
                ':' | ')' if is_set || is_used => return Ok((flags, next == ':')),
                _ => return Err(unknown.to_owned()),
            }
            is_used = true;
        }
    }

    /// An escape outside of brackets.
    fn escape(&mut self, flags: Flags) -> Result<Node, String> {
        if self.eat("\\Q") {
            let end = self.rest.find("\\E");
            let (text, rest) = self.rest.split_at(end.unwrap_or(self.rest.len()));
            self.rest = rest.strip_prefix("\\E").unwrap_or(rest);
            let characters = text.chars().map(|it| literal(it, flags)).collect();
            return Ok(Node::Concat(characters));
        }
        for assertion in ["\\A", "\\b", "\\B", "\\z"] {
            if self.eat(assertion) {
                return Ok(Node::Assertion);
            }
        }
        if self.eat("\\C") {
            return Ok(Node::Leaf(1));
        }
        if let Some(mut set) = self.escaped_class()? {
            if flags.ignores_case {
                set.ignore_case()?;
            }
            return Ok(Node::Leaf(set.size()));
        }
        Ok(literal(self.escaped_character()?, flags))
    }

    /// A class such as `\d` or `\pN`.
    fn escaped_class(&mut self) -> Result<Option<CharacterSet>, String> {
        let mut characters = self.rest.chars();
        let (Some('\\'), Some(letter)) = (characters.next(), characters.next()) else {
            return Ok(None);
        };
        if let Some(set) = CharacterSet::perl(letter) {
            self.rest = characters.as_str();
            return Ok(Some(set));
        }
        if !matches!(letter, 'p' | 'P') {
            return Ok(None);
        }
        let rest = characters.as_str();
        let (name, rest) = if let Some(braced) = rest.strip_prefix('{') {
            braced.split_once('}').ok_or("a `\\p{` has no `}`")?
        } else {
            rest.split_at(rest.chars().next().map_or(0, char::len_utf8))
        };
        let set = CharacterSet::unicode(name.strip_prefix('^').unwrap_or(name));
        self.rest = rest;
        set.map(Some).ok_or_else(|| {
            format!("`{name}` is not a Unicode category that is supported; use a category such as \\p{{Lu}}, or ranges such as [\u{3b1}-\u{3c9}]")
        })
    }

    /// An escape that stands for a single character.
    fn escaped_character(&mut self) -> Result<char, String> {
        let mut characters = self.rest.chars();
        characters.next();
        let letter = characters
            .next()
            .ok_or("the expression ends with a `\\`; write `\\\\` for the character")?;
        let rest = characters.as_str();
        let (character, rest) = match letter {
            'a' => ('\x07', rest),
            'f' => ('\x0c', rest),
            'n' => ('\n', rest),
            'r' => ('\r', rest),
            't' => ('\t', rest),
            'v' => ('\x0b', rest),
            'x' => hexadecimal(rest)?,
            '0'..='7' => octal(letter, rest)?,
            _ if letter.is_ascii_punctuation() || letter == ' ' => (letter, rest),
            _ => return Err(format!("the escape `\\{letter}` does not exist in RE2")),
        };
        self.rest = rest;
        Ok(character)
    }

    /// A class in brackets; the size of its program.
    fn class(&mut self, flags: Flags) -> Result<u64, String> {
        self.eat("[");
        let is_negated = self.eat("^");
        let mut set = CharacterSet::default();
        let mut is_first = true;
        loop {
            if self.rest.is_empty() {
                return Err("a `[` has no `]`; write `\\[` for the character".to_owned());
            }
            if !is_first && self.eat("]") {
                break;
            }
            is_first = false;
            let named = self.rest.strip_prefix("[:");
            if let Some((name, rest)) = named.and_then(|named| named.split_once(":]")) {
                set.add(CharacterSet::posix(name).ok_or_else(|| {
                    format!("the class `[:{name}:]` does not exist; use a class such as [:alpha:]")
                })?);
                self.rest = rest;
            } else if let Some(other) = self.escaped_class()? {
                set.add(other);
            } else {
                let first = self.class_character()?;
                let mut last = first;
                if self.rest.starts_with('-') && !self.rest.starts_with("-]") {
                    self.eat("-");
                    if self.rest.is_empty() {
                        continue;
                    }
                    last = self.class_character()?;
                }
                if last < first {
                    return Err(format!("the range `{first}-{last}` is empty"));
                }
                set.add_range(first, last);
            }
        }
        if flags.ignores_case {
            set.ignore_case()?;
        }
        Ok(if is_negated { set.negated() } else { set }.size())
    }

    fn class_character(&mut self) -> Result<char, String> {
        if self.rest.starts_with('\\') {
            return self.escaped_character();
        }
        let first = self.rest.chars().next();
        let first = first.ok_or("a `[` has no `]`; write `\\[` for the character")?;
        self.rest = &self.rest[first.len_utf8()..];
        Ok(first)
    }

    fn eat(&mut self, text: &str) -> bool {
        let rest = self.rest.strip_prefix(text);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }
}

/// A count. RE2 takes a number with a leading zero for text.
fn number(text: &str) -> Option<u32> {
    let is_number = !text.is_empty() && text.bytes().all(|it| it.is_ascii_digit());
    let is_plain = text == "0" || !text.starts_with('0');
    (is_number && is_plain).then(|| text.parse().unwrap_or(u32::MAX))
}

fn repeat(node: Node, least: u32, most: Option<u32>) -> Result<Node, String> {
    if least > MAX_COUNT || most.is_some_and(|most| most > MAX_COUNT) {
        return Err(format!("a repetition has a count of more than {MAX_COUNT}"));
    }
    if most.is_some_and(|most| most < least) {
        return Err("the largest count of a repetition is less than its least count".to_owned());
    }
    let node = Node::Repeat {
        node: Box::new(node),
        least,
        most,
    };
    if node.count(MAX_COUNT) == 0 {
        return Err(format!(
            "nested repetitions have a count of more than {MAX_COUNT} in total"
        ));
    }
    Ok(node)
}

fn literal(character: char, flags: Flags) -> Node {
    let bytes = character.len_utf8() as u64;
    Node::Leaf(if flags.ignores_case && character.is_ascii() {
        class::size_without_case(character)
    } else if flags.ignores_case {
        // At most four characters are equal but for their case.
        4 * (bytes + 1)
    } else {
        bytes
    })
}

/// The character of `\x41` or `\x{41}`, and what follows.
fn hexadecimal(rest: &str) -> Result<(char, &str), String> {
    let (digits, rest) = match rest.strip_prefix('{') {
        Some(braced) => braced.split_once('}').ok_or("a `\\x{` has no `}`")?,
        None => rest
            .split_at_checked(2)
            .ok_or("`\\x` is not followed by two digits")?,
    };
    let is_hexadecimal = !digits.is_empty() && digits.bytes().all(|it| it.is_ascii_hexdigit());
    let code = u32::from_str_radix(digits, 16)
        .ok()
        .filter(|_| is_hexadecimal);
    let character = code.and_then(numbered_character);
    let character = character.ok_or_else(|| {
        format!("`{digits}` is not a hexadecimal number up to ff; write the character itself")
    })?;
    Ok((character, rest))
}

/// The character of `\07` or `\12`, and what follows. A single digit but 0 would refer to a group.
fn octal(first: char, rest: &str) -> Result<(char, &str), String> {
    let digits = rest
        .bytes()
        .take(2)
        .take_while(|it| (b'0'..=b'7').contains(it))
        .count();
    if digits == 0 && first != '0' {
        return Err("RE2 has no references to groups".to_owned());
    }
    let (digits, rest) = rest.split_at(digits);
    let code = u32::from_str_radix(&format!("{first}{digits}"), 8).ok();
    let character = code
        .and_then(numbered_character)
        .ok_or("an octal number is more than 377; write the character itself")?;
    Ok((character, rest))
}

/// The character of a number. Envoy 1.40 refuses larger ones.
fn numbered_character(code: u32) -> Option<char> {
    u8::try_from(code).ok().map(char::from)
}
