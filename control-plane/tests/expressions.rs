//! No regular expression that Evermesh accepts is refused by a real Envoy.
//!
//! Random expressions are made from a grammar that is larger than RE2's, and by changes of single characters. Each becomes
//! a listener of its own, because Envoy judges each listener of one response for itself.
//!
//! `EXPRESSIONS` sets the number of expressions, and `EXPRESSIONS_SEED` makes others. The test prints how many expressions
//! Envoy accepts and Evermesh refuses.

use std::{collections::BTreeMap, env, fs, str::FromStr, time::Duration};

use anyhow::{Context as _, Result, ensure};
use evermesh_ingest::expression::re2_error;
use evermesh_testkit::{
    envoy::{Envoy, EnvoyOptions, EnvoyVersion},
    tools,
    wait::eventually,
};
use fastrand::Rng;
use serde_json::{Value, json};

/// Expressions for each Envoy process.
const AT_ONCE: usize = 1_000;

/// Limit of time for one Envoy to compile its expressions on a busy machine.
const COMPILATION: Duration = Duration::from_mins(2);

fn setting<T: FromStr>(name: &str, default: T) -> T {
    let value = env::var(name).ok().and_then(|text| text.parse().ok());
    value.unwrap_or(default)
}

#[tokio::test]
async fn accepted_expressions_are_accepted_by_envoys() -> Result<()> {
    let count: usize = setting("EXPRESSIONS", 400);
    let mut rng = Rng::with_seed(setting("EXPRESSIONS_SEED", 1));
    let expressions: Vec<String> = (0..count).map(|_| expression(&mut rng)).collect();
    for version in EnvoyVersion::ALL {
        let mut verdicts = Vec::new();
        for chunk in expressions.chunks(AT_ONCE) {
            verdicts.extend(envoy_errors(version, chunk).await?);
        }
        let mut of_envoy = 0;
        let (mut wrong, mut strict) = (Vec::new(), Vec::new());
        for (expression, refused) in expressions.iter().zip(&verdicts) {
            of_envoy += usize::from(refused.is_none());
            match (re2_error(expression), refused) {
                (None, Some(error)) => wrong.push(format!("{expression:?}: {error}")),
                (Some(error), None) => strict.push(format!("{expression:?}: {error}")),
                (None, None) | (Some(_), Some(_)) => {}
            }
        }
        println!(
            "Envoy {} accepts {of_envoy} of {count} expressions; Evermesh refuses {} of these",
            version.number(),
            strict.len()
        );
        strict.iter().take(20).for_each(|it| println!("    {it}"));
        assert!(wrong.is_empty(), "Envoy refuses:\n{}", wrong.join("\n"));
        // Generators that make only wrong expressions, or only right ones, would prove nothing.
        ensure!(
            count / 5 < of_envoy && of_envoy < count * 19 / 20,
            "{of_envoy}"
        );
        ensure!(
            strict.len() < of_envoy / 5,
            "{} of {of_envoy}",
            strict.len()
        );
    }
    Ok(())
}

/// Envoy's error for each expression, if it refuses it.
async fn envoy_errors(
    version: EnvoyVersion,
    expressions: &[String],
) -> Result<Vec<Option<String>>> {
    let dir = tools::scratch("expressions")?;
    let listeners: Vec<Value> = expressions.iter().enumerate().map(listener).collect();
    let path = dir.path().join("lds.json");
    fs::write(
        &path,
        json!({ "version_info": "1", "resources": listeners }).to_string(),
    )?;
    let runtime = json!({ "re2.max_program_size.error_level": 1000 });
    let bootstrap = json!({
        "node": { "id": "expressions", "cluster": "expressions" },
        "dynamic_resources": { "lds_config": { "path_config_source": { "path": path } } },
        "layered_runtime": { "layers": [{ "name": "sizes", "static_layer": runtime }] },
    });
    let envoy = Envoy::start(&EnvoyOptions::new(version, bootstrap.to_string()))?;
    let answered = async || {
        let stats = envoy.stats().await.unwrap_or_default();
        let outcomes = ["update_success", "update_rejected"].iter();
        let count = |name: &&str| stats.get(&format!("listener_manager.lds.{name}")).copied();
        outcomes.filter_map(count).sum::<u64>() > 0
    };
    eventually("the verdict on all listeners", COMPILATION, answered).await;
    let dump = envoy
        .admin()
        .get("/config_dump?resource=dynamic_listeners")
        .await?;
    let dump: Value = serde_json::from_str(&dump)?;
    let states: BTreeMap<&str, &Value> = dump["configs"]
        .as_array()
        .context("no listeners")?
        .iter()
        .filter_map(|it| Some((it["name"].as_str()?, it)))
        .collect();
    let state = |index: usize| {
        let state = states.get(index.to_string().as_str());
        let state = state.with_context(|| format!("listener {index} is missing"))?;
        let error = state["error_state"]["details"].as_str();
        Ok(error.map(ToOwned::to_owned))
    };
    (0..expressions.len()).map(state).collect()
}

