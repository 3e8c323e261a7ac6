//! Makes the status of an object from [`Facts`]. Pure: the caller passes the time.
//!
//! | condition | true when | message |
//! |---|---|---|
//! | `<Kind>Active` (App Mesh's own) | the object is served as written | the problems, or "served as written" |
//! | `Programmed` | every connected proxy concerned has ACKed all resources derived from the object | how many have |
//! | `WeightsAcked` | always, once it exists | the newest weights that every proxy has ACKed, such as `blue=90,green=10` |
//!
//! `WeightsAcked` keeps the previous weights while newer ones are being sent. Types and reasons are in
//! [`reasons`](super::reasons).

use std::collections::BTreeMap;

use evermesh_model::{Kind, Problem, Severity};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value, json};

use super::{
    RECONNECT_TIME,
    ack_count::WithheldKeys,
    reasons::{ConditionReason, PROGRAMMED, WEIGHTS_ACKED, active_condition},
};

/// Longest message of a condition, in bytes.
const MAX_MESSAGE: usize = 1024;

/// Time after a commit during which the status waits for ACKs. Most proxies answer within it, so that most changes cost
/// one write instead of two.
const ACK_TIME: SignedDuration = SignedDuration::from_millis(250);

/// Everything from which the status of an object is made.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Facts {
    /// The generation that the engine has processed.
    pub(super) generation: i64,
    pub(super) problems: Vec<Problem>,
    pub(super) proxies: ProxyCounts,
    /// Whether a version of the object, or a part of one, is in the graph.
    pub(super) is_served: bool,
    /// The object's ARN in App Mesh's form, once the object belongs to a mesh.
    pub(super) arn: Option<String>,
    /// ARNs of a router's inline routes, by route name.
    pub(super) route_arns: BTreeMap<String, String>,
    /// The weights that are served for the object.
    pub(super) weights: Option<String>,
    /// A replica whose proxies count and that has not reported, if there is one.
    pub(super) silent_replica: Option<String>,
}

/// The ACK counts of an object over all replicas; see [`AckCount`](super::ack_count::AckCount).
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct ProxyCounts {
    pub(super) concerned: usize,
    pub(super) acked: usize,
    pub(super) waiting_since: Option<Timestamp>,
    pub(super) rejections: Vec<(String, String)>,
    pub(super) withheld: WithheldKeys,
}

impl ProxyCounts {
    /// Whether no proxy has NACKed and the oldest unanswered version was committed less than [`ACK_TIME`] ago.
    pub(super) fn may_still_answer(&self, now: Timestamp) -> bool {
        // A negative age, after the clock was set back, does not delay the status.
        let is_recent =
            |since| (SignedDuration::ZERO..ACK_TIME).contains(&now.duration_since(since));
        self.rejections.is_empty() && self.waiting_since.is_some_and(is_recent)
    }
}

