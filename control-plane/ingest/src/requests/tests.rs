use evermesh_model::route::{QueryMatch, Scheme};
use proptest::prelude::*;

use super::{claims::count_takers, *};

fn prefix(path: &str) -> HttpMatch {
    HttpMatch {
        path: PathMatch::Prefix(path.into()),
        method: None,
        scheme: None,
        headers: Vec::new(),
        query: Vec::new(),
    }
}

fn exact(path: &str) -> HttpMatch {
    HttpMatch {
        path: PathMatch::Exact(path.into()),
        ..prefix("/")
    }
}

fn regex(path: &str) -> HttpMatch {
    HttpMatch {
        path: PathMatch::Regex(path.into()),
        ..prefix("/")
    }
}

/// A match of the header `x` by these conditions, each with whether it is inverted.
fn header(conditions: &[(ValueMatch, bool)]) -> HttpMatch {
    let headers = conditions.iter().map(|(value, invert)| RequestHeaderMatch {
        name: "x".into(),
        value: value.clone(),
        invert: *invert,
    });
    HttpMatch {
        headers: headers.collect(),
        ..prefix("/")
    }
}

fn is(value: ValueMatch) -> HttpMatch {
    header(&[(value, false)])
}

fn is_not(value: ValueMatch) -> HttpMatch {
    header(&[(value, true)])
}

fn query(exact: Option<&str>) -> HttpMatch {
    HttpMatch {
        query: vec![QueryMatch {
            name: "q".into(),
            exact: exact.map(Into::into),
        }],
        ..prefix("/")
    }
}

fn value(text: &str) -> ValueMatch {
    ValueMatch::Exact(text.into())
}

fn begin(text: &str) -> ValueMatch {
    ValueMatch::Prefix(text.into())
}

fn end(text: &str) -> ValueMatch {
    ValueMatch::Suffix(text.into())
}

fn expression(text: &str) -> ValueMatch {
    ValueMatch::Regex(text.into())
}

const fn range(start: i64, end: i64) -> ValueMatch {
    ValueMatch::Range { start, end }
}

fn method(method: Method) -> HttpMatch {
    HttpMatch {
        method: Some(method),
        ..prefix("/")
    }
}

fn named(name: &str, value: ValueMatch, invert: bool) -> HttpMatch {
    let name = name.into();
    HttpMatch {
        headers: vec![RequestHeaderMatch {
            name,
            value,
            invert,
        }],
        ..prefix("/")
    }
}

fn both(one: HttpMatch, other: HttpMatch) -> HttpMatch {
    HttpMatch {
        headers: one.headers.into_iter().chain(other.headers).collect(),
        ..one
    }
}

