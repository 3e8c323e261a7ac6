//! Random sets of routes: the route that answers is the first one of the graph that matches, and a route that a problem
//! calls unreached never answers.
//!
//! `ROUTE_SETS` is the number of sets, `ROUTE_SEED` the seed of the first one. A set depends on its seed only. The seeds
//! of sets that failed are kept in `seeds.txt`, and run first.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    fs,
    time::{SystemTime, UNIX_EPOCH},
};

use evermesh_testkit::envoy::EnvoyVersion;
use serde_json::{Value, json};

use crate::{
    envoy::{AnsweringEnvoy, PORTS, RawRequest},
    mesh::{Owner, RouteSet, Translated, host},
};

/// The sets that one Envoy answers for.
const BATCH: usize = 250;

const SEEDS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/route_matches/seeds.txt");

/// The generator `SplitMix64`.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).unwrap()
    }

    fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }

    fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }
}

/// An expression, and whether it accepts a text.
type Expression = (&'static str, fn(&str) -> bool);

/// Every expression of the sets.
const EXPRESSIONS: [Expression; 12] = [
    ("/.*", |_| true),
    ("/a.*", |text| text.starts_with("/a")),
    ("^/a/.+$", |text| text.len() > 3 && text.starts_with("/a/")),
    ("/a/[0-9]+", |text| {
        let number = text.strip_prefix("/a/").unwrap_or_default();
        !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
    }),
    ("(/a|/ab)(/b)?", |text| {
        ["/a", "/ab", "/a/b", "/ab/b"].contains(&text)
    }),
    ("/a\\.b", |text| text == "/a.b"),
    (".*b", |text| text.ends_with('b')),
    ("r.*", |text| text.starts_with('r')),
    ("[0-9]{1,2}", |text| {
        (1..=2).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit())
    }),
    ("re?d", |text| text == "red" || text == "rd"),
    ("red", |text| text == "red"),
    ("(?i)RED", |text| text.eq_ignore_ascii_case("red")),
];

fn accepts_regex(regex: &str, text: &str) -> bool {
    let mut all = EXPRESSIONS.iter();
    let (_, accepts) = all
        .find(|(it, _)| *it == regex)
        .expect("a listed expression");
    accepts(text)
}

const PATHS: [&str; 8] = ["/", "/a", "/ab", "/a/", "/a/b", "/a/7", "/a.b", "/b"];
const VALUES: [&str; 9] = ["r", "red", "rd", "b", "5", "10", "55", "Red", "redb"];
const NUMBERS: [i64; 5] = [0, 5, 10, 11, 60];
const METHODS: [&str; 3] = ["GET", "POST", "HEAD"];

fn route_set(random: &mut Random, index: usize) -> RouteSet {
    let owner = *random.pick(&[Owner::Inline, Owner::Objects, Owner::Gateway]);
    let count = 2 + random.below(6);
    let routes = (0..count)
        .map(|_| {
            let priority = random
                .one_in(3)
                .then(|| u32::try_from(random.below(3)).unwrap());
            (priority, "httpRoute", route_match(random, owner, index))
        })
        .collect();
    RouteSet { owner, routes }
}

fn route_match(random: &mut Random, owner: Owner, index: usize) -> Value {
    let mut matches = match random.below(6) {
        0 | 1 => json!({"prefix": "/"}),
        2 | 3 => json!({"prefix": random.pick(&PATHS)}),
        4 => json!({"path": {"exact": random.pick(&PATHS)}}),
        _ => json!({"path": {"regex": EXPRESSIONS[random.below(7)].0}}),
    };
    if random.one_in(5) {
        matches["method"] = json!(random.pick(&METHODS));
    }
    if random.one_in(6) {
        matches["port"] = json!(random.pick(&PORTS));
    }
    if owner == Owner::Gateway {
        let names = host_names(index);
        if random.one_in(2) {
            matches["hostname"] = if random.one_in(2) {
                json!({"exact": random.pick(&names)})
            } else {
                let dot = if random.one_in(2) { "." } else { "" };
                json!({"suffix": format!("{dot}{}", random.pick(&names))})
            };
        }
    } else if random.one_in(8) {
        matches["scheme"] = json!(random.pick(&["http", "https"]));
    }
    let headers: Vec<Value> = (0..random.below(8).saturating_sub(4))
        .map(|_| header_match(random, index))
        .collect();
    if !headers.is_empty() {
        matches["headers"] = json!(headers);
    }
    if random.one_in(5) {
        let mut parameter = json!({"name": random.pick(&["q", "Q"])});
        if random.one_in(2) {
            parameter["match"] = json!({"exact": random.pick(&["1", "red", ""])});
        }
        matches["queryParameters"] = json!([parameter]);
    }
    matches
}

