use super::*;
use crate::mutate::site::MutatedText;

fn kinds(source: &str) -> Vec<String> {
    let (sites, _) = mutations(source).unwrap();
    sites.into_iter().map(|site| site.kind).collect()
}

/// The kinds in the only function of the source, without those of its body.
fn inside(statements: &str) -> Vec<String> {
    let mut kinds = kinds(&format!("fn f() {{ {statements} }}"));
    kinds.retain(|kind| kind != "body of f skipped");
    kinds
}

#[test]
fn fields_of_struct_literals_become_defaults() {
    assert_eq!(
        inside("let it = A { a: 1, b, c: None, d: Vec::new(), ..Default::default() };"),
        ["field a to default", "field b to default"]
    );
}

#[test]
fn conditions_become_true_and_false() {
    let both = ["condition to true", "condition to false"];
    assert_eq!(inside("if a {} else {}"), both);
    assert_eq!(inside("while !a {}"), both);
    assert_eq!(inside("let it = matches!(a, B if c);"), both);
    assert_eq!(inside("match a { b if c => None, d => None }"), both);
}

#[test]
fn patterns_of_conditions_never_match() {
    assert_eq!(
        inside("if let A = b && c {}"),
        [
            "pattern never matches",
            "condition to true",
            "condition to false"
        ]
    );
}

#[test]
fn operators_are_swapped() {
    assert_eq!(
        inside("let it = a < b && vec![c == d];"),
        ["`&&` to `||`", "`<` to `<=`", "`==` to `!=`"]
    );
    assert_eq!(inside("let it = !a;"), ["`!` removed"]);
}

#[test]
fn predicates_become_true_and_false() {
    assert_eq!(
        inside("let it = a.filter(|b| b.c()).map(|d| d);"),
        [
            "predicate of filter to true",
            "predicate of filter to false"
        ]
    );
}

#[test]
fn statements_without_a_result_are_skipped() {
    assert_eq!(
        inside("a.push(b); c += d; e.f = g; h = i; j?;"),
        ["statement skipped"; 4]
    );
}

#[test]
fn arms_before_a_last_one_for_everything_never_match() {
    assert_eq!(
        inside("match a { B => None, C(d) => d, _ => None };"),
        ["arm never matches", "arm to default"]
    );
    assert_eq!(
        inside("match a { B => None, C(d) => d };"),
        ["arm to default"]
    );
}

#[test]
fn bodies_return_defaults() {
    assert_eq!(
        kinds("fn a() -> bool { b }"),
        ["body of a to true", "body of a to false"]
    );
    assert_eq!(kinds("fn a() -> Option<B> { b }"), ["body of a to None"]);
    assert_eq!(kinds("fn a() -> Option<B> { None }"), Vec::<String>::new());
    assert_eq!(kinds("fn a() -> Result<()> { Ok(()) }"), [""; 0]);
    assert_eq!(
        kinds("fn a() -> Result<B> { b }"),
        ["body of a to Ok(Default::default())"]
    );
    assert_eq!(
        kinds("fn a() -> B { b }"),
        ["body of a to Default::default()"]
    );
    assert_eq!(kinds("fn a() { b }"), ["body of a skipped"]);
}

#[test]
fn constants_patterns_and_tests_are_not_mutated() {
    let source = "const A: bool = b == c; const fn a() -> bool { b == c } \
                  #[test] fn d() { e.f(); } #[cfg(test)] mod g { fn h() { i.j(); } } \
                  #[cfg(test)] mod tests; static K: L = m == n;";
    let (sites, test_modules) = mutations(source).unwrap();
    assert!(sites.is_empty(), "{sites:?}");
    assert_eq!(test_modules, ["tests"]);
}

#[test]
fn mutated_text_is_valid_and_keeps_its_lines() {
    let source = "fn f(a: &A) -> Option<B> {\n    // ü\n    if let Some(b) = a.b && b < 1 {\n        \
                  a.c(b);\n    }\n    match a.d {\n        D => { a.h(); }\n        \
                  _ if a.e => Some(B { b, c: vec![a.f || a.g] }),\n        _ => None,\n    }\n}\n";
    let (sites, _) = mutations(source).unwrap();
    let numbered: Vec<(usize, &MutationSite)> = sites.iter().enumerate().collect();
    let mutated = MutatedText::new(source, &numbered);
    assert!(syn::parse_file(&mutated.text).is_ok(), "{}", mutated.text);
    for number in 0..sites.len() {
        let call = format!("is_active({number})");
        assert_eq!(mutated.text.matches(&call).count(), 1, "{}", mutated.text);
    }
    let lines = |text: &str| {
        text.lines()
            .map(|line| line.contains("match"))
            .collect::<Vec<_>>()
    };
    assert_eq!(lines(&mutated.text), lines(source));
}
