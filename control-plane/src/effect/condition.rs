//! What the status of an object should say. Pure: facts in, status out.
//!
//! `<Kind>Active`, App Mesh's own condition, is true when the object is served as written. `Programmed` is true when
//! every connected proxy concerned has accepted everything that came of it. Both name their reason. `WeightsAcked`
//! says which weights were the last that every proxy had accepted, and since when; it stays while newer ones are on
//! their way.
//!
//! Must not look at a clock: `lastTransitionTime` is the caller's, and stays while nothing changes.

use std::collections::BTreeMap;

use evermesh_model::{Kind, Problem, Severity};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value, json};

use super::RETURNING;

/// The condition of our own.
pub(super) const PROGRAMMED: &str = "Programmed";
/// The condition whose message is weights.
pub(super) const WEIGHTS_ACKED: &str = "WeightsAcked";

/// Longest message, in bytes: the sum of a few sentences.
const MESSAGE: usize = 1024;

/// How long proxies may take to answer before their count is written without them. Most answer within it, and then a
/// change costs one write, made after the proxies had the machine to themselves.
const ANSWERING: SignedDuration = SignedDuration::from_millis(250);

/// What is known of an object.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Facts {
    /// The generation of the spec that is served.
    pub(super) generation: i64,
    /// What was found wrong with it.
    pub(super) problems: Vec<Problem>,
    /// What proxies made of it.
    pub(super) proxies: ProxyCounts,
    /// Its ARN in App Mesh's form, and those of a router's own routes; none while it is not part of a mesh.
    pub(super) arn: Option<String>,
    /// Route name to ARN.
    pub(super) route_arns: BTreeMap<String, String>,
    /// The weights in its spec, if it has any.
    pub(super) weights: Option<String>,
    /// A replica that is there, or was a moment ago, and of whose proxies nothing is known, if there is one.
    pub(super) unheard: Option<String>,
}

/// What the connected proxies concerned made of everything that came of an object.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct ProxyCounts {
    /// How many are concerned.
    pub(super) concerned: usize,
    /// How many have accepted all of it.
    pub(super) acked: usize,
    /// Since when the oldest part waits for an answer.
    pub(super) waiting_since: Option<Timestamp>,
    /// Who refused some of it, with the proxy's own words.
    pub(super) refusals: Vec<(String, String)>,
}

impl ProxyCounts {
    /// Whether all that is to be said of them is that some were asked a moment ago.
    pub(super) fn may_still_answer(&self, now: Timestamp) -> bool {
        // A clock that was set back holds nothing up.
        let is_recent =
            |since| (SignedDuration::ZERO..ANSWERING).contains(&now.duration_since(since));
        self.refusals.is_empty() && self.waiting_since.is_some_and(is_recent)
    }
}

/// The name of App Mesh's own condition.
pub(super) const fn active(kind: Kind) -> Option<&'static str> {
    match kind {
        Kind::Mesh => Some("MeshActive"),
        Kind::VirtualNode => Some("VirtualNodeActive"),
        Kind::VirtualService => Some("VirtualServiceActive"),
        Kind::VirtualRouter => Some("VirtualRouterActive"),
        Kind::VirtualGateway => Some("VirtualGatewayActive"),
        Kind::GatewayRoute => Some("GatewayRouteActive"),
        Kind::Route => Some("RouteActive"),
        // The status of a backend group has no fields.
        Kind::BackendGroup
        | Kind::Namespace
        | Kind::Service
        | Kind::EndpointSlice
        | Kind::Pod
        | Kind::Node => None,
    }
}

