//! Ingest refuses exactly the access-log formats that the oldest supported Envoy refuses.
//!
//! Each format becomes a listener of one Envoy, which reports the listeners that it refuses.

#![allow(clippy::unwrap_used)] // a panic fails the test

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use evermesh_ingest::{BuildMemo, Inputs, build, object::parse};
use evermesh_model::Severity;
use evermesh_testkit::{
    envoy::{Envoy, EnvoyOptions, EnvoyVersion},
    tools,
};
use serde_json::{Value, json};

/// Formats with mistakes of every kind, beside similar ones without.
const FORMATS: &[&str] = &[
    // Percent signs
    "100%",
    "100%%",
    "%",
    "%%%",
    "%%%%",
    "%%%PROTOCOL%%%",
    "%PROTOCOL%%",
    "%PROTOCOL%%PROTOCOL%",
    "%PROTOCOL% %PROTOCOL% %",
    "plain text\n",
    "é%PROTOCOL%é\u{1}\0",
    // Commands
    "%PROTOCOL",
    "PROTOCOL%",
    "% PROTOCOL%",
    "%PROTOCOL %",
    "%protocol%",
    "%Protocol%",
    "%1%",
    "%_%",
    "%()%",
    "%NOT_A_COMMAND%",
    "%PROTOCOL()%",
    "%PROTOCOL(X%",
    "%PROTOCOL X)%",
    // Lengths
    "%REQ(a):0%",
    "%REQ(a):007%",
    "%REQ(a):%",
    "%REQ(a):-5%",
    "%REQ(a):5x%",
    "%REQ(a) :5%",
    "%REQ(a):18446744073709551615%",
    "%REQ(a):18446744073709551616%",
    "%REQ(a):184467440737095516150%",
    // The end of an argument
    "%REQ(a%",
    "%REQ(a)",
    "%REQ(a)b)%",
    "%REQ(a% %RESP(b)%",
    "%REQ(a)%%RESP(b)%",
    "%REQ(a\nb)%",
    "%REQ(a)\n%",
    "%ENVIRONMENT(a)b)%",
    "%ENVIRONMENT(a\nb)%",
    "%ENVIRONMENT(a\rb)%",
    "%ENVIRONMENT(a\u{85}\u{2028}b)%",
    "%ENVIRONMENT(a):5)%",
    "%ENVIRONMENT(a):5):6%",
    // Headers
    "%REQ(:path)%",
    "%REQ(:PATH?:AUTHORITY):7%",
    "%REQ(a?)%",
    "%REQ(?a)%",
    "%REQ(?)%",
    "%REQ(??)%",
    "%REQ(:)%",
    "%REQ(::path)%",
    "%REQ(a:)%",
    "%REQ(a?b?c)%",
    "%REQ(a b)%",
    "%REQ(a\tb)%",
    "%REQ(ä)%",
    "%REQ(a\0)%",
    "%REQ(!#$%&'*+-.^_`|~09)%",
    // Times
    "%START_TIME(%Y-%m-%dT%H:%M:%E3S%z)%",
    "%START_TIME(%s.%9f)%",
    "%START_TIME(%n)%",
    "%START_TIME(%-_0^#12En)%",
    "%START_TIME(%10n)%",
    "%START_TIME(%On)%",
    "%START_TIME(%EOn)%",
    "%START_TIME(%%n)%",
    "%START_TIME(%q)%",
    "%START_TIME(%)%",
    "%START_TIME(%%)%",
    "%START_TIME(n)%",
    // Other arguments
    "%COMMON_DURATION(a:b)%",
    "%COMMON_DURATION(:)%",
    "%COMMON_DURATION(a:b:ms)%",
    "%COMMON_DURATION(a:b:us)%",
    "%COMMON_DURATION(a:b:ns)%",
    "%COMMON_DURATION(a:b:s)%",
    "%COMMON_DURATION(a:b:)%",
    "%COMMON_DURATION(a:b:ms:)%",
    "%FILTER_STATE(a:PLAIN)%",
    "%FILTER_STATE(a:TYPED):4%",
    "%FILTER_STATE(a:FIELD)%",
    "%FILTER_STATE(a:FIELD:)%",
    "%FILTER_STATE(a:FIELD:b)%",
    "%FILTER_STATE(a:FIELD:b:c)%",
    "%FILTER_STATE(a:PLAIN:)%",
    "%FILTER_STATE(a:PLAIN::b)%",
    "%FILTER_STATE(a:PLAIN:b)%",
    "%FILTER_STATE(a:)%",
    "%FILTER_STATE(a::)%",
    "%FILTER_STATE(a::b)%",
    "%FILTER_STATE(:PLAIN)%",
    "%METADATA(DYNAMIC)%",
    "%METADATA(DYNAMIC:):5%",
    "%METADATA(CLUSTER:a:b)%",
    "%METADATA(LISTENER:a:b:c)%",
    "%METADATA(ROUTE:a)%",
    "%METADATA(UPSTREAM_HOST:a)%",
    "%METADATA(VIRTUAL_HOST:a)%",
    "%METADATA(NODE:a)%",
    "%METADATA(route:a)%",
    "%PATH(WQ)%",
    "%PATH(NQ:ORIG)%",
    "%PATH(WQ:PATH):5%",
    "%PATH(:ORIG_OR_PATH)%",
    "%PATH(WQ:ORIG:x)%",
    "%PATH(WQ:)%",
    "%PATH(WQ:x)%",
    "%PATH(wq)%",
    "%GRPC_STATUS(CAMEL_STRING)%",
    "%GRPC_STATUS(SNAKE_STRING)%",
    "%GRPC_STATUS(NUMBER)%",
    "%GRPC_STATUS(number)%",
];

