//! What the status of an object should say. Pure: facts in, status out.
//!
//! `<Kind>Active`, App Mesh's own condition, is true when the object is served as written. `Programmed` is true when
//! every connected proxy concerned has accepted everything that came of it. Both name their reason.
//!
//! Must not look at a clock: `lastTransitionTime` is the caller's, and stays while nothing changes.

use std::collections::BTreeMap;

use evermesh_model::{Kind, Problem, Severity};
use k8s_openapi::jiff::Timestamp;
use serde_json::{Map, Value, json};

/// The condition of our own.
pub const PROGRAMMED: &str = "Programmed";

/// Longest message, in bytes: the sum of a few sentences.
const MESSAGE: usize = 1024;

/// What is known of an object.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Facts {
    /// The generation of the spec that is served.
    pub generation: i64,
    /// What was found wrong with it.
    pub problems: Vec<Problem>,
    /// What proxies made of it.
    pub proxies: Proxies,
    /// Its ARN in App Mesh's form, and those of a router's own routes; none while it is not part of a mesh.
    pub arn: Option<String>,
    /// Route name to ARN.
    pub route_arns: BTreeMap<String, String>,
}

/// What the connected proxies concerned made of everything that came of an object.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Proxies {
    /// How many are concerned.
    pub concerned: usize,
    /// How many have accepted all of it.
    pub acked: usize,
    /// Since when the oldest part waits for an answer.
    pub waiting_since: Option<Timestamp>,
    /// Who refused some of it, with the proxy's own words.
    pub refusals: Vec<(String, String)>,
}

/// The name of App Mesh's own condition.
pub const fn active(kind: Kind) -> Option<&'static str> {
    match kind {
        Kind::Mesh => Some("MeshActive"),
        Kind::VirtualNode => Some("VirtualNodeActive"),
        Kind::VirtualService => Some("VirtualServiceActive"),
        Kind::VirtualRouter => Some("VirtualRouterActive"),
        Kind::VirtualGateway => Some("VirtualGatewayActive"),
        Kind::GatewayRoute => Some("GatewayRouteActive"),
        Kind::Route => Some("RouteActive"),
        // Its status has no fields.
        Kind::BackendGroup => None,
        Kind::Namespace | Kind::Service | Kind::EndpointSlice | Kind::Pod | Kind::Node => None,
    }
}

/// The status of an object, given what its status is. Conditions of others stay as they are.
pub fn status(kind: Kind, facts: &Facts, current: &Value, now: Timestamp) -> Option<Value> {
    let active = active(kind)?;
    let ours = [
        (active, accepted(&facts.problems)),
        (PROGRAMMED, programmed(facts)),
    ];
    let held: &[Value] = current["conditions"].as_array().map_or(&[], Vec::as_slice);
    let is_ours = |condition: &Value| ours.iter().any(|(name, _)| condition["type"] == *name);
    let mut conditions: Vec<Value> = ours
        .iter()
        .map(|(name, verdict)| {
            let last = held.iter().find(|condition| condition["type"] == *name);
            verdict.condition(name, last, now)
        })
        .collect();
    conditions.extend(held.iter().filter(|it| !is_ours(it)).cloned());

    let mut status = Map::new();
    status.insert("conditions".to_owned(), conditions.into());
    status.insert("observedGeneration".to_owned(), facts.generation.into());
    if let (Some(field), Some(arn)) = (arn_field(kind), &facts.arn) {
        status.insert(field.to_owned(), arn.as_str().into());
    }
    if !facts.route_arns.is_empty() {
        status.insert("routeARNs".to_owned(), json!(facts.route_arns));
    }
    Some(status.into())
}

const fn arn_field(kind: Kind) -> Option<&'static str> {
    match kind {
        Kind::Mesh => Some("meshARN"),
        Kind::VirtualNode => Some("virtualNodeARN"),
        Kind::VirtualService => Some("virtualServiceARN"),
        Kind::VirtualRouter => Some("virtualRouterARN"),
        Kind::VirtualGateway => Some("virtualGatewayARN"),
        Kind::GatewayRoute => Some("gatewayRouteARN"),
        _ => None,
    }
}

/// What a condition says.
struct Saying {
    status: &'static str,
    reason: String,
    message: String,
}

impl Saying {
    fn new(status: bool, reason: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            status: if status { "True" } else { "False" },
            reason: reason.into(),
            message: shortened(message.into()),
        }
    }

    fn condition(&self, name: &str, last: Option<&Value>, now: Timestamp) -> Value {
        let since = last
            .filter(|last| last["status"] == self.status)
            .and_then(|last| last["lastTransitionTime"].as_str());
        json!({
            "type": name,
            "status": self.status,
            "lastTransitionTime": since.map_or_else(|| text(now), ToOwned::to_owned),
            "reason": self.reason,
            "message": self.message,
        })
    }
}

fn accepted(problems: &[Problem]) -> Saying {
    match first_error(problems) {
        Some(error) => Saying::new(false, format!("{:?}", error.reason), sentences(problems)),
        None if problems.is_empty() => Saying::new(true, "Accepted", "served as written"),
        None => Saying::new(true, "Accepted", sentences(problems)),
    }
}