#[test]
fn wide_match_subsumes_the_narrow_one_that_precedes_it() {
    use ValueMatch::Present;
    let pairs = [
        (prefix("/"), exact("/a")),
        (prefix("/a"), prefix("/ab")),
        (prefix("/a"), regex("/a/[0-9]+")),
        (prefix("/a"), regex("^(/a)/[xy]$")),
        (regex("/.*"), prefix("/a")),
        (regex("/a.*"), regex("/a/.+")),
        (regex("/a/.+"), prefix("/a/b")),
        (regex("/a/.+"), exact("/a/b")),
        (regex("(/a|/b)/[^/]{2,}"), exact("/b/xyz")),
        (prefix("/"), method(Method::Get)),
        (prefix("/"), is(Present)),
        (is(Present), is(begin("a"))),
        (is(begin("a")), is(begin("ab"))),
        (is(begin("a")), is(value("ab"))),
        (is(begin("a")), is(expression("ab*"))),
        (is(end("b")), is(end("ab"))),
        (is(end("b")), is(expression("[a-z]+b"))),
        (is(expression("v[0-9]+")), is(value("v12"))),
        (is(range(0, 10)), is(range(2, 5))),
        (is(range(0, 10)), is(value(" +07 "))),
        (is(Present), is_not(value("a"))),
        (is_not(value("a")), is_not(begin("a"))),
        (is_not(value("a")), is(value("b"))),
        (is_not(begin("ab")), is_not(begin("a"))),
        (is_not(range(0, 5)), is(range(5, 10))),
        (is_not(range(2, 5)), is_not(range(0, 10))),
        (is_not(begin("a")), is(range(0, 10))),
        (is_not(expression("a[0-9]")), is_not(begin("a"))),
        (
            is(begin("a")),
            header(&[(begin("a"), false), (value("ab"), true)]),
        ),
        (
            is(begin("a")),
            header(&[(begin("a"), false), (end("b"), false)]),
        ),
        (
            is(range(0, 5)),
            header(&[(range(0, 5), false), (range(3, 9), true)]),
        ),
        (query(None), query(Some("1"))),
        (prefix("/"), query(None)),
        (
            named("X", Present, false),
            both(named("x", Present, false), named("y", Present, false)),
        ),
    ];
    for (wide, narrow) in pairs {
        assert!(subsumes(&wide, &narrow), "{wide:?} {narrow:?}");
        assert!(!subsumes(&narrow, &wide), "{wide:?} {narrow:?}");
        let (wide, narrow) = (RequestSet::of(&wide), RequestSet::of(&narrow));
        let is_ordered = narrow.specificity() < wide.specificity();
        assert!(is_ordered, "{wide:?} {narrow:?}");
    }
}

#[test]
fn matches_of_the_same_requests_subsume_each_other() {
    let pairs = [
        (prefix("/a"), regex("^/a(.*)$")),
        (exact("/a.b"), regex("/a\\.b")),
        (method(Method::Get), named(":method", value("GET"), false)),
        (
            HttpMatch {
                scheme: Some(Scheme::Http),
                ..prefix("/")
            },
            named(":scheme", value("http"), false),
        ),
        (prefix("/"), named(":path", ValueMatch::Present, false)),
        (
            is(begin("ab")),
            header(&[(begin("a"), false), (begin("ab"), false)]),
        ),
        (
            is(begin("ab")),
            header(&[(begin("ab"), false), (begin("c"), true)]),
        ),
        (
            is(range(5, 10)),
            header(&[(range(0, 10), false), (range(-3, 5), true)]),
        ),
        (
            is_not(range(0, 10)),
            header(&[(range(0, 5), true), (range(5, 10), true)]),
        ),
        (
            is(value("a")),
            header(&[(ValueMatch::Present, false), (value("a"), false)]),
        ),
        (is(ValueMatch::Present), is_not(range(5, 5))),
    ];
    for (one, other) in pairs {
        assert!(subsumes(&one, &other), "{one:?} {other:?}");
        assert!(subsumes(&other, &one), "{one:?} {other:?}");
    }
}

#[test]
fn match_subsumes_none_with_other_requests() {
    use ValueMatch::Present;
    let pairs = [
        (prefix("/ab"), prefix("/a")),
        (exact("/a"), prefix("/a")),
        (regex("/a/.+"), exact("/a/")),
        (regex("(?i)/a"), exact("/b")),
        (prefix("/a"), regex("/b|/a")),
        (is_not(Present), is_not(value("a"))),
        (is_not(value("a")), is_not(Present)),
        (is_not(value("a")), is(begin("a"))),
        (is_not(value("a")), prefix("/")),
        (is(end("b")), is(expression("(?i)ab"))),
        (is(range(0, 10)), is(value("1x"))),
        (is(value("A")), is(value("a"))),
        (query(Some("1")), query(None)),
        (named("y", Present, false), named("x", Present, false)),
        (query(None), named("q", Present, false)),
    ];
    for (wide, narrow) in pairs {
        assert!(!subsumes(&wide, &narrow), "{wide:?} {narrow:?}");
    }
}

