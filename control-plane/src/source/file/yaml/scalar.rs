//! Values of plain scalars, as `kubectl` reads them and as YAML 1.2 does.
//!
//! `kubectl` reads manifests with sigs.k8s.io/yaml 1.6 on go.yaml.in/yaml/v2 and sends the result as JSON, in which a
//! float without a fraction is an integer. [`resolve`] follows `resolve.go` of that module: mostly YAML 1.1, with the
//! prefix `0o` of YAML 1.2 and without numbers to the base 60.

use serde_json::Value;

/// The value of a scalar.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Scalar {
    Null,
    Bool(bool),
    Integer(i64),
    /// A finite number with a fraction, or beyond 64 bits.
    Float(f64),
    /// Infinity or not a number. JSON has neither, so `kubectl` refuses the document.
    NotFinite,
    /// The scalar's own text.
    Text,
}

impl Scalar {
    /// The value in an object. A scalar that JSON cannot express becomes null.
    pub(super) fn value(self, text: &str) -> Value {
        match self {
            Self::Null | Self::NotFinite => Value::Null,
            Self::Bool(value) => value.into(),
            Self::Integer(value) => value.into(),
            Self::Float(value) => value.into(),
            Self::Text => text.into(),
        }
    }

    /// The name of the value in a message.
    pub(super) fn describe(self) -> String {
        match self {
            Self::Null => "null".to_owned(),
            Self::Bool(value) => format!("`{value}`"),
            Self::Integer(value) => format!("the number {value}"),
            Self::Float(value) => format!("the number {value}"),
            Self::NotFinite => "a number that JSON does not have".to_owned(),
            Self::Text => "text".to_owned(),
        }
    }

    /// The number as JSON has it after `kubectl`. Go writes a float below 10^21 without an exponent, and the next reader
    /// takes it for an integer if it has no fraction and fits into 64 bits.
    pub(super) fn number(value: f64) -> Self {
        if !value.is_finite() {
            return Self::NotFinite;
        }
        // Rust writes the same digits as Go for floats that fit into 64 bits.
        let is_integer = value.fract() == 0.0 && value.abs() < 1e21;
        match value.to_string().parse() {
            Ok(integer) if is_integer => Self::Integer(integer),
            _ => Self::Float(value),
        }
    }
}

/// The value that `kubectl` reads from a plain scalar without a tag.
pub(super) fn resolve(text: &str) -> Scalar {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Scalar::Null,
        "y" | "Y" | "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => {
            return Scalar::Bool(true);
        }
        "n" | "N" | "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => {
            return Scalar::Bool(false);
        }
        _ if is_not_finite(text) => return Scalar::NotFinite,
        _ => {}
    }
    match text.as_bytes()[0] {
        b'.' => fraction(text).unwrap_or(Scalar::Text),
        b'0'..=b'9' | b'+' | b'-' => {
            let plain = text.replace('_', "");
            integer(&plain)
                .or_else(|| decimal(&plain))
                .or_else(|| binary(&plain))
                .unwrap_or(Scalar::Text)
        }
        _ => Scalar::Text,
    }
}

/// Whether `kubectl` reads the scalar as a float; a float without a fraction becomes an integer only in JSON.
pub(super) fn is_float(text: &str) -> bool {
    let plain = text.replace('_', "");
    match text.as_bytes().first() {
        Some(b'.') => fraction(text).is_some(),
        Some(b'0'..=b'9' | b'+' | b'-') => integer(&plain).is_none() && decimal(&plain).is_some(),
        _ => false,
    }
}

/// The value that the core schema of YAML 1.2 gives to a plain scalar without a tag
/// (<https://yaml.org/spec/1.2.2/#1032-tag-resolution>).
pub(super) fn resolve_core(text: &str) -> Scalar {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Scalar::Null,
        "true" | "True" | "TRUE" => return Scalar::Bool(true),
        "false" | "False" | "FALSE" => return Scalar::Bool(false),
        _ if is_not_finite(text) => return Scalar::NotFinite,
        _ => {}
    }
    let of_base = |digits: &str, base| unsigned(digits, base).map(number_of);
    if let Some(digits) = text.strip_prefix("0x") {
        return of_base(digits, 16).unwrap_or(Scalar::Text);
    }
    if let Some(digits) = text.strip_prefix("0o") {
        return of_base(digits, 8).unwrap_or(Scalar::Text);
    }
    let (negative, digits) = sign(text);
    match of_base(digits, 10) {
        Some(Scalar::Integer(value)) if negative => Scalar::Integer(-value),
        Some(value @ Scalar::Integer(_)) => value,
        _ => decimal(text).unwrap_or(Scalar::Text),
    }
}