/// A listener whose only route has the expression. Nothing is bound.
fn listener((index, expression): (usize, &String)) -> Value {
    let configuration = json!({ "virtual_hosts": [{
        "name": "h",
        "domains": ["*"],
        "routes": [{
            "match": { "safe_regex": { "regex": expression } },
            "direct_response": { "status": 200 },
        }],
    }] });
    let router = json!({
        "name": "envoy.filters.http.router",
        "typed_config": { "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router" },
    });
    let manager = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "s",
        "route_config": configuration,
        "http_filters": [router],
    });
    json!({
        "@type": "type.googleapis.com/envoy.config.listener.v3.Listener",
        "name": index.to_string(),
        "bind_to_port": false,
        "address": { "socket_address": { "address": "127.0.0.1", "port_value": index + 1 } },
        "filter_chains": [{ "filters": [{ "name": "manager", "typed_config": manager }] }],
    })
}

fn pick<'a>(rng: &mut Rng, texts: &[&'a str]) -> &'a str {
    rng.choice(texts).copied().unwrap_or_default()
}

fn expression(rng: &mut Rng) -> String {
    if rng.u8(..6) == 0 {
        let part = sequence(rng, 2);
        return largest(&part, pick(rng, &["", ",", ",1000"]));
    }
    let mut text = alternatives(rng, 3);
    if rng.u8(..4) == 0 {
        for _ in 0..rng.usize(1..3) {
            change(rng, &mut text);
        }
    }
    // Envoy requires one character.
    if text.is_empty() {
        text.push('/');
    }
    text
}

/// The largest repetition of the part that Evermesh accepts: its program has nearly the largest size.
fn largest(part: &str, most: &str) -> String {
    let repeated = |count: usize| format!("(?:{part}){{{count}{most}}}");
    let counts: Vec<usize> = (1..=1_000).collect();
    repeated(
        counts
            .partition_point(|count| re2_error(&repeated(*count)).is_none())
            .max(1),
    )
}

fn alternatives(rng: &mut Rng, depth: usize) -> String {
    let count = pick(rng, &["1", "1", "1", "2", "3"]).len().max(1);
    let count = if rng.u8(..4) == 0 {
        count + rng.usize(1..3)
    } else {
        count
    };
    let branches: Vec<String> = (0..count).map(|_| sequence(rng, depth)).collect();
    branches.join("|")
}

fn sequence(rng: &mut Rng, depth: usize) -> String {
    let mut text = String::new();
    for _ in 0..rng.usize(0..5) {
        text += &atom(rng, depth);
        if rng.u8(..3) == 0 {
            text += &repetition(rng);
        }
    }
    text
}

fn atom(rng: &mut Rng, depth: usize) -> String {
    let literals = [
        "a",
        "b",
        "k",
        "S",
        "/",
        "-",
        "_",
        "0",
        " ",
        "\u{e9}",
        "\u{20ac}",
        "\u{1f600}",
        "users",
        "{",
        "}",
        "]",
    ];
    match rng.u8(..12) {
        0..=3 => pick(rng, &literals).to_owned(),
        4 => pick(rng, &[".", "^", "$", ".", "\\b", "\\A", "\\z"]).to_owned(),
        5 | 6 => escape(rng),
        7 | 8 => class(rng),
        _ if depth > 0 => {
            let kinds = [
                "(", "(", "(?:", "(?P<n>", "(?i:", "(?i-s:", "(?s:", "(?U:", "(?m:", "(?=", "(?<n>",
            ];
            let kind = if rng.bool() { "(" } else { pick(rng, &kinds) };
            format!("{kind}{})", alternatives(rng, depth - 1))
        }
        _ => pick(rng, &["(?i)", "(?s)", "(?-i)", "()", "x"]).to_owned(),
    }
}

