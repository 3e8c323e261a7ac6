use proptest::{
    collection::{btree_map, vec},
    prelude::*,
};

use super::*;

#[test]
fn files_are_split_at_lines_with_three_dashes() {
    let texts = |text| -> Vec<_> {
        let chunks = split(text).unwrap().into_iter();
        chunks
            .map(|it| (it.marker, it.text, it.lines_before))
            .collect()
    };
    assert_eq!(texts("a: 1"), [(None, "a: 1", 0)]);
    assert_eq!(
        texts("# c\n---\na: 1\n--- # next\nb: |\n  ---\n---c\n"),
        [
            (Some("\n"), "a: 1\n", 2),
            (Some(" # next\n"), "b: |\n  ---\n", 4),
            (Some("c\n"), "", 7)
        ]
    );
    assert_eq!(
        texts("a: 1\n...\n---\nb: 2"),
        [(None, "a: 1\n...\n", 0), (Some("\n"), "b: 2", 3)]
    );
    assert_eq!(texts("\u{feff}\n# nothing\n"), []);
    assert_eq!(texts("---\n---\na: 1\r\n---\r\n").len(), 3);
}

#[test]
fn unchanged_documents_and_items_are_reused() {
    let parse = |text: &str, previous: &Manifest| {
        Manifest::parse(Format::Yaml, text.as_bytes(), previous).unwrap()
    };
    let first = parse("a: 1\n---\nb: 2\n", &Manifest::default());
    let second = parse("b: 3\n---\nb: 2\n", &first);
    assert!(Arc::ptr_eq(&first.documents[1].1, &second.documents[1].1));
    let third = parse("---\n{\"b\": 2}\n", &second);
    assert!(Arc::ptr_eq(
        &second.documents[1].1.items[0].1,
        &third.documents[0].1.items[0].1
    ));
}

#[test]
fn error_has_the_line_number_of_the_file() {
    let text = "a: 1\n---\nb: 2\n---\nc: [\n";
    let manifest = Manifest::parse(Format::Yaml, text.as_bytes(), &Manifest::default()).unwrap();
    let error = manifest.documents[2].1.error.as_ref().unwrap();
    assert_eq!(error.reason, Reason::InvalidYaml);
    assert!(error.message.contains("line 5"), "{}", error.message);
}

/// Puts every special character at every place of a Secret, in YAML and in JSON.
#[test]
fn message_about_a_broken_secret_contains_no_part_of_its_key() {
    const KEY: &str = "MIGHAgEAMBMGByqGSM49AgEG";
    let yaml = format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: a}}\nstringData:\n  tls.key: |\n    {KEY}\n    {KEY}\n"
    );
    let json = format!(
        r#"{{"apiVersion":"v1","kind":"Secret","metadata":{{"name":"a"}},"data":{{"tls.key":"{KEY}"}}}}"#
    );
    let mut messages = 0;
    for (format, text) in [(Format::Yaml, yaml), (Format::Json, json)] {
        let places = 0..=text.len();
        for (at, character) in
            places.flat_map(|at| "\"'\t\n*&{}[]%!|>-:,#@`\\".chars().map(move |it| (at, it)))
        {
            let broken = format!("{}{character}{}", &text[..at], &text[at..]);
            let manifest =
                Manifest::parse(format, broken.as_bytes(), &Manifest::default()).unwrap();
            for (_, document) in &manifest.documents {
                let errors = document.error.iter().map(|it| it.message.clone());
                let items = document.items.iter();
                let problems = items.flat_map(|(_, item)| &item.problems);
                for text in errors.chain(problems.map(ToString::to_string)) {
                    messages += 1;
                    assert!(
                        !text.contains(&KEY[..12]) && !text.contains(&KEY[12..]),
                        "{text}"
                    );
                }
            }
        }
    }
    assert!(messages > 1000, "{messages}");
}

#[test]
fn file_with_too_many_documents_is_rejected_whether_they_are_empty_or_not() {
    for (format, document) in [
        (Format::Yaml, "---\n"),
        (Format::Yaml, "---\na: 1\n"),
        (Format::Json, "{}\n"),
    ] {
        let parse = |count: usize| {
            let text = document.repeat(count);
            Manifest::parse(format, text.as_bytes(), &Manifest::default())
        };
        let manifest = parse(MAX_DOCUMENTS).unwrap();
        assert_eq!(manifest.documents.len(), MAX_DOCUMENTS, "{document}");
        let error = parse(MAX_DOCUMENTS + 1).unwrap_err();
        assert_eq!(error.reason, Reason::TooLarge, "{document}");
    }
}