fn programmed(facts: &Facts) -> Saying {
    let Proxies {
        concerned,
        acked,
        waiting_since,
        refusals,
    } = &facts.proxies;
    if let Some(error) = first_error(&facts.problems) {
        let message = "not served as written; the last good configuration stays in force";
        return Saying::new(false, format!("{:?}", error.reason), message);
    }
    if let Some((proxy, words)) = refusals.first() {
        let count = refusals.len();
        let message = format!(
            "{count} of {concerned} proxies refused it and keep what they had; {proxy}: {words}"
        );
        return Saying::new(false, "Rejected", message);
    }
    if acked < concerned {
        let since = waiting_since.map_or_else(String::new, |since| {
            format!(", waiting since {}", text(since))
        });
        let message = format!("{acked}/{concerned} proxies have accepted it{since}");
        return Saying::new(false, "Pending", message);
    }
    if *concerned == 0 {
        return Saying::new(true, "NoProxies", "no connected proxy uses it");
    }
    Saying::new(
        true,
        "Programmed",
        format!("{acked}/{concerned} proxies have accepted it"),
    )
}

fn first_error(problems: &[Problem]) -> Option<&Problem> {
    problems
        .iter()
        .find(|problem| problem.severity == Severity::Error)
}

/// Errors first.
fn sentences(problems: &[Problem]) -> String {
    let mut sorted: Vec<&Problem> = problems.iter().collect();
    sorted.sort_by_key(|problem| problem.severity);
    let sentences = sorted.iter().map(|problem| {
        if problem.field.is_root() {
            problem.message.clone()
        } else {
            format!("{}: {}", problem.field, problem.message)
        }
    });
    sentences.collect::<Vec<_>>().join("; ")
}

fn shortened(mut message: String) -> String {
    if message.len() > MESSAGE {
        message.truncate(message.floor_char_boundary(MESSAGE));
        message.push('…');
    }
    message
}

/// As Kubernetes writes times: whole seconds.
fn text(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

#[cfg(test)]
mod tests {
    use evermesh_model::{FieldPath, ObjectRef, Reason};

    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    fn facts(concerned: usize, acked: usize) -> Facts {
        Facts {
            generation: 2,
            proxies: Proxies {
                concerned,
                acked,
                waiting_since: (acked < concerned).then(|| at(60)),
                refusals: Vec::new(),
            },
            arn: Some("arn".to_owned()),
            ..Facts::default()
        }
    }

    fn programmed(facts: &Facts, current: &Value, now: i64) -> Value {
        let status = status(Kind::VirtualNode, facts, current, at(now)).unwrap();
        status["conditions"][1].clone()
    }

    #[test]
    fn programmed_only_when_every_proxy_concerned_has_accepted() {
        for (concerned, acked, status, reason) in [
            (0, 0, "True", "NoProxies"),
            (2, 0, "False", "Pending"),
            (2, 1, "False", "Pending"),
            (2, 2, "True", "Programmed"),
        ] {
            let condition = programmed(&facts(concerned, acked), &Value::Null, 90);
            assert_eq!(condition["status"], status, "{condition}");
            assert_eq!(condition["reason"], reason, "{condition}");
        }
        let message = programmed(&facts(5, 3), &Value::Null, 90)["message"].clone();
        assert_eq!(
            message,
            "3/5 proxies have accepted it, waiting since 1970-01-01T00:01:00Z"
        );
    }

    #[test]
    fn a_refusal_is_told_in_the_proxys_words() {
        let mut facts = facts(2, 1);
        facts.proxies.refusals = vec![(
            "mesh/m/virtualNode/a".to_owned(),
            "no such field".to_owned(),
        )];
        let condition = programmed(&facts, &Value::Null, 0);
        assert_eq!(condition["reason"], "Rejected");
        let message = condition["message"].as_str().unwrap();
        assert!(
            message.ends_with("mesh/m/virtualNode/a: no such field"),
            "{message}"
        );
    }

    #[test]
    fn an_error_is_neither_active_nor_programmed() {
        let object = ObjectRef::new(Kind::VirtualNode, "n", "x");
        let field = FieldPath::spec().field("listeners");
        let problem = Problem::new(&object, field, Reason::DuplicateListener, "twice");
        let facts = Facts {
            problems: vec![problem],
            ..facts(1, 1)
        };
        let status = status(Kind::VirtualNode, &facts, &Value::Null, at(0)).unwrap();
        for condition in status["conditions"].as_array().unwrap() {
            assert_eq!(condition["status"], "False", "{condition}");
            assert_eq!(condition["reason"], "DuplicateListener", "{condition}");
        }
        assert_eq!(status["conditions"][0]["message"], "spec.listeners: twice");
        assert_eq!(status["virtualNodeARN"], "arn");
        assert_eq!(status["observedGeneration"], 2);
    }

    #[test]
    fn a_transition_has_its_time_and_nothing_else_has() {
        let pending = status(Kind::Route, &facts(2, 0), &Value::Null, at(100)).unwrap();
        let still = status(Kind::Route, &facts(2, 1), &pending, at(200)).unwrap();
        let done = status(Kind::Route, &facts(2, 2), &still, at(300)).unwrap();
        let again = status(Kind::Route, &facts(2, 2), &done, at(400)).unwrap();
        let since = |status: &Value| status["conditions"][1]["lastTransitionTime"].clone();
        assert_eq!(since(&pending), "1970-01-01T00:01:40Z");
        assert_eq!(since(&still), since(&pending));
        assert_eq!(since(&done), "1970-01-01T00:05:00Z");
        assert_eq!(again, done);
    }

    #[test]
    fn the_conditions_of_others_stay() {
        let current = json!({"conditions": [{"type": "Theirs", "status": "True"}]});
        let status = status(Kind::Mesh, &facts(0, 0), &current, at(0)).unwrap();
        assert_eq!(status["conditions"][2], current["conditions"][0]);
    }
}