/// The new status of an object whose status is `current`; `None` for kinds whose status Evermesh does not write.
/// Conditions of other controllers stay as they are, and `lastTransitionTime` stays while a condition's status does.
pub(super) fn status(kind: Kind, facts: &Facts, current: &Value, now: Timestamp) -> Option<Value> {
    let active = active_condition(kind)?;
    let held: &[Value] = current["conditions"].as_array().map_or(&[], Vec::as_slice);
    let last = |name: &str| held.iter().find(|condition| condition["type"] == name);
    let was_programmed = current["observedGeneration"] == facts.generation
        && last(PROGRAMMED).is_some_and(|last| last["status"] == "True");
    let (accepted, programmed) = (accepted(&facts.problems), programmed(facts, was_programmed));
    let is_everywhere = programmed.reason == ConditionReason::Programmed.as_str();
    let ours = [(active, accepted), (PROGRAMMED, programmed)];
    let mut conditions: Vec<Value> = ours
        .iter()
        .map(|(name, text)| text.condition(name, last(name), now))
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

/// Whether `current` is a status that the App Mesh controller or Evermesh wrote.
pub(super) fn has_status(kind: Kind, current: &Value) -> bool {
    let conditions = current["conditions"].as_array().into_iter().flatten();
    active_condition(kind).is_some_and(|active| {
        let mut types = conditions.map(|condition| &condition["type"]);
        types.any(|name| name == active)
    })
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

/// A condition without its type and time.
struct ConditionText {
    status: &'static str,
    reason: &'static str,
    message: String,
}

impl ConditionText {
    fn new(status: bool, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            status: if status { "True" } else { "False" },
            reason,
            message: shortened(message.into()),
        }
    }

    fn true_because(reason: ConditionReason, message: impl Into<String>) -> Self {
        Self::new(true, reason.as_str(), message)
    }

    fn false_because(reason: ConditionReason, message: impl Into<String>) -> Self {
        Self::new(false, reason.as_str(), message)
    }

    fn condition(&self, name: &str, last: Option<&Value>, now: Timestamp) -> Value {
        let since = last
            .filter(|last| last["status"] == self.status)
            .and_then(|last| last["lastTransitionTime"].as_str());
        json!({
            "type": name,
            "status": self.status,
            "lastTransitionTime": since.map_or_else(|| format_time(now), ToOwned::to_owned),
            "reason": self.reason,
            "message": self.message,
        })
    }
}

fn accepted(problems: &[Problem]) -> ConditionText {
    match first_error(problems) {
        Some(error) => ConditionText::new(false, error.reason.as_str(), sentences(problems)),
        None if problems.is_empty() => {
            ConditionText::true_because(ConditionReason::Accepted, "served as written")
        }
        None => ConditionText::true_because(ConditionReason::Accepted, sentences(problems)),
    }
}

/// The `Programmed` condition. If it was true for this generation, a replica that has not reported does not make it
/// false: the proxies of that replica already had the same versions.
fn programmed(facts: &Facts, was_programmed: bool) -> ConditionText {
    let ProxyCounts {
        concerned,
        acked,
        waiting_since,
        rejections,
        withheld,
    } = &facts.proxies;
    if let Some(error) = first_error(&facts.problems) {
        let message = if facts.is_served {
            "not served as written; the valid parts of the object, or its last good version, are served"
        } else {
            "not served"
        };
        return ConditionText::new(false, error.reason.as_str(), message);
    }
    if let Some((proxy, envoy_message)) = rejections.first() {
        let count = rejections.len();
        let message = format!(
            "{count} of {concerned} proxies rejected the object and keep the version that they accepted before, if there is one; {proxy}: {envoy_message}"
        );
        return ConditionText::false_because(ConditionReason::Rejected, message);
    }
    if let Some((proxy, secret)) = &withheld.example {
        let count = withheld.proxies;
        let message = format!(
            "{count} of {concerned} proxies do not get the private key `{secret}`, because they have not proven their identity or their connection is not encrypted, so connections that need it fail; serve xDS over TLS (xds.tls.secretName) and require tokens (xds.authentication: kubernetes); {proxy}"
        );
        return ConditionText::false_because(ConditionReason::SecretWithheld, message);
    }
    let accepted = format!("{acked}/{concerned} proxies have accepted the object");
    if acked < concerned {
        let since = waiting_since.map_or_else(String::new, |since| {
            format!(", waiting since {}", format_time(since))
        });
        return ConditionText::false_because(ConditionReason::Pending, accepted + &since);
    }
    if let Some(replica) = &facts.silent_replica
        && !was_programmed
    {
        let message = format!(
            "{accepted}; replica {replica}, last seen less than {} s ago, has not reported what its proxies have accepted",
            RECONNECT_TIME.as_secs()
        );
        return ConditionText::false_because(ConditionReason::Pending, message);
    }
    if *concerned == 0 {
        let message = "no connected proxy uses the object";
        return ConditionText::true_because(ConditionReason::NoProxies, message);
    }
    ConditionText::true_because(ConditionReason::Programmed, accepted)
}

/// The `WeightsAcked` condition. Its `lastTransitionTime` is the time at which every proxy had ACKed these weights.
fn weights_acked(
    facts: &Facts,
    is_everywhere: bool,
    last: Option<&Value>,
    now: Timestamp,
) -> Option<Value> {
    let weights = match &facts.weights {
        Some(weights) if is_everywhere => weights,
        Some(_) => return last.cloned(),
        // An object with an error may be missing from the graph: its served weights are unknown.
        None if first_error(&facts.problems).is_some() => return last.cloned(),
        None => return None,
    };
    let text = ConditionText::true_because(ConditionReason::Acked, weights);
    let last = last.filter(|last| last["message"] == *text.message);
    Some(text.condition(WEIGHTS_ACKED, last, now))
}

/// Whether two statuses differ in messages only (counts, mostly) or between the reasons `Programmed` and `NoProxies`.
/// Such a change is written, but not at once.
pub(super) fn differs_in_messages_only(before: &Value, now: &Value) -> bool {
    fn without_messages(status: &Value) -> Value {
        let mut status = status.clone();
        let conditions = status["conditions"].as_array_mut();
        for condition in conditions.into_iter().flatten() {
            if condition["type"] == WEIGHTS_ACKED {
                continue;
            }
            condition["message"].take();
            if condition["reason"] == ConditionReason::NoProxies.as_str() {
                condition["reason"] = ConditionReason::Programmed.as_str().into();
            }
        }
        status
    }
    without_messages(before) == without_messages(now)
}

/// A change that becomes an event, of a condition if nothing else is said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Transition {
    /// Whether the condition became false, rather than true again.
    pub(super) is_warning: bool,
    /// The reason of the condition.
    pub(super) reason: String,
    /// The message of the condition.
    pub(super) message: String,
}