fn host_names(index: usize) -> [String; 4] {
    let own = host(index);
    [
        own.clone(),
        format!("A.{own}"),
        format!("b.a.{own}"),
        format!("c.{own}"),
    ]
}

fn header_match(random: &mut Random, index: usize) -> Value {
    let name = match random.below(12) {
        0 => ":method",
        1 => ":authority",
        2 => ":path",
        3 => "X-A",
        4 | 5 => "x-b",
        _ => "x-a",
    };
    let text = match name {
        ":method" => (*random.pick(&METHODS)).to_owned(),
        ":authority" => random.pick(&host_names(index)).clone(),
        ":path" => (*random.pick(&PATHS)).to_owned(),
        _ => (*random.pick(&VALUES)).to_owned(),
    };
    let mut matches = json!({"name": name});
    let method = match random.below(7) {
        0 | 1 => None,
        2 => Some(json!({"prefix": text})),
        3 => Some(json!({"suffix": text})),
        4 if name.starts_with("x-") => Some(json!({"regex": EXPRESSIONS[6 + random.below(6)].0})),
        5 if name.starts_with("x-") => {
            let start = random.below(NUMBERS.len() - 1);
            let end = *random.pick(&NUMBERS[start + 1..]);
            let start = NUMBERS[start];
            Some(json!({"range": {"start": start, "end": end}}))
        }
        _ => Some(json!({"exact": text})),
    };
    if let Some(method) = method {
        matches["match"] = method;
    }
    if random.one_in(3) {
        matches["invert"] = json!(true);
    }
    matches
}

/// Requests to the boundaries of the matches: for each route some that resemble its match.
fn requests(random: &mut Random, set: &RouteSet, index: usize) -> Vec<RawRequest> {
    let routes = set
        .routes
        .iter()
        .flat_map(|route| std::iter::repeat_n(route, 12));
    routes
        .map(|(_, _, matches)| {
            let near = |random: &mut Random, text: &str| match random.below(6) {
                0 => format!("{text}b"),
                1 => text[..text.len().saturating_sub(1)].to_owned(),
                2 => format!("{text}7"),
                _ => text.to_owned(),
            };
            let path = [&matches["prefix"], &matches["path"]["exact"]];
            let path = path.into_iter().find_map(Value::as_str);
            let path = path.filter(|_| !random.one_in(4));
            let path = path.unwrap_or_else(|| *random.pick(&PATHS)).to_owned();
            let mut path = near(random, &path);
            if !path.starts_with('/') {
                path = format!("/{path}");
            }
            path += *random.pick(&["", "", "?q=1", "?q=", "?q", "?Q=red", "?x=1&q=red&q=1"]);
            let method = METHODS
                .into_iter()
                .find(|method| matches["method"] == **method && !random.one_in(4))
                .unwrap_or_else(|| *random.pick(&METHODS));
            let host = match set.owner {
                Owner::Gateway => random.pick(&host_names(index)).clone(),
                Owner::Inline | Owner::Objects => host(index),
            };
            let host = if random.one_in(8) && set.owner == Owner::Gateway {
                format!("{host}:8080")
            } else {
                host
            };
            let mut headers = Vec::new();
            let conditions = matches["headers"].as_array().into_iter().flatten();
            for condition in conditions {
                let name = condition["name"].as_str().unwrap();
                let method = &condition["match"];
                let texts = ["exact", "prefix", "suffix"].map(|kind| method[kind].as_str());
                let text = texts.into_iter().flatten().next();
                let number = ["start", "end"].map(|end| method["range"][end].as_i64());
                let value = match (text, number[random.below(2)]) {
                    (Some(text), _) => near(random, text),
                    (None, Some(number)) => (number - i64::from(random.one_in(2))).to_string(),
                    (None, None) => (*random.pick(&VALUES)).to_owned(),
                };
                if name.starts_with(|first: char| first != ':') && !random.one_in(5) {
                    headers.push((name.to_owned(), value));
                }
            }
            if random.one_in(4) {
                let value = (*random.pick(&VALUES)).to_owned();
                headers.push((random.pick(&["x-a", "x-b"]).to_string(), value));
            }
            if random.one_in(6) {
                headers.push(("x-forwarded-proto".to_owned(), "https".to_owned()));
            }
            // Versions of Envoy compare the values of a header that occurs several times in different ways.
            let mut names = BTreeSet::new();
            headers.retain(|(name, _)| names.insert(name.to_lowercase()));
            RawRequest {
                port: *random.pick(&PORTS),
                host,
                method,
                path,
                headers,
            }
        })
        .collect()
}