#[test]
fn conditions_that_contradict_each_other_make_a_set_empty() {
    use ValueMatch::Present;
    for empty in [
        header(&[(Present, false), (Present, true)]),
        header(&[(value("a"), false), (value("b"), false)]),
        header(&[(value("a"), false), (begin("b"), false)]),
        header(&[(begin("a"), false), (begin("b"), false)]),
        header(&[(end("a"), false), (end("b"), false)]),
        header(&[(begin("ab"), false), (begin("a"), true)]),
        header(&[(range(0, 5), false), (range(5, 9), false)]),
        header(&[
            (range(0, 5), false),
            (range(-1, 3), true),
            (range(3, 7), true),
        ]),
        header(&[(range(0, 5), false), (begin("x"), false)]),
        header(&[(expression("a+b"), false), (expression("a+b"), true)]),
        header(&[(expression("a+b"), false), (value("b"), false)]),
        named(":path", Present, true),
        both(method(Method::Get), named(":method", value("PUT"), false)),
    ] {
        let set = RequestSet::of(&empty);
        assert!(set.is_empty() && set.is_contradictory, "{empty:?}");
    }
    let range = RequestSet::of(&is(range(5, 5)));
    assert!(range.is_empty() && !range.is_contradictory);
}

/// A request, as far as matches look at it: the path, the header `x` and the query parameter `q`.
#[derive(Debug, Clone)]
struct Request {
    path: String,
    header: Option<String>,
}

fn accepts(matches: &HttpMatch, request: &Request) -> bool {
    let path = match &matches.path {
        PathMatch::Exact(path) => request.path == **path,
        PathMatch::Prefix(prefix) => request.path.starts_with(&**prefix),
        PathMatch::Regex(_) => unreachable!("not generated"),
    };
    let meets = |header: &RequestHeaderMatch| match (&header.value, &request.header) {
        (ValueMatch::Present, value) => value.is_some() != header.invert,
        (_, None) => false,
        (condition, Some(value)) => {
            let fits = match condition {
                ValueMatch::Exact(text) => *value == **text,
                ValueMatch::Prefix(text) => value.starts_with(&**text),
                ValueMatch::Suffix(text) => value.ends_with(&**text),
                ValueMatch::Range { start, end } => {
                    let number = value.parse::<i64>();
                    number.is_ok_and(|number| (*start..*end).contains(&number))
                }
                ValueMatch::Present | ValueMatch::Regex(_) => unreachable!("not generated"),
            };
            fits != header.invert
        }
    };
    path && matches.headers.iter().all(meets)
}

/// Every request whose path and header have at most three letters, or a number as the header. Matches have at most two
/// of the letters, so a letter is always left that they do not mention.
fn requests() -> Vec<Request> {
    let mut texts = vec![String::new()];
    let mut last = texts.clone();
    for _ in 0..4 {
        last = last
            .iter()
            .flat_map(|text| ["a", "b", "c"].map(|letter| format!("{text}{letter}")))
            .collect();
        texts.extend(last.iter().cloned());
    }
    let numbers = (-1..8).flat_map(|number| [format!("{number}"), format!("0{number}")]);
    let headers = texts.iter().cloned().chain(numbers).map(Some).chain([None]);
    let with_header = headers.map(|header| Request {
        path: "/aab".into(),
        header,
    });
    let with_path = texts.iter().map(|text| Request {
        path: format!("/{text}"),
        header: Some("ab".into()),
    });
    with_header.chain(with_path).collect()
}

fn condition() -> impl Strategy<Value = (ValueMatch, bool)> {
    let text = "[ab]{1,2}".prop_map(Arc::<str>::from);
    let value = prop_oneof![
        Just(ValueMatch::Present),
        text.clone().prop_map(ValueMatch::Exact),
        text.clone().prop_map(ValueMatch::Prefix),
        text.prop_map(ValueMatch::Suffix),
        (0..6_i64, 0..6_i64).prop_map(|(start, end)| ValueMatch::Range { start, end }),
    ];
    (value, any::<bool>())
}