fn escape(rng: &mut Rng) -> String {
    let escapes = [
        "\\d",
        "\\D",
        "\\w",
        "\\W",
        "\\s",
        "\\S",
        "\\.",
        "\\/",
        "\\-",
        "\\n",
        "\\t",
        "\\v",
        "\\x41",
        "\\x{e9}",
        "\\x{10FFFF}",
        "\\0",
        "\\12",
        "\\377",
        "\\_",
        "\\:",
        "\\\"",
        "\\ ",
        "\\~",
        "\\Qa.b\\E",
        "\\pN",
        "\\PL",
        "\\p{Lu}",
        "\\p{^Nd}",
        "\\p{Greek}",
        "\\C",
        "\\a",
        "\\f",
    ];
    let rare = [
        "\\8",
        "\\1",
        "\\y",
        "\\E",
        "\\Z",
        "\\G",
        "\\u0041",
        "\\x{110000}",
        "\\x{D800}",
        "\\x4",
        "\\p{Foo}",
        "\\pq",
        "\\h",
        "\\R",
        "\\K",
        "\\cA",
        "\\e",
        "\\<",
        "\\\u{e9}",
        "\\x{}",
        "\\X",
        "\\p{Any}",
        "\\Q(",
    ];
    if rng.u8(..8) == 0 {
        pick(rng, &rare).to_owned()
    } else {
        pick(rng, &escapes).to_owned()
    }
}

fn class(rng: &mut Rng) -> String {
    let items = [
        "a-z",
        "A-Z",
        "0-9",
        "a",
        "-",
        "_",
        "/",
        ".",
        "\\d",
        "\\w",
        "\\s",
        "\\W",
        "[:alpha:]",
        "[:^digit:]",
        "[:word:]",
        "\\-",
        "\\]",
        "[",
        "\u{e9}",
        "\u{e0}-\u{fc}",
        "\\x00-\\x1f",
        "&&",
        "^",
        "\\pL",
        "\\n",
        "a-\u{20ac}",
        "!-~",
        "\\.",
    ];
    let rare = [
        "z-a",
        "[:foo:]",
        "\\b",
        "[:",
        "a-\\d",
        "\\Q",
        "\\x{7f}-\\x{10ffff}",
        "]",
        "\\PN",
        "[.a.]",
        "\\A",
        "--a",
    ];
    let mut text = String::from(if rng.u8(..3) == 0 { "[^" } else { "[" });
    for _ in 0..rng.usize(1..5) {
        text += if rng.u8(..20) == 0 {
            pick(rng, &rare)
        } else {
            pick(rng, &items)
        };
    }
    text + "]"
}

fn repetition(rng: &mut Rng) -> String {
    let count = |rng: &mut Rng| match rng.u8(..8) {
        0 => rng.u32(900..1_100),
        1 | 2 => rng.u32(50..300),
        _ => rng.u32(..12),
    };
    let mut text = match rng.u8(..10) {
        0..=2 => "*".to_owned(),
        3 | 4 => "+".to_owned(),
        5 | 6 => "?".to_owned(),
        7 => format!("{{{}}}", count(rng)),
        8 => format!("{{{},}}", count(rng)),
        _ => {
            let least = count(rng);
            format!("{{{least},{}}}", least + rng.u32(..20))
        }
    };
    if rng.u8(..4) == 0 {
        text.push('?');
    }
    if rng.u8(..40) == 0 {
        text += pick(rng, &["*", "+", "{2}", "{,3}", "{01}", "{1,0}", "{x}"]);
    }
    text
}

/// Removes, repeats, adds or replaces a character.
fn change(rng: &mut Rng, text: &mut String) {
    let mut characters: Vec<char> = text.chars().collect();
    let alphabet: Vec<char> = "()[]{}|*+?.^$\\-,:0159aizQEPpdxUs<>= \u{e9}\n"
        .chars()
        .collect();
    let other = *rng.choice(&alphabet).unwrap_or(&'a');
    let at = rng.usize(..=characters.len());
    match rng.u8(..4) {
        0 if at < characters.len() => {
            characters.remove(at);
        }
        1 if at < characters.len() => characters.insert(at, characters[at]),
        2 if at < characters.len() => characters[at] = other,
        _ => characters.insert(at, other),
    }
    *text = characters.into_iter().collect();
}
