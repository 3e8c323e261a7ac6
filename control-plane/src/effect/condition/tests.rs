use evermesh_model::{FieldPath, ObjectRef, Reason};

use super::*;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).unwrap()
}

fn facts(concerned: usize, acked: usize) -> Facts {
    Facts {
        generation: 2,
        proxies: ProxyCounts {
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

#[test]
fn weights_are_those_that_every_proxy_had() {
    let weighted = |concerned, acked, weights: &str| Facts {
        weights: Some(weights.to_owned()),
        ..facts(concerned, acked)
    };
    let of =
        |facts: &Facts, current: &Value, now| status(Kind::Route, facts, current, at(now)).unwrap();
    let told = |status: &Value| {
        let weights = &status["conditions"][2];
        (
            weights["message"].clone(),
            weights["lastTransitionTime"].clone(),
        )
    };
    let first = of(&weighted(2, 1, "a=1"), &Value::Null, 60);
    assert_eq!(told(&first), (Value::Null, Value::Null));
    let first = of(&weighted(2, 2, "a=1"), &first, 60);
    let since = json!("1970-01-01T00:01:00Z");
    assert_eq!(told(&first), (json!("a=1"), since.clone()));
    let pending = of(&weighted(2, 1, "a=2"), &first, 120);
    assert_eq!(told(&pending), (json!("a=1"), since));
    let second = of(&weighted(2, 2, "a=2"), &pending, 180);
    let since = json!("1970-01-01T00:03:00Z");
    assert_eq!(told(&second), (json!("a=2"), since));
    assert_eq!(of(&weighted(2, 2, "a=2"), &second, 240), second);
}

#[test]
fn counts_can_wait_and_news_cannot() {
    let of = |facts: &Facts| status(Kind::Route, facts, &Value::Null, at(0)).unwrap();
    let differs = |before: &Facts, now: &Facts| differs_in_words_only(&of(before), &of(now));
    assert!(differs(&facts(2, 2), &facts(3, 3)));
    assert!(differs(&facts(3, 1), &facts(3, 2)));
    assert!(differs(&facts(1, 1), &facts(0, 0)));
    assert!(!differs(&facts(2, 1), &facts(2, 2)));
    let refused = Facts {
        proxies: ProxyCounts {
            refusals: vec![(String::new(), String::new())],
            ..facts(2, 1).proxies
        },
        ..facts(2, 1)
    };
    assert!(!differs(&facts(2, 1), &refused));
    let newer = Facts {
        generation: 3,
        ..facts(2, 2)
    };
    assert!(!differs(&facts(2, 2), &newer));
    let weighted = |weights: &str| Facts {
        weights: Some(weights.to_owned()),
        ..facts(1, 1)
    };
    assert!(!differs(&weighted("a=1"), &weighted("a=2")));
}

#[test]
fn what_goes_wrong_and_right_again_is_told_once() {
    let object = ObjectRef::new(Kind::Route, "n", "x");
    let problem = Problem::new(
        &object,
        FieldPath::spec(),
        Reason::ReferenceNotFound,
        "no such node",
    );
    let wrong = Facts {
        problems: vec![problem],
        ..facts(1, 1)
    };
    let of = |facts: &Facts| status(Kind::Route, facts, &Value::Null, at(0)).unwrap();
    let (good, pending, wrong) = (of(&facts(1, 1)), of(&facts(1, 0)), of(&wrong));
    let told = |before: &Value, now: &Value| -> Vec<(bool, String)> {
        let turns = turns(before, now);
        turns
            .into_iter()
            .map(|it| (it.is_warning, it.reason))
            .collect()
    };
    let said = |is_warning, reason: &str| (is_warning, reason.to_owned());
    assert_eq!(told(&Value::Null, &good), []);
    assert_eq!(told(&good, &pending), []);
    assert_eq!(told(&pending, &good), []);
    assert_eq!(told(&good, &wrong), [said(true, "ReferenceNotFound")]);
    assert_eq!(told(&wrong, &wrong), []);
    assert_eq!(
        told(&wrong, &good),
        [said(false, "Accepted"), said(false, "Programmed")]
    );
}
