//! Variables of Envoy's container, from the annotations `sidecarEnv` and `sidecarEnvJson`.

use std::collections::BTreeMap;

use super::{items, key, shown};

/// The share of requests that X-Ray samples. The only variable of Evermesh that annotations can override.
pub(crate) const SAMPLING_RATE: &str = "XRAY_SAMPLING_RATE";
/// The number of Envoy's worker threads.
pub(super) const CONCURRENCY: &str = "ENVOY_CONCURRENCY";

/// Bytes that Linux allows for a variable with its value (`MAX_ARG_STRLEN`), of which `=` and the final zero take two.
const VARIABLE_BYTES: usize = (128 << 10) - 2;

/// Parses `NAME=VALUE` pairs that are separated by commas.
pub(super) fn pairs(text: &str) -> Result<BTreeMap<String, String>, String> {
    let pair = |item: &str| match item.split_once('=') {
        Some((name, value)) if !name.trim().is_empty() => {
            Ok((name.trim().to_owned(), value.trim().to_owned()))
        }
        _ => Err(format!(
            "`{}` is not of the form NAME=VALUE; use `{}` for values with commas",
            shown(item),
            key("sidecarEnvJson")
        )),
    };
    checked(items(text).map(pair).collect::<Result<_, _>>()?)
}

/// Parses a JSON list of objects with variables.
pub(super) fn maps(text: &str) -> Result<BTreeMap<String, String>, String> {
    let maps = serde_json::from_str::<Vec<BTreeMap<String, String>>>(text).map_err(|error| {
        format!(
            "not a JSON list of objects with string values such as `[{{\"A\":\"b\"}}]`: {error}"
        )
    })?;
    checked(maps.into_iter().flatten().collect())
}

/// Returns the variables if all names are valid, and the values of those that Evermesh reads.
fn checked(env: BTreeMap<String, String>) -> Result<BTreeMap<String, String>, String> {
    for (name, value) in &env {
        if !is_name(name) {
            return Err(format!(
                "`{}` is not the name of a variable; use letters, digits, `_`, `-` and `.`, without a digit or `..` at the beginning",
                shown(name)
            ));
        }
        if value.contains('\0') {
            return Err(format!(
                "the value of `{}` has a zero character; remove it",
                shown(name)
            ));
        }
        fits(name, value)?;
    }
    if let Some(rate) = env.get(SAMPLING_RATE) {
        share(rate)?;
    }
    if let Some(number) = env.get(CONCURRENCY) {
        threads(number)?;
    }
    Ok(env)
}

/// Whether every supported version of Kubernetes accepts the name of a variable. Versions from 1.34 on accept more.
fn is_name(name: &str) -> bool {
    let is_letter = |it: char| it.is_ascii_alphabetic() || "_-.".contains(it);
    name.starts_with(is_letter)
        && name.chars().all(|it| is_letter(it) || it.is_ascii_digit())
        && name != "."
        && !name.starts_with("..")
}

/// Checks that a container with this variable can be started.
pub(super) fn fits(name: &str, value: &str) -> Result<(), String> {
    if name.len() + value.len() <= VARIABLE_BYTES {
        return Ok(());
    }
    Err(format!(
        "the variable `{}` would take {} bytes with its value, and Linux allows {VARIABLE_BYTES}; use a shorter value",
        shown(name),
        name.len() + value.len()
    ))
}

pub(super) fn share(text: &str) -> Result<f64, String> {
    let share = text.parse().ok().filter(|it| (0.0..=1.0).contains(it));
    share.ok_or_else(|| {
        format!(
            "`{SAMPLING_RATE}` is `{}`, but must be a number from 0 to 1",
            shown(text)
        )
    })
}

pub(super) fn threads(text: &str) -> Result<u16, String> {
    text.parse().map_err(|_error| {
        format!(
            "`{CONCURRENCY}` is `{}`, but must be a number from 0 to 65535",
            shown(text)
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_pairs_or_json() {
        let env = pairs("A=b, C = d=e,").unwrap();
        assert_eq!(env["A"], "b");
        assert_eq!(env["C"], "d=e");
        assert!(pairs("A").is_err());
        assert_eq!(maps(r#"[{"A":"b,c"},{"D":""}]"#).unwrap()["A"], "b,c");
        assert!(maps(r#"{"A":"b"}"#).is_err());
    }

    #[test]
    fn names_of_variables_are_those_of_all_kubernetes_versions() {
        for good in ["A", "_a.b-C1", ".a", "-", "a.."] {
            assert!(pairs(&format!("{good}=1")).is_ok(), "{good}");
        }
        for bad in ["1A", "A B", "ä", "A$", ".", "..", "..a", "A/B"] {
            let error = pairs(&format!("{bad}=1")).unwrap_err();
            assert!(error.contains("name of a variable"), "{bad}: {error}");
        }
        for bad in [r#"[{"":"b"}]"#, r#"[{"A=B":"b"}]"#, r#"[{" A":"b"}]"#] {
            assert!(maps(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn value_is_one_that_linux_passes_to_a_process() {
        let longest = "x".repeat(VARIABLE_BYTES - 1);
        assert!(pairs(&format!("A={longest}")).is_ok());
        let error = pairs(&format!("AB={longest}")).unwrap_err();
        assert!(error.contains("131071 bytes"), "{error}");
        assert!(error.len() < 200, "{error}");
        assert!(maps(r#"[{"A":"\u0000"}]"#).is_err());
    }

    #[test]
    fn sampling_rate_and_concurrency_are_checked() {
        let env = |name: &str, value: &str| checked([(name.to_owned(), value.to_owned())].into());
        for good in ["0", "1", "0.05", "1e-3"] {
            assert!(env(SAMPLING_RATE, good).is_ok(), "{good}");
        }
        for bad in ["", "abc", "2", "-1", "NaN", "inf", "5%"] {
            assert!(env(SAMPLING_RATE, bad).is_err(), "{bad}");
        }
        for good in ["0", "4", "65535"] {
            assert!(env(CONCURRENCY, good).is_ok(), "{good}");
        }
        for bad in ["", "abc", "-1", "1.5", "65536"] {
            assert!(env(CONCURRENCY, bad).is_err(), "{bad}");
        }
        assert!(env("OTHER", "abc").is_ok());
    }
}