/// Operators of which each known command is tried: without and with arguments and lengths.
const FORMS: [&str; 7] = [
    "%COMMAND%",
    "%COMMAND()%",
    "%COMMAND(a)%",
    "%COMMAND(a:b)%",
    "%COMMAND(a b)%",
    "%COMMAND:5%",
    "%COMMAND(a):5%",
];

/// Commands that appear in no string of the binary on their own.
const SHORT: [&str; 2] = ["REQ", "CEL"];

#[tokio::test]
async fn formats_are_refused_that_the_oldest_envoy_refuses() {
    let candidates: Vec<String> = words(EnvoyVersion::Oldest)
        .iter()
        .map(|word| format!("%{word}%"))
        .collect();
    let known = mistakes_by_format(&candidates)
        .into_iter()
        .filter(|(_, mistake)| !mistake.contains("is not a command operator"));
    let known: Vec<String> = known.map(|(format, _)| format).collect();
    let commands: Vec<&str> = known
        .iter()
        .map(|format| format.trim_matches('%'))
        .collect();
    assert!(commands.len() > 100, "{commands:?}");

    let forms = commands
        .iter()
        .flat_map(|command| FORMS.map(|form| form.replace("COMMAND", command)));
    let table = FORMATS.iter().map(|format| (*format).to_owned());
    let formats: Vec<String> = candidates
        .iter()
        .cloned()
        .chain(forms)
        .chain(table)
        .collect();
    let ours = mistakes_by_format(&formats);
    let refused = refused(EnvoyVersion::Oldest, &formats).await;
    for (format, mistake) in &ours {
        // Ingest does not parse CEL expressions and so refuses also the valid ones.
        if !format.starts_with("%CEL") {
            let error = refused.get(format);
            assert_eq!(
                mistake.is_empty(),
                error.is_none(),
                "{format:?}: {mistake}; {error:?}"
            );
        }
    }

    let accepted: Vec<String> = ours
        .into_iter()
        .filter_map(|(format, mistake)| mistake.is_empty().then_some(format))
        .collect();
    assert!(accepted.len() > 200, "{accepted:?}");
    let newest = self::refused(EnvoyVersion::Newest, &accepted).await;
    assert_eq!(newest, BTreeMap::new());
}

/// Words that may be commands: strings of the binary that consist of capitals, and what follows an underscore in them,
/// because the linker merges a string with the end of another one.
fn words(version: EnvoyVersion) -> BTreeSet<String> {
    let is_word = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_';
    let binary = fs::read(version.binary().unwrap()).unwrap();
    let mut words: BTreeSet<String> = SHORT.map(ToOwned::to_owned).into();
    for string in binary.split(|byte| *byte == 0) {
        if (4..60).contains(&string.len()) && string.iter().copied().all(is_word) {
            let word = String::from_utf8(string.to_vec()).unwrap();
            let ends = word
                .match_indices('_')
                .map(|(at, _)| word[at + 1..].to_owned());
            words.extend(ends.filter(|end| !end.is_empty()));
            words.insert(word);
        }
    }
    words
}

/// Fewer than the problems that are kept of an object.
const FORMATS_OF_A_NODE: usize = 50;

