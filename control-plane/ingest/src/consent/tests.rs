use super::*;
use crate::membership::selects;

fn labels(pairs: &[(&str, &str)]) -> Labels {
    let pairs = pairs.iter();
    pairs
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect()
}

#[test]
fn selectors_select_as_with_kubectl() {
    let red = labels(&[("team", "red"), ("example.com/stage", "prod")]);
    for (selector, expected) in [
        ("team=red", true),
        ("team == red", true),
        ("team=blue", false),
        ("team!=blue", true),
        ("team!=red", false),
        ("team in (blue,red)", true),
        ("team in ( blue )", false),
        ("team notin (blue)", true),
        ("team notin (red, blue)", false),
        ("team", true),
        ("!team", false),
        ("!stage", true),
        ("stage!=x", true),
        ("example.com/stage=prod, team in (red, blue)", true),
        ("team in (red, blue),example.com/stage=test", false),
        ("team in (red, blue), !example.com/stage", false),
    ] {
        let parsed = parse_selector(selector);
        let parsed = parsed.unwrap_or_else(|error| panic!("{selector}: {error}"));
        assert_eq!(selects(&parsed, &red), expected, "{selector}");
    }
}

#[test]
fn other_texts_are_no_selectors() {
    for text in [
        "",
        " ",
        ",",
        "team=red,",
        "*",
        "team near (red)",
        "team in (red",
        "team in red",
        "in (red)",
        "team=red=blue",
        "team in (r/d)",
        "!",
        "-team",
        "/team",
        "matchLabels: {team: red}",
        "{\"matchLabels\":{\"team\":\"red\"}}",
    ] {
        assert!(parse_selector(text).is_err(), "{text}");
    }
}

#[test]
fn names_and_values_of_labels_have_at_most_63_characters() {
    for (length, is_valid) in [(63, true), (64, false)] {
        let text = "a".repeat(length);
        for selector in [
            format!("team={text}"),
            text.clone(),
            format!("!example.com/{text}"),
        ] {
            assert_eq!(parse_selector(&selector).is_ok(), is_valid, "{selector}");
        }
    }
}

#[test]
fn grants_name_a_route_a_prefix_and_a_priority() {
    let own: Arc<str> = "shop".into();
    let grant = |prefix: &str, priority| RouteGrant {
        prefix: prefix.to_owned(),
        priority,
    };
    for (line, (namespace, name), expected) in [
        ("cart: /cart", ("shop", "cart"), grant("/cart", None)),
        (
            "  red/x :  /x/ priority 7 ",
            ("red", "x"),
            grant("/x/", Some(7)),
        ),
        ("red/*: /", ("red", "*"), grant("/", None)),
        ("*: /a:b", ("shop", "*"), grant("/a:b", None)),
    ] {
        let key = (namespace.into(), name.into());
        assert_eq!(read_grant(line, &own), Ok((key, expected)), "{line}");
    }
    for line in [
        "cart",
        "cart:",
        "cart: cart",
        "cart: /cart 7",
        "cart: /cart priority",
        "cart: /cart priority -1",
        "cart: /cart priority 7 8",
        ": /cart",
        "a/b/c: /cart",
        "*/cart: /cart",
        "Cart: /cart",
    ] {
        assert!(read_grant(line, &own).is_err(), "{line}");
    }
}
