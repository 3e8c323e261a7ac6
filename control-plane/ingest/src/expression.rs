//! Regular expressions that Envoy accepts.
//!
//! Envoy compiles expressions with RE2 and refuses a whole route configuration that contains one that is not valid, or one
//! whose program is too large. Evermesh does not link RE2. [`re2_error`] reads the part of RE2's syntax that [`parse`]
//! lists, and refuses everything else, so an expression that it accepts is accepted by every supported Envoy:
//!
//! ```text
//! text ──► parse::parse ──► tree of sizes ──► size::of_program ≤ 1000
//! ```
//!
//! The other direction does not hold: the size is an upper limit, and rare syntax is left out. The test `expressions` of
//! the crate `evermesh` compares both with real Envoys.

mod class;
mod parse;
mod size;

/// The limit of App Mesh and of Evermesh's bootstrap for the size of an expression (`re2.max_program_size.error_level`).
const MAX_SIZE: u64 = 1000;

/// Returns why Envoy may refuse the expression. The text completes a sentence about it.
pub fn re2_error(expression: &str) -> Option<String> {
    if expression.is_empty() {
        return Some("the expression is empty; use `.*` for any text".to_owned());
    }
    let node = match parse::parse(expression) {
        Ok(node) => node,
        Err(error) => return Some(error),
    };
    // Envoy 1.40 reads bytes instead of characters, so a range in brackets may begin or end inside of one.
    let bytes: String = expression.bytes().map(char::from).collect();
    if let Err(error) = parse::parse(&bytes) {
        return Some(format!(
            "Envoy 1.40 reads bytes instead of characters, and then {error}"
        ));
    }
    let size = size::of_program(&node);
    (size > MAX_SIZE).then(|| {
        format!("its program may have a size of {size}, and Envoy's limit is {MAX_SIZE}; use smaller repetitions")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_that_an_envoy_rejects_are_invalid() {
        for expression in [
            "(",
            "a)",
            "[a",
            "[z-a]",
            "*",
            "a|*",
            "a{3,1}",
            "\\",
            "(?=a)",
            "(?!a)",
            "(a)\\1",
            "\\8",
            "\\y",
            "(?x)a",
            "(?i-u:a)",
            "(?y)a",
            "(?-)a",
            "(?i-)a",
            "(?i",
            "a**",
            "a+*",
            "a{2}{3}",
            "\\u0041",
            "[\\u0041]",
            "[a-\\u0062]",
            "\\x{}",
            "\\xzz",
            "[\\b]",
            "[\\A]",
            "\\pq",
            "[\\pq]",
            "\\p{L",
            "\\p{gc=L}",
            "(?P<>a)",
            "(?P<n>a)(?P<n>b)",
            "\\E",
            "[.-\\w]",
            "[[:alphanum:]]",
            "({2})",
            "a|{2,}",
            "{2,3}",
            "a{1001}",
            "(a{100}){11}",
            "(?:a?){1001}",
            "(?:a?){1001,}",
            "(?:a?){1,1001}",
            "(?:(?:a?){101}|b){10}",
            "(?:(?:a?){101}b){10}",
            "",
            "a{1000000000}",
            "\\x{100}",
            "\\x{110000}",
            "\\400",
            "\\xg0",
            "\\\u{e9}",
            "(?--i)a",
            "(?i)*",
            "(?P<a b>a)",
            "[[:^^alpha:]]",
            "[a-\\d]",
            "[\\b]",
            "[\u{e0}-\u{fc}--z]",
            "a*?+",
        ] {
            assert!(re2_error(expression).is_some(), "{expression}");
        }
    }

    #[test]
    fn expressions_that_all_envoys_accept_are_valid() {
        for expression in [
            "/users/[0-9]+",
            "/users/{id}",
            "{id}",
            "a{",
            "a{,3}",
            "a{}",
            "a{0}",
            "a{900}?",
            "(?:a{100}){9}",
            "(?:a*)*",
            "(?:a{2}){3}",
            "[^[]+",
            "[[]",
            "[a&&b]",
            "[a[b]c]",
            "[a[:b]]",
            "[a[b:]]",
            "[\\w-.]",
            "[[:alnum:]]",
            "({,3})",
            "({2,x})",
            "({x,2})",
            "(?:a?){498}",
            "(?:(?:a?){40}|b){10}",
            "(?:(?:a?){40}b){10}",
            "{2",
            "a{01}",
            "a{00}",
            "a{2}{,3}",
            "|",
            "()",
            "^*",
            "\\b+",
            "(?<name>x)",
            "(?-i)a",
            "[\\w--]",
            "[--a]",
            "[]a]",
            "[^]a]",
            "[[:alpha:]-z]",
            "(?i)[\\Wk]",
            "\\377\\xff",
            "\\p{Greek}",
            "\\Qa.b\\E",
            "\\C",
            "\\0",
            "\\07",
            "\\12",
            "\\x41\\x{41}",
            "\\_\\-\\/",
            "(?i)abc",
            "(?ii)abc",
            "(?i-s:abc)",
            "(?U)a+",
            "(?P<name>x)",
            "\\pN\\p{Greek}\\p{^Nl}\\d\\w\\s\\b",
            "[\\pN]",
            "/v[0-9]\\.[0-9]/.*",
            "\u{e9}+",
        ] {
            assert_eq!(re2_error(expression), None, "{expression}");
        }
    }

    #[test]
    fn expressions_with_too_large_a_program_are_invalid() {
        for (largest, too_large) in [
            (
                "^(.*;\\s*)?session=[0-9a-f]{64}(;.*)?$",
                "(?:session=[0-9a-f]{64}){14}",
            ),
            ("a{996}", "a{997}"),
            (".{124}", ".{125}"),
            ("[^/]{124}", "[^/]{125}"),
            ("\\d{996}", "\\d{997}"),
            ("\\pN{2}", "\\pN{3}"),
            ("[0-9A-Za-z_-]{1,199}", "[0-9A-Za-z_-]{1,200}"),
            ("[0-9A-Z]{498}", "[0-9A-Z]{499}"),
            ("(a{900})?b{80}", "(a{900})?b{100}"),
            ("(abc|abd){124}", "(abc|abd){125}"),
            ("(?:a+)+b{990}", "(?:a+)+b{993}"),
            ("\u{e9}{498}", "\u{e9}{499}"),
            ("(?i)k{249}", "(?i)k{250}"),
        ] {
            assert_eq!(re2_error(largest), None, "{largest}");
            let error = re2_error(too_large).unwrap();
            assert!(error.contains("its program may have a size of"), "{error}");
        }
    }
}