fn is_not_finite(text: &str) -> bool {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    matches!(unsigned, ".inf" | ".Inf" | ".INF") || matches!(text, ".nan" | ".NaN" | ".NAN")
}

/// An integer in Go's notation: decimal, octal after `0` or `0o`, hexadecimal after `0x`, binary after `0b`. An integer
/// of 64 bits without a sign bit becomes a float in JSON.
fn integer(text: &str) -> Option<Scalar> {
    let (negative, digits) = sign(text);
    let is_signed = digits.len() < text.len();
    let bytes = digits.as_bytes();
    let (base, digits) = match (bytes.first()?, bytes.get(1)) {
        (b'0', Some(b'x' | b'X')) if bytes.len() > 2 => (16, digits.get(2..)?),
        (b'0', Some(b'o' | b'O')) if bytes.len() > 2 => (8, digits.get(2..)?),
        (b'0', Some(b'b' | b'B')) if bytes.len() > 2 => (2, digits.get(2..)?),
        (b'0', Some(_)) => (8, digits.get(1..)?),
        _ => (10, digits),
    };
    let magnitude = unsigned(digits, base)?;
    if negative {
        let value = i64::try_from(-i128::try_from(magnitude).ok()?).ok()?;
        return Some(Scalar::Integer(value));
    }
    let fits = i64::try_from(magnitude).is_ok() || (!is_signed && u64::try_from(magnitude).is_ok());
    fits.then(|| number_of(magnitude))
}

/// A binary number whose sign follows the prefix, which Go's reader takes too.
fn binary(text: &str) -> Option<Scalar> {
    let (negative, digits) = sign(text.strip_prefix("0b")?);
    let magnitude = i64::try_from(unsigned(digits, 2)?).ok()?;
    Some(Scalar::Integer(if negative {
        -magnitude
    } else {
        magnitude
    }))
}

/// A decimal number that begins with a dot. Underscores stand between digits.
fn fraction(text: &str) -> Option<Scalar> {
    let bytes = text.as_bytes();
    let is_digit = |at: Option<usize>| {
        let byte = at.and_then(|at| bytes.get(at));
        byte.is_some_and(u8::is_ascii_digit)
    };
    let mut underscores = (0..bytes.len()).filter(|at| bytes[*at] == b'_');
    let are_between = underscores.all(|at| is_digit(at.checked_sub(1)) && is_digit(Some(at + 1)));
    are_between.then(|| decimal(&text.replace('_', "")))?
}

/// A decimal number, with or without a fraction and an exponent. `None` for other text, and beyond the range of a float.
fn decimal(text: &str) -> Option<Scalar> {
    let (_, unsigned) = sign(text);
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(sign(exponent).1)),
        None => (unsigned, None),
    };
    let is_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let is_mantissa = match mantissa.split_once('.') {
        Some(("", fraction)) => !fraction.is_empty() && is_digits(fraction),
        Some((whole, fraction)) => is_digits(whole) && is_digits(fraction),
        None => !mantissa.is_empty() && is_digits(mantissa),
    };
    let is_exponent = exponent.is_none_or(|digits| !digits.is_empty() && is_digits(digits));
    if !is_mantissa || !is_exponent {
        return None;
    }
    let value: f64 = text.parse().ok()?;
    value.is_finite().then(|| Scalar::number(value))
}

/// Splits off a sign, and returns whether it is a minus.
fn sign(text: &str) -> (bool, &str) {
    match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    }
}

fn unsigned(digits: &str, base: u32) -> Option<u128> {
    let are_digits = digits.chars().all(|digit| digit.is_digit(base));
    if are_digits {
        u128::from_str_radix(digits, base).ok()
    } else {
        None
    }
}

fn number_of(magnitude: u128) -> Scalar {
    #[expect(clippy::cast_precision_loss)] // as JSON has numbers beyond 64 bits
    i64::try_from(magnitude).map_or_else(|_| Scalar::number(magnitude as f64), Scalar::Integer)
}