#[test]
fn several_json_values_are_several_documents() {
    let parse =
        |text: &str| Manifest::parse(Format::Json, text.as_bytes(), &Manifest::default()).unwrap();
    assert_eq!(parse("{} {}\n").documents.len(), 2);
    let broken = parse("{} {");
    assert!(broken.documents[1].1.is_opaque());
    assert!(
        !parse(" ")
            .documents
            .iter()
            .any(|(_, document)| document.is_opaque())
    );
}

/// The objects of a YAML file; an error if `kubectl` or this reader refuses one of its documents.
fn read(text: &str) -> Result<(Vec<Value>, Vec<TextFault>), String> {
    let (mut values, mut faults) = (Vec::new(), Vec::new());
    for chunk in split(text).map_err(|error| error.message)? {
        let read = chunk.read().map_err(|error| error.to_string())?;
        if let Some(fault) = read.faults.iter().find(|fault| !fault.has_value()) {
            return Err(fault.problem(false).message);
        }
        faults.extend(read.faults);
        values.extend(Some(read.value).filter(|value| !value.is_null()));
    }
    Ok((values, faults))
}

/// A text and what `kubectl` makes of it; see `testdata/kubectl.go`.
#[derive(Debug, Deserialize)]
struct KubectlCase {
    text: String,
    /// The objects, unless `kubectl` refuses the text.
    objects: Option<Vec<Value>>,
    /// Whether this reader refuses a text that `kubectl` takes.
    #[serde(default)]
    refused: bool,
}

fn kubectl_cases() -> Vec<KubectlCase> {
    serde_json::from_str(include_str!("../testdata/kubectl.json")).unwrap()
}

#[test]
fn texts_mean_what_kubectl_makes_of_them() {
    let cases = kubectl_cases();
    assert!(cases.len() > 200);
    for KubectlCase {
        text,
        objects,
        refused,
    } in cases
    {
        let found = read(&text);
        match objects.filter(|_| !refused) {
            Some(objects) => assert_eq!(found.unwrap().0, objects, "{text:?}"),
            None => assert!(found.is_err(), "{text:?} is read as {found:?}"),
        }
    }
}

#[test]
fn every_difference_between_readers_is_reported() {
    let problems = |text: &str| -> Vec<_> {
        let faults = read(text).unwrap().1.into_iter();
        faults
            .map(|fault| fault.problem(false).to_string())
            .collect()
    };
    for (text, expected) in [
        ("spec: {port: 8080, name: \"017\", other: 0x1F}", &[][..]),
        (
            "spec:\n  port: 017620",
            &[
                "spec.port: line 2: kubectl reads `017620` as the number 8080, YAML 1.2 as the number 17620; write 8080 for that, or \"017620\" in quotes for text (AmbiguousText)",
            ],
        ),
        (
            "a: [on, 1_000]",
            &[
                "a[0]: line 1: kubectl reads `on` as `true`, YAML 1.2 as text; write true for that, or \"on\" in quotes for text (AmbiguousText)",
                "a[1]: line 1: kubectl reads `1_000` as the number 1000, YAML 1.2 as text; write 1000 for that, or \"1_000\" in quotes for text (AmbiguousText)",
            ],
        ),
        (
            "a: {yes: 1}",
            &[
                "a.true: line 1: kubectl reads the key `yes` as `true`; write \"yes\" or \"true\" in quotes (AmbiguousText)",
            ],
        ),
        (
            "a:\n  b: 1\n  c: 2\n  b: 3",
            &[
                "a.b: line 4: the key is given twice, and kubectl would use only the last value; remove one of the two (DuplicateKey)",
            ],
        ),
        (
            "x: &x {b: 1}\nz:\n  b: 2\n  <<: *x",
            &[
                "z.b: line 4: the key is given before `<<` and in the mapping that `<<` names: kubectl uses the value of the latter, other readers the former; write `<<` first, or remove one of the two (AmbiguousText)",
            ],
        ),
        (
            "{\"a\": [{}, {\"b\": 1, \"b\": 2}]}",
            &[
                "a[1].b: the key is given twice, and kubectl would use only the last value; remove one of the two (DuplicateKey)",
            ],
        ),
    ] {
        assert_eq!(problems(text), expected, "{text}");
    }
}

const SERVICE: &str = "apiVersion: appmesh.k8s.aws/v1beta2\nkind: VirtualRouter\nmetadata: {name: r, namespace: shop}\nspec:\n  listeners: [{portMapping: {port: 017620, protocol: http}}]\n";