/// The figures of a run.
#[derive(Debug, Default)]
struct Figures {
    sets: usize,
    routes: usize,
    requests: usize,
    answered: usize,
    reported: usize,
    never_answered: usize,
}

fn check(
    seeds: &[u64],
    envoy: &mut AnsweringEnvoy,
    translated: &Translated,
    drawn: Vec<(RouteSet, Random)>,
    figures: &mut Figures,
) -> Vec<(u64, String)> {
    let mut failures = Vec::new();
    for (index, ((set, mut random), seed)) in drawn.into_iter().zip(seeds).enumerate() {
        let requests = requests(&mut random, &set, index);
        let answers = envoy.ask(&requests);
        let routes = translated.routes(index);
        let unreached = translated.unreached(index);
        let mut failure = String::new();
        for (request, answer) in requests.iter().zip(&answers) {
            let expected = routes
                .iter()
                .find(|route| route.accepts(request, accepts_regex))
                .map(|route| route.name);
            if answer.as_deref() != expected {
                write!(failure, "\n{request:?}: {answer:?} instead of {expected:?}").unwrap();
            }
            if let Some(name) = answer.as_ref().filter(|name| unreached.contains(*name)) {
                write!(failure, "\n{request:?}: `{name}` answers and is reported").unwrap();
            }
        }
        let is_answering = |name: &str| answers.iter().flatten().any(|answer| answer == name);
        figures.sets += 1;
        figures.routes += routes.len();
        figures.requests += requests.len();
        figures.answered += answers.iter().flatten().count();
        figures.reported += unreached.len();
        figures.never_answered += routes.iter().filter(|it| !is_answering(it.name)).count();
        if !failure.is_empty() {
            failures.push((*seed, format!("{set:#?}{failure}")));
        }
    }
    failures
}

fn variable(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name}={text} is not a number")),
    )
}

#[tokio::test]
async fn first_matching_route_answers_and_reported_ones_never_do() {
    let kept = fs::read_to_string(SEEDS).unwrap();
    let kept = kept.lines().filter(|line| !line.starts_with('#'));
    let mut seeds: Vec<u64> = kept.map(|line| line.parse().unwrap()).collect();
    let first = variable("ROUTE_SEED").unwrap_or_else(|| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        now.as_secs() << 20
    });
    println!("the seed is {first}");
    let count = variable("ROUTE_SETS").unwrap_or(300);
    seeds.extend((0..count).map(|index| first + index));
    let mut figures = Figures::default();
    let mut failures = Vec::new();
    for (batch, seeds) in seeds.chunks(BATCH).enumerate() {
        let drawn: Vec<(RouteSet, Random)> = seeds
            .iter()
            .enumerate()
            .map(|(index, seed)| {
                let mut random = Random(*seed);
                (route_set(&mut random, index), random)
            })
            .collect();
        let sets: Vec<RouteSet> = drawn.iter().map(|(set, _)| set.clone()).collect();
        let translated = Translated::new(&sets);
        let version = EnvoyVersion::ALL[batch % EnvoyVersion::ALL.len()];
        let mut envoy =
            AnsweringEnvoy::start(version, &translated.manager(), translated.hosts()).await;
        failures.extend(check(seeds, &mut envoy, &translated, drawn, &mut figures));
    }
    println!("{figures:?}");
    if let Some((_, failure)) = failures.first() {
        let mut file = fs::read_to_string(SEEDS).unwrap();
        for (seed, _) in failures.iter().take(5) {
            if !file.lines().any(|line| *line == seed.to_string()) {
                writeln!(file, "{seed}").unwrap();
            }
        }
        fs::write(SEEDS, file).unwrap();
        panic!("{} sets failed; the first one: {failure}", failures.len());
    }
}