/// The status of an object, given what its status is. Conditions of others stay as they are.
pub(super) fn status(kind: Kind, facts: &Facts, current: &Value, now: Timestamp) -> Option<Value> {
    let active = active(kind)?;
    let held: &[Value] = current["conditions"].as_array().map_or(&[], Vec::as_slice);
    let last = |name: &str| held.iter().find(|condition| condition["type"] == name);
    let was_programmed = current["observedGeneration"] == facts.generation
        && last(PROGRAMMED).is_some_and(|last| last["status"] == "True");
    let (accepted, programmed) = (accepted(&facts.problems), programmed(facts, was_programmed));
    let is_everywhere = programmed.reason == "Programmed";
    let ours = [(active, accepted), (PROGRAMMED, programmed)];
    let mut conditions: Vec<Value> = ours
        .iter()
        .map(|(name, saying)| saying.condition(name, last(name), now))
        .collect();
    conditions.extend(weights_acked(
        facts,
        is_everywhere,
        last(WEIGHTS_ACKED),
        now,
    ));
    let is_ours = |it: &&Value| {
        let name = it["type"].as_str();
        name.is_some_and(|name| [active, PROGRAMMED, WEIGHTS_ACKED].contains(&name))
    };
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
struct ConditionText {
    status: &'static str,
    reason: String,
    message: String,
}

impl ConditionText {
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

fn accepted(problems: &[Problem]) -> ConditionText {
    match first_error(problems) {
        Some(error) => {
            ConditionText::new(false, format!("{:?}", error.reason), sentences(problems))
        }
        None if problems.is_empty() => ConditionText::new(true, "Accepted", "served as written"),
        None => ConditionText::new(true, "Accepted", sentences(problems)),
    }
}

/// What was true of this generation stays so while a replica is unheard: its proxies are sent what they had.
fn programmed(facts: &Facts, was_programmed: bool) -> ConditionText {
    let ProxyCounts {
        concerned,
        acked,
        waiting_since,
        refusals,
    } = &facts.proxies;
    if let Some(error) = first_error(&facts.problems) {
        let message = "not served as written; the last good configuration stays in force";
        return ConditionText::new(false, format!("{:?}", error.reason), message);
    }
    if let Some((proxy, words)) = refusals.first() {
        let count = refusals.len();
        let message = format!(
            "{count} of {concerned} proxies refused it and keep what they had; {proxy}: {words}"
        );
        return ConditionText::new(false, "Rejected", message);
    }
    if acked < concerned {
        let since = waiting_since.map_or_else(String::new, |since| {
            format!(", waiting since {}", text(since))
        });
        let message = format!("{acked}/{concerned} proxies have accepted it{since}");
        return ConditionText::new(false, "Pending", message);
    }
    if let Some(replica) = &facts.unheard
        && !was_programmed
    {
        let message = format!(
            "{acked}/{concerned} proxies have accepted it; replica {replica}, there less than {} s ago, has not told what its proxies have",
            RETURNING.as_secs()
        );
        return ConditionText::new(false, "Pending", message);
    }
    if *concerned == 0 {
        return ConditionText::new(true, "NoProxies", "no connected proxy uses it");
    }
    ConditionText::new(
        true,
        "Programmed",
        format!("{acked}/{concerned} proxies have accepted it"),
    )
}

/// Weights are in force since they came to be, not since some weights did.
fn weights_acked(
    facts: &Facts,
    is_everywhere: bool,
    last: Option<&Value>,
    now: Timestamp,
) -> Option<Value> {
    let weights = match &facts.weights {
        Some(weights) if is_everywhere => weights,
        Some(_) => return last.cloned(),
        // Without a graph entry nothing is known; the spec may have weights that are not served.
        None if first_error(&facts.problems).is_some() => return last.cloned(),
        None => return None,
    };
    let saying = ConditionText::new(true, "Acked", weights);
    let last = last.filter(|last| last["message"] == *saying.message);
    Some(saying.condition(WEIGHTS_ACKED, last, now))
}

/// Whether the second status says the same as the first but for counts and words: worth a write, but not at once.
pub(super) fn differs_in_words_only(before: &Value, now: &Value) -> bool {
    fn without_words(status: &Value) -> Value {
        let mut status = status.clone();
        let conditions = status["conditions"].as_array_mut();
        for condition in conditions.into_iter().flatten() {
            if condition["type"] == WEIGHTS_ACKED {
                continue;
            }
            condition["message"].take();
            if condition["reason"] == "NoProxies" {
                condition["reason"] = "Programmed".into();
            }
        }
        status
    }
    without_words(before) == without_words(now)
}

/// A change of a condition that somebody should hear of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Transition {
    /// For the worse.
    pub(super) is_warning: bool,
    /// The reason of the condition.
    pub(super) reason: String,
    /// Its message.
    pub(super) message: String,
}

/// What a status says that the one before did not: that something is wrong, and that it no longer is. That proxies are
/// yet to answer is neither.
pub(super) fn turns(before: &Value, now: &Value) -> Vec<Transition> {
    let is_wrong = |condition: &Value| {
        condition["status"] == "False" && condition["reason"].as_str() != Some("Pending")
    };
    let held: &[Value] = before["conditions"].as_array().map_or(&[], Vec::as_slice);
    let conditions = now["conditions"].as_array().into_iter().flatten();
    let mut turns: Vec<Transition> = Vec::new();
    for condition in conditions {
        let last = held.iter().find(|last| last["type"] == condition["type"]);
        let was_wrong = last.is_some_and(is_wrong);
        let is_warning = is_wrong(condition);
        let is_news = match (was_wrong, is_warning) {
            (true, true) => last.is_some_and(|last| last["reason"] != condition["reason"]),
            (false, true) => true,
            (true, false) => condition["status"] == "True",
            (false, false) => false,
        };
        let reason = condition["reason"].as_str().unwrap_or_default();
        // An object that is not active is not programmed either, for the same reason.
        if is_news
            && !turns
                .iter()
                .any(|turn| turn.is_warning && turn.reason == reason)
        {
            turns.push(Transition {
                is_warning,
                reason: reason.to_owned(),
                message: condition["message"].as_str().unwrap_or_default().to_owned(),
            });
        }
    }
    turns
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
pub(super) fn text(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

#[cfg(test)]
mod tests;