fn items(text: &str) -> Vec<Arc<Item>> {
    let manifest = Manifest::parse(Format::Yaml, text.as_bytes(), &Manifest::default()).unwrap();
    let documents = manifest.documents.iter();
    documents
        .flat_map(|(_, document)| document.items.iter().map(|(_, item)| Arc::clone(item)))
        .collect()
}

#[test]
fn octal_port_is_served_as_kubectl_reads_it() {
    let [item] = &items(SERVICE)[..] else {
        panic!("one item");
    };
    let Some((_, Object::VirtualRouter(router))) = &item.object else {
        panic!("a router");
    };
    let listeners = router.spec.listeners.as_ref().unwrap();
    assert_eq!(listeners[0].port_mapping.port, 8080);
    let problems: Vec<_> = item.problems.iter().map(ToString::to_string).collect();
    let [problem] = &problems[..] else {
        panic!("{problems:?}");
    };
    let place = "VirtualRouter/shop/r: spec.listeners[0].portMapping.port: line 5: kubectl reads";
    assert!(problem.starts_with(place), "{problem}");
}

#[test]
fn object_with_a_key_given_twice_is_not_used() {
    let text = format!("{SERVICE}  listeners: []\n");
    let [item] = &items(&text)[..] else {
        panic!("one item");
    };
    assert!(item.object.is_none());
    assert_eq!(
        item.id.as_ref().unwrap().to_string(),
        "VirtualRouter/shop/r"
    );
    let reasons: Vec<_> = item.problems.iter().map(|it| it.reason).collect();
    assert!(reasons.contains(&Reason::DuplicateKey), "{reasons:?}");
}

#[test]
fn fault_in_a_list_is_one_of_its_item() {
    let list = |second: &str| {
        format!(
            "apiVersion: v1\nkind: List\nitems:\n- {{apiVersion: v1, kind: Namespace, metadata: {{name: a}}}}\n- {second}\n"
        )
    };
    let items = items(&list(
        "{apiVersion: v1, kind: Namespace, metadata: {name: b, name: c}}",
    ));
    assert!(items[0].object.is_some() && items[0].problems.is_empty());
    assert!(items[1].object.is_none());
    let [problem] = &items[1].problems[..] else {
        panic!("{:?}", items[1].problems);
    };
    assert_eq!(
        (problem.reason, problem.field.as_str()),
        (Reason::DuplicateKey, "metadata.name")
    );

    let refused = list("{apiVersion: v1, kind: Namespace, metadata: {name: b}, x: .inf}");
    let manifest = Manifest::parse(Format::Yaml, refused.as_bytes(), &Manifest::default()).unwrap();
    let document = &manifest.documents[0].1;
    assert!(document.items.is_empty());
    let error = document.error.as_ref().unwrap();
    assert_eq!(error.reason, Reason::InvalidYaml);
    assert!(
        error.message.starts_with("items[1].x: line 5: "),
        "{}",
        error.message
    );
}

#[test]
fn text_of_kinds_that_others_read_is_their_matter() {
    let deployment = |field: &str| {
        items(&format!(
            "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: a}}\nspec: {{{field}}}\n"
        ))
    };
    let reasons = |field: &str| -> Vec<_> {
        let problems = deployment(field)[0].problems.clone().into_iter();
        problems.map(|problem| problem.reason).collect()
    };
    assert_eq!(reasons("mode: 0644"), [Reason::UnknownKind]);
    assert_eq!(
        reasons("mode: 1, mode: 2"),
        [Reason::UnknownKind, Reason::DuplicateKey]
    );
}

#[test]
fn line_number_of_a_fault_follows_its_document() {
    let first = Manifest::parse(Format::Yaml, SERVICE.as_bytes(), &Manifest::default()).unwrap();
    let moved = format!("# one\n---\n{SERVICE}");
    let second = Manifest::parse(Format::Yaml, moved.as_bytes(), &first).unwrap();
    let message = &second.documents[0].1.items[0].1.problems[0].message;
    assert!(message.starts_with("line 7: "), "{message}");
}

#[test]
fn address_of_another_family_is_refused_as_by_an_api_server() {
    let slice = |family: &str, addresses: &str| {
        let text = format!(
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: x, namespace: a}}\naddressType: {family}\nendpoints: [{{addresses: [10.0.0.1]}}, {{addresses: {addresses}}}]\nports: []\n"
        );
        let item = items(&text).remove(0);
        let problems = item.problems.iter().map(ToString::to_string);
        (item.object.is_some(), problems.collect::<Vec<_>>())
    };
    assert_eq!(slice("IPv4", "[10.0.0.2]"), (true, vec![]));
    assert_eq!(slice("FQDN", "[color.example.com]"), (true, vec![]));
    for address in ["10.0.0", "10.0.0.256", "\"fd00::1\"", "color"] {
        let (is_used, problems) = slice("IPv4", &format!("[10.0.0.2, {address}]"));
        let address = address.trim_matches('"');
        assert!(!is_used);
        assert_eq!(
            problems,
            [format!(
                "EndpointSlice/a/x: endpoints[1].addresses[1]: `{address}` is not an IPv4 address, so nothing can reach the endpoint; write one, or correct addressType (InvalidValue)"
            )]
        );
    }
    assert_eq!(slice("IPv6", "[\"fd00::1\"]").1.len(), 1);
}