fn any_match() -> impl Strategy<Value = HttpMatch> {
    let path = prop_oneof![
        2 => Just(PathMatch::Prefix("/".into())),
        1 => "/[ab]{0,2}".prop_map(|path| PathMatch::Prefix(path.into())),
        1 => "/[ab]{0,2}".prop_map(|path| PathMatch::Exact(path.into())),
    ];
    let conditions = proptest::collection::vec(condition(), 0..4);
    (path, conditions).prop_map(|(path, conditions)| HttpMatch {
        path,
        ..header(&conditions)
    })
}

/// Matches of a prefix or suffix together with a range, which are compared in part only.
fn mixes_range_and_text(matches: &HttpMatch) -> bool {
    let has = |fits: fn(&ValueMatch) -> bool| matches.headers.iter().any(|it| fits(&it.value));
    has(|value| matches!(value, ValueMatch::Range { .. }))
        && has(|value| matches!(value, ValueMatch::Prefix(_) | ValueMatch::Suffix(_)))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn match_subsumes_exactly_what_it_accepts((wide, narrow) in (any_match(), any_match())) {
        let requests = requests();
        let counterexample = requests
            .iter()
            .find(|request| accepts(&narrow, request) && !accepts(&wide, request));
        if subsumes(&wide, &narrow) {
            prop_assert!(counterexample.is_none(), "{counterexample:?}");
        } else if !mixes_range_and_text(&wide) && !mixes_range_and_text(&narrow) {
            // The header of requests with other paths fits no match with another header.
            let product = |one: &HttpMatch, other: &HttpMatch| {
                let one_path = HttpMatch { headers: Vec::new(), ..one.clone() };
                let other_path = HttpMatch { headers: Vec::new(), ..other.clone() };
                let one_header = HttpMatch { path: PathMatch::Prefix("/".into()), ..one.clone() };
                let other_header = HttpMatch { path: PathMatch::Prefix("/".into()), ..other.clone() };
                [(one_path, other_path), (one_header, other_header)]
            };
            let differs = product(&wide, &narrow).into_iter().any(|(wide, narrow)| {
                requests.iter().any(|request| accepts(&narrow, request) && !accepts(&wide, request))
            });
            prop_assert!(differs);
        }
    }

    #[test]
    fn narrower_match_has_the_smaller_key((wide, narrow) in (any_match(), any_match())) {
        let (wide, narrow) = (RequestSet::of(&wide), RequestSet::of(&narrow));
        if wide.contains(&narrow) && !narrow.contains(&wide) && !narrow.is_empty() {
            prop_assert!(narrow.specificity() < wide.specificity());
        }
    }
}

fn comparisons(matches: impl Iterator<Item = HttpMatch>) -> usize {
    let mut sets: Vec<RequestSet> = matches.map(|matches| RequestSet::of(&matches)).collect();
    sets.sort_by_cached_key(RequestSet::specificity);
    let claims: Vec<Claim<'_>> = sets
        .iter()
        .map(|requests| Claim {
            requests: Some(requests),
            hostname: None,
            port: None,
        })
        .collect();
    let mut comparisons = 0;
    count_takers(&claims, &mut comparisons);
    comparisons
}

#[test]
fn thousand_routes_take_few_comparisons() {
    let path = |number: usize| format!("/team-{}/service-{number}", number % 10);
    for (shape, comparisons) in [
        (
            "prefixes",
            comparisons((0..1000).map(|it| prefix(&path(it)))),
        ),
        (
            "exact paths",
            comparisons((0..1000).map(|it| exact(&path(it)))),
        ),
        (
            "expressions",
            comparisons((0..1000).map(|it| regex(&format!("{}/[0-9]+", path(it))))),
        ),
        (
            "values of one header",
            comparisons((0..1000).map(|it| is(value(&path(it))))),
        ),
        (
            "prefixes with a header",
            comparisons((0..1000).map(|it| HttpMatch {
                path: PathMatch::Prefix(path(it / 2).into()),
                ..is(value(if it % 2 == 0 { "a" } else { "b" }))
            })),
        ),
    ] {
        assert!(comparisons <= 1000, "{shape}: {comparisons}");
    }
}
