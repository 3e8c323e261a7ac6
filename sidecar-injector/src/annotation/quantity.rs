//! Kubernetes quantities, such as `10m`, `0.5`, `32Mi` or `1e3`: checked and compared.

/// Parts of a unit that Kubernetes can store.
const NANOS_PER_UNIT: i128 = 1_000_000_000;
/// The largest exponent of ten, which is that of `E`.
const EXPONENT_LIMIT: i32 = 18;

/// Checks a Kubernetes quantity and returns it unchanged.
///
/// # Errors
/// If the text is not a quantity, or if Kubernetes would round it or replace it by a smaller one.
pub fn quantity(text: &str) -> Result<String, String> {
    nanos(text).map(|_| text.to_owned())
}

/// Whether a request is larger than the limit. An empty text stands for a request or limit that is not set.
pub fn exceeds(request: &str, limit: &str) -> bool {
    match (nanos(request), nanos(limit)) {
        (Ok(request), Ok(limit)) => request > limit,
        _ => false,
    }
}

/// The quantity in billionths of a unit.
fn nanos(text: &str) -> Result<i128, String> {
    let malformed = || "not a valid Kubernetes quantity such as `10m` or `64Mi`".to_owned();
    let suffix = text.trim_start_matches(|it: char| it.is_ascii_digit() || it == '.');
    let number = &text[..text.len() - suffix.len()];
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let has_digits = !whole.is_empty() || !fraction.is_empty();
    let is_number = has_digits && !fraction.contains('.');
    let (base, exponent) = scale(suffix).filter(|_| is_number).ok_or_else(malformed)?;
    let fraction = fraction.trim_end_matches('0');
    let digits = format!("{whole}{fraction}");
    let digits = digits.trim_start_matches('0');
    if digits.is_empty() {
        return Ok(0);
    }
    let too_large = || "larger than Kubernetes can store, which is 2^63 - 1".to_owned();
    let shift = |number: i128, places: usize| {
        let factor = 10_i128.checked_pow(u32::try_from(places).ok()?)?;
        number.checked_mul(factor)
    };
    let power = base.pow(exponent.unsigned_abs());
    let number: i128 = digits.parse().map_err(|_error| too_large())?;
    let (multiplier, divisor) = if exponent < 0 { (1, power) } else { (power, 1) };
    let scaled = number
        .checked_mul(multiplier)
        .and_then(|it| it.checked_mul(NANOS_PER_UNIT))
        .ok_or_else(too_large)?;
    let divisor = shift(divisor, fraction.len()).filter(|divisor| scaled % divisor == 0);
    let divisor = divisor.ok_or("finer than Kubernetes can store, which is `1n`")?;
    let nanos = scaled / divisor;
    if nanos > i128::from(i64::MAX) * NANOS_PER_UNIT {
        return Err(too_large());
    }
    Ok(nanos)
}

/// The base and the exponent of a suffix.
fn scale(suffix: &str) -> Option<(i128, i32)> {
    const DECIMAL: [(&str, i32); 10] = [
        ("n", -9),
        ("u", -6),
        ("m", -3),
        ("", 0),
        ("k", 3),
        ("M", 6),
        ("G", 9),
        ("T", 12),
        ("P", 15),
        ("E", 18),
    ];
    const BINARY: [(&str, i32); 6] = [
        ("Ki", 10),
        ("Mi", 20),
        ("Gi", 30),
        ("Ti", 40),
        ("Pi", 50),
        ("Ei", 60),
    ];
    let find = |list: &[(&str, i32)]| list.iter().find(|(it, _)| *it == suffix).map(|it| it.1);
    if let Some(exponent) = find(&DECIMAL) {
        return Some((10, exponent));
    }
    if let Some(exponent) = find(&BINARY) {
        return Some((2, exponent));
    }
    let exponent = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
    (-EXPONENT_LIMIT..=EXPONENT_LIMIT)
        .contains(&exponent)
        .then_some((10, exponent))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_those_of_kubernetes() {
        for good in [
            "0",
            "1",
            "10m",
            "0.5",
            ".5",
            "1.",
            "32Mi",
            "1e3",
            "1E-3",
            "1e+3",
            "2E",
            "12k",
            "1n",
            "7Ei",
            "0.000000001",
            "00.50",
            "1.000000000000000000000000000000000000000000000000",
        ] {
            assert_eq!(quantity(good).as_deref(), Ok(good));
        }
        for bad in [
            "",
            ".",
            "m",
            "-1",
            "1 Mi",
            "1MB",
            "1.2.3",
            "1ee3",
            "1e",
            "1e19",
            "1e-19",
            "1e99999999999",
        ] {
            let error = quantity(bad).unwrap_err();
            assert!(
                error.contains("not a valid Kubernetes quantity"),
                "{bad}: {error}"
            );
        }
    }

    #[test]
    fn quantities_that_kubernetes_would_change_are_refused() {
        for fine in ["0.1n", "0.0000000001", "1e-10", "0.00000000005Ki"] {
            let error = quantity(fine).unwrap_err();
            assert!(error.contains("finer"), "{fine}: {error}");
        }
        let digits = "9".repeat(60);
        for large in ["8Ei", "9223372036854775808", "10E", digits.as_str()] {
            let error = quantity(large).unwrap_err();
            assert!(error.contains("larger"), "{large}: {error}");
        }
    }

    #[test]
    fn quantities_with_different_units_are_compared() {
        for (request, limit) in [
            ("1", "999m"),
            ("1Ki", "1k"),
            ("0.2", "100m"),
            ("1e3", "999"),
            ("1n", "0"),
            ("7Ei", "7E"),
        ] {
            assert!(exceeds(request, limit), "{request} {limit}");
            assert!(!exceeds(limit, request), "{limit} {request}");
        }
        for (request, limit) in [("1", "1000m"), ("", "0"), ("1", ""), ("1024", "1Ki")] {
            assert!(!exceeds(request, limit), "{request} {limit}");
        }
    }
}