/// The conditions that became false, changed the reason for being false, or became true again. `Pending` is neither: a
/// condition that only waits for ACKs makes no event.
pub(super) fn transitions(before: &Value, now: &Value) -> Vec<Transition> {
    let is_wrong = |condition: &Value| {
        condition["status"] == "False"
            && condition["reason"].as_str() != Some(ConditionReason::Pending.as_str())
    };
    let held: &[Value] = before["conditions"].as_array().map_or(&[], Vec::as_slice);
    let conditions = now["conditions"].as_array().into_iter().flatten();
    let mut transitions: Vec<Transition> = Vec::new();
    for condition in conditions {
        let last = held.iter().find(|last| last["type"] == condition["type"]);
        let was_wrong = last.is_some_and(is_wrong);
        let is_warning = is_wrong(condition);
        let is_transition = match (was_wrong, is_warning) {
            (true, true) => last.is_some_and(|last| last["reason"] != condition["reason"]),
            (false, true) => true,
            (true, false) => condition["status"] == "True",
            (false, false) => false,
        };
        let reason = condition["reason"].as_str().unwrap_or_default();
        // An error makes both conditions false with the same reason: one event is enough.
        if is_transition
            && !transitions
                .iter()
                .any(|it| it.is_warning && it.reason == reason)
        {
            transitions.push(Transition {
                is_warning,
                reason: reason.to_owned(),
                message: condition["message"].as_str().unwrap_or_default().to_owned(),
            });
        }
    }
    transitions
}

fn first_error(problems: &[Problem]) -> Option<&Problem> {
    problems
        .iter()
        .find(|problem| problem.severity == Severity::Error)
}

/// The messages of all problems, errors first.
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
    if message.len() > MAX_MESSAGE {
        message.truncate(message.floor_char_boundary(MAX_MESSAGE));
        message.push('…');
    }
    message
}

/// A time as Kubernetes writes it: RFC 3339 in UTC with whole seconds.
pub(super) fn format_time(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

#[cfg(test)]
mod tests;
