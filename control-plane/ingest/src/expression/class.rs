//! Sets of characters, and the sizes of RE2's programs for them.

use std::ops::RangeInclusive;

/// The size of the program for any character, with or without a line end: ranges of ASCII, and six instructions for the
/// rest.
pub(super) const ANY_CHARACTER: u64 = 8;

/// The first character that is not ASCII, and the last character.
const NOT_ASCII: (u32, u32) = (0x80, 0x0010_ffff);

/// The size of the program for all characters that are not ASCII.
const NOT_ASCII_SIZE: u64 = 6;

/// Ranges of characters.
#[derive(Debug, Default)]
pub(super) struct CharacterSet {
    ranges: Vec<(u32, u32)>,
    /// The size of the program for the Unicode categories in the set.
    categories: u64,
}

impl CharacterSet {
    fn of(ranges: &[RangeInclusive<char>]) -> Self {
        let ranges = ranges
            .iter()
            .map(|it| (u32::from(*it.start()), u32::from(*it.end())));
        Self {
            ranges: ranges.collect(),
            categories: 0,
        }
    }

    /// The class of an escape such as `\d`.
    pub(super) fn perl(letter: char) -> Option<Self> {
        let positive = match letter.to_ascii_lowercase() {
            'd' => Self::posix("digit")?,
            's' => Self::of(&['\t'..='\n', '\x0c'..='\r', ' '..=' ']),
            'w' => Self::posix("word")?,
            _ => return None,
        };
        Some(if letter.is_ascii_uppercase() {
            positive.negated()
        } else {
            positive
        })
    }

    /// The class of a name such as `alpha`, or `^alpha`.
    pub(super) fn posix(name: &str) -> Option<Self> {
        if let Some(name) = name.strip_prefix('^') {
            return Some(
                Self::posix(name)
                    .filter(|_| !name.starts_with('^'))?
                    .negated(),
            );
        }
        let ranges: &[RangeInclusive<char>] = match name {
            "alnum" => &['0'..='9', 'A'..='Z', 'a'..='z'],
            "alpha" => &['A'..='Z', 'a'..='z'],
            "ascii" => &['\0'..='\x7f'],
            "blank" => &['\t'..='\t', ' '..=' '],
            "cntrl" => &['\0'..='\x1f', '\x7f'..='\x7f'],
            "digit" => &['0'..='9'],
            "graph" => &['!'..='~'],
            "lower" => &['a'..='z'],
            "print" => &[' '..='~'],
            "punct" => &['!'..='/', ':'..='@', '['..='`', '{'..='~'],
            "space" => &['\t'..='\r', ' '..=' '],
            "upper" => &['A'..='Z'],
            "word" => &['0'..='9', 'A'..='Z', '_'..='_', 'a'..='z'],
            "xdigit" => &['0'..='9', 'A'..='F', 'a'..='f'],
            _ => return None,
        };
        Some(Self::of(ranges))
    }

    /// A Unicode category, or all characters but those of one.
    pub(super) fn unicode(name: &str) -> Option<Self> {
        let found = CATEGORIES.iter().find(|(other, _)| *other == name);
        found.map(|(_, size)| Self {
            ranges: Vec::new(),
            categories: *size,
        })
    }

    pub(super) fn add(&mut self, other: Self) {
        self.ranges.extend(other.ranges);
        self.categories += other.categories;
    }

    pub(super) fn add_range(&mut self, first: char, last: char) {
        self.ranges.push((first.into(), last.into()));
    }

    /// Adds the other case of each letter.
    pub(super) fn ignore_case(&mut self) -> Result<(), String> {
        let ranges = self.merged();
        let (start, end) = NOT_ASCII;
        let is_other =
            |(first, last): &(u32, u32)| *last >= start && (*first > start || *last < end);
        if self.categories > 0 || ranges.iter().any(is_other) {
            return Err("letters of brackets that are not ASCII cannot ignore their case; leave out the flag i".to_owned());
        }
        if ranges.last().is_some_and(|(_, last)| *last == end) {
            // A complement may lack the other forms of `k` and `s`.
            let parts = [(start, 0x17e), (0x180, 0x2129), (0x212b, end)];
            self.categories += parts
                .iter()
                .map(|(first, last)| size(*first, *last))
                .sum::<u64>();
        }
        for (first, last) in ranges {
            for (letters, other) in [('a'..='z', 'A'), ('A'..='Z', 'a')] {
                let (start, end) = (u32::from(*letters.start()), u32::from(*letters.end()));
                let (from, to) = (first.max(start), last.min(end));
                if from <= to {
                    let other = u32::from(other);
                    self.ranges.push((from - start + other, to - start + other));
                }
            }
            let contains = |it: char| (first..=last).contains(&it.into());
            for forms in [['k', 'K', '\u{212a}'], ['s', 'S', '\u{17f}']] {
                if forms.into_iter().any(contains) {
                    self.ranges.extend(forms.map(|it| (it.into(), it.into())));
                }
            }
        }
        Ok(())
    }