/// The mistake that ingest reports for each format; empty if there is none.
fn mistakes_by_format(formats: &[String]) -> BTreeMap<String, String> {
    let mesh = json!({
        "apiVersion": "appmesh.k8s.aws/v1beta2", "kind": "Mesh", "metadata": {"name": "m"},
        "spec": {"namespaceSelector": {}},
    });
    let nodes = formats.chunks(FORMATS_OF_A_NODE).enumerate();
    let nodes = nodes.map(|(node, formats)| {
        let fields = formats.iter().enumerate();
        let fields =
            fields.map(|(index, format)| json!({"key": index.to_string(), "value": format}));
        // A node without a valid format has one more mistake.
        let valid = json!({"key": "valid", "value": "%PROTOCOL%"});
        json!({
            "apiVersion": "appmesh.k8s.aws/v1beta2", "kind": "VirtualNode",
            "metadata": {"name": node.to_string(), "namespace": "a"},
            "spec": {"logging": {"accessLog": {"file": {
                "path": "/dev/null", "format": {"json": fields.chain([valid]).collect::<Vec<_>>()},
            }}}},
        })
    });
    let mut inputs = Inputs::default();
    for object in nodes.chain([mesh]) {
        let parsed = parse(object);
        assert_eq!(parsed.problems, []);
        let (reference, object) = parsed.object.unwrap();
        inputs.apply(reference, Some(object));
    }
    let built = build(&inputs, &mut BuildMemo::default());
    let mut mistakes = vec![String::new(); formats.len()];
    for problem in built.problems.iter() {
        assert_eq!(problem.severity, Severity::Error, "{problem}");
        let field = problem.field.as_str();
        let index = field
            .strip_prefix("spec.logging.accessLog.file.format.json[")
            .and_then(|rest| rest.strip_suffix("].value"));
        let node = &problem.object.as_ref().unwrap().name;
        let node: usize = node.parse().unwrap();
        let index = index.unwrap_or_else(|| panic!("{problem}"));
        let index: usize = index.parse().unwrap();
        mistakes[node * FORMATS_OF_A_NODE + index].clone_from(&problem.message);
    }
    formats.iter().cloned().zip(mistakes).collect()
}

/// The formats that an Envoy refuses, with its error.
async fn refused(version: EnvoyVersion, formats: &[String]) -> BTreeMap<String, String> {
    let dir = tools::scratch("formats").unwrap();
    let listeners: Vec<Value> = formats
        .iter()
        .enumerate()
        .map(|(index, format)| listener(index, format))
        .collect();
    let file = dir.path().join("listeners.json");
    fs::write(&file, json!({"resources": listeners}).to_string()).unwrap();
    let bootstrap = json!({
        "node": {"id": "formats", "cluster": "formats"},
        "dynamic_resources": {"lds_config": {"path_config_source": {"path": file}}},
    });
    let options = EnvoyOptions::new(version, bootstrap.to_string());
    let mut envoy = Envoy::start(&options).unwrap();
    envoy.ready().await.unwrap();
    let dump = envoy.admin().get("/config_dump?resource=dynamic_listeners");
    let dump: Value = serde_json::from_str(&dump.await.unwrap()).unwrap();
    // Envoy lists a listener that it refuses several times.
    let mut verdicts: BTreeMap<&str, Option<&str>> = BTreeMap::new();
    for listener in dump["configs"].as_array().unwrap() {
        let error = &listener["error_state"];
        let name = listener["name"].as_str();
        let name = name.or_else(|| error["failed_configuration"]["name"].as_str());
        verdicts.insert(name.unwrap(), error["details"].as_str());
    }
    assert_eq!(verdicts.len(), formats.len());
    let refused = verdicts.into_iter().filter_map(|(name, error)| {
        let format = formats[name.parse::<usize>().unwrap()].clone();
        Some((format, error?.to_owned()))
    });
    refused.collect()
}

/// A listener that opens no port and has an access log in this format. Envoy refuses two listeners with one address.
fn listener(index: usize, format: &str) -> Value {
    json!({
        "@type": "type.googleapis.com/envoy.config.listener.v3.Listener",
        "name": index.to_string(),
        "bind_to_port": false,
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": index + 1}},
        "filter_chains": [{"filters": []}],
        "access_log": [{
            "name": "envoy.access_loggers.file",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
                "path": "/dev/null",
                "log_format": {"text_format_source": {"inline_string": format}},
            },
        }],
    })
}