#[test]
fn text_of_a_secret_is_not_repeated() {
    let secret = "apiVersion: v1\nkind: Secret\nmetadata: {name: a}\nstringData: {pin: 0123456}\n";
    let items = items(secret);
    let messages: Vec<_> = items[0].problems.iter().map(ToString::to_string).collect();
    assert!(
        messages.iter().any(|it| it.contains("(AmbiguousText)")),
        "{messages:?}"
    );
    assert!(
        !messages.iter().any(|it| it.contains("123456")),
        "{messages:?}"
    );
}

#[test]
fn anchors_inside_of_anchors_are_limited() {
    let nested = |levels: usize| {
        let open: Vec<_> = (0..levels).map(|level| format!("&a{level} [")).collect();
        let open = open.concat();
        let long = "x".repeat(1_000_000);
        format!("a: {open}{long}{}\n", "]".repeat(levels))
    };
    assert!(read(&nested(30)).is_ok());
    let manifest = |text: String| {
        let manifest = Manifest::parse(Format::Yaml, text.as_bytes(), &Manifest::default());
        manifest.unwrap().documents[0].1.error.clone().unwrap()
    };
    assert_eq!(manifest(nested(40)).reason, Reason::TooLarge);
}

/// A text of a collection or scalar in one of several notations, with the value that it has.
fn written() -> impl Strategy<Value = (String, Value)> {
    let scalars: Vec<(String, Value)> = kubectl_cases()
        .into_iter()
        .filter(|case| !case.refused)
        .filter_map(|case| {
            let text = case
                .text
                .strip_prefix("a: ")?
                .strip_suffix('\n')?
                .to_owned();
            let is_plain = text
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"+-._~".contains(&byte));
            let value = case.objects?.pop()?["a"].take();
            (is_plain && !text.is_empty()).then_some((text, value))
        })
        .collect();
    assert!(scalars.len() > 60);
    let plain = proptest::sample::select(scalars);
    let quoted = "[a-z0-9_ :#,-]{0,8}".prop_map(|text| (format!("\"{text}\""), Value::from(text)));
    let leaf = prop_oneof![3 => plain, 1 => quoted];
    leaf.prop_recursive(4, 24, 4, |inner| {
        let list = vec(inner.clone(), 0..4).prop_map(|items| {
            let (texts, values): (Vec<_>, Vec<_>) = items.into_iter().unzip();
            (format!("[{}]", texts.join(", ")), Value::from(values))
        });
        let names = btree_map("[a-d]{2}", inner, 0..4);
        let mapping = names.prop_map(|fields| {
            let texts: Vec<_> = fields
                .iter()
                .map(|(name, (text, _))| format!("{name}: {text}"))
                .collect();
            let fields = fields.into_iter().map(|(name, (_, value))| (name, value));
            (
                format!("{{{}}}", texts.join(", ")),
                Value::Object(fields.collect()),
            )
        });
        prop_oneof![list, mapping]
    })
}

proptest! {
    /// The values of scalars are those that `kubectl` read; the rest of the text joins them.
    #[test]
    fn scalars_have_kubectls_values_in_every_notation(
        fields in btree_map("[e-h]{2}", written(), 1..6),
        is_flow in any::<bool>(),
        comments in any::<bool>(),
        line_end in proptest::sample::select(vec!["\n", "\r\n"]),
    ) {
        let comment = if comments { " # x: 1" } else { "" };
        let lines = fields.iter().map(|(name, (text, _))| {
            if is_flow {
                format!("{name}: {text},{comment}")
            } else {
                format!("{name}:{comment}{line_end}  {text}")
            }
        });
        let lines: Vec<String> = lines.collect();
        let body = lines.join(line_end);
        let text = if is_flow {
            format!("---{line_end}{{{line_end}{body}{line_end}}}{line_end}")
        } else {
            format!("{body}{line_end}")
        };
        let values = fields.into_iter().map(|(name, (_, value))| (name, value));
        let expected = Value::Object(values.collect());
        prop_assert_eq!(read(&text).map(|(values, _)| values), Ok(vec![expected]), "{}", text);
    }
}