    #[must_use]
    pub(super) fn negated(self) -> Self {
        let mut next = 0;
        let mut ranges = Vec::new();
        for (first, last) in self.merged() {
            if next < first {
                ranges.push((next, first - 1));
            }
            next = last + 1;
        }
        if next <= NOT_ASCII.1 {
            ranges.push((next, NOT_ASCII.1));
        }
        Self {
            ranges,
            categories: self.categories,
        }
    }

    /// The ranges, ascending and without overlap.
    fn merged(&self) -> Vec<(u32, u32)> {
        let mut sorted = self.ranges.clone();
        sorted.sort_unstable();
        let mut merged: Vec<(u32, u32)> = Vec::new();
        for (first, last) in sorted {
            match merged.last_mut() {
                Some((_, end)) if first <= end.saturating_add(1) => *end = last.max(*end),
                _ => merged.push((first, last)),
            }
        }
        merged
    }

    /// The largest size of the program for one character of the set. RE2 needs an instruction if the set is empty too.
    pub(super) fn size(&self) -> u64 {
        let ranges = self.merged();
        let contains = |letter: u8| {
            let letter = u32::from(letter);
            ranges
                .iter()
                .any(|(first, last)| (*first..=*last).contains(&letter))
        };
        // RE2 compares without case if the set has each letter in both cases or in none.
        let has_no_case =
            (b'a'..=b'z').all(|letter| contains(letter) == contains(letter.to_ascii_uppercase()));
        let is_left_out = |first, last| has_no_case && 0x41 <= first && last <= 0x5a;
        let sizes = ranges
            .iter()
            .filter(|(first, last)| !is_left_out(*first, *last));
        let sizes = sizes.map(|(first, last)| size(*first, *last));
        (sizes.sum::<u64>() + self.categories).max(1)
    }
}

/// The size of the program for an ASCII character in either case. `K` has a third form, the sign for kelvin, and `s` the
/// long s.
pub(super) fn size_without_case(character: char) -> u64 {
    match character.to_ascii_lowercase() {
        'k' => 4,
        's' => 3,
        _ => 1,
    }
}

/// The largest size of the program for a range, which is divided until the ends of each part have common leading bytes, or
/// until each part has all following bytes.
fn size(first: u32, last: u32) -> u64 {
    if (first, last) == NOT_ASCII {
        return NOT_ASCII_SIZE;
    }
    for end in [0x7f, 0x7ff, 0xffff] {
        if first <= end && end < last {
            return size(first, end) + size(end + 1, last);
        }
    }
    if last <= 0x7f {
        return 1;
    }
    for bits in [6, 12, 18] {
        let mask = (1 << bits) - 1;
        if first & !mask != last & !mask {
            if first & mask != 0 {
                return size(first, first | mask) + size((first | mask) + 1, last);
            }
            if last & mask != mask {
                return size(first, (last & !mask) - 1) + size(last & !mask, last);
            }
        }
    }
    match last {
        0..=0x7ff => 2,
        0x800..=0xffff => 3,
        _ => 4,
    }
}

/// Unicode's general categories and frequent scripts, with the size of the program in Envoy 1.36 for the category or for
/// its complement, whichever is larger. Newer releases make smaller programs.
const CATEGORIES: &[(&str, u64)] = &[
    ("C", 104),
    ("Cc", 15),
    ("Cf", 98),
    ("Co", 21),
    ("Cs", 16),
    ("L", 1198),
    ("Ll", 884),
    ("Lm", 252),
    ("Lo", 995),
    ("Lt", 33),
    ("Lu", 846),
    ("M", 736),
    ("Mc", 429),
    ("Me", 37),
    ("Mn", 806),
    ("N", 472),
    ("Nd", 265),
    ("Nl", 64),
    ("No", 274),
    ("P", 577),
    ("Pc", 33),
    ("Pd", 72),
    ("Pe", 154),
    ("Pf", 33),
    ("Pi", 34),
    ("Po", 550),
    ("Ps", 158),
    ("S", 555),
    ("Sc", 96),
    ("Sk", 97),
    ("Sm", 169),
    ("So", 435),
    ("Z", 34),
    ("Zl", 19),
    ("Zp", 19),
    ("Zs", 33),
    ("Arabic", 118),
    ("Armenian", 27),
    ("Common", 401),
    ("Cyrillic", 57),
    ("Devanagari", 29),
    ("Georgian", 34),
    ("Greek", 89),
    ("Han", 80),
    ("Hangul", 60),
    ("Hebrew", 32),
    ("Hiragana", 38),
    ("Katakana", 59),
    ("Latin", 109),
    ("Thai", 19),
];
