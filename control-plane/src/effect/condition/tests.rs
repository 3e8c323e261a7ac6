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
            ..ProxyCounts::default()
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
fn status_has_every_field_of_its_kind() {
    for (kind, active, arn) in [
        (Kind::Mesh, "MeshActive", "meshARN"),
        (Kind::VirtualNode, "VirtualNodeActive", "virtualNodeARN"),
        (
            Kind::VirtualService,
            "VirtualServiceActive",
            "virtualServiceARN",
        ),
        (
            Kind::VirtualRouter,
            "VirtualRouterActive",
            "virtualRouterARN",
        ),
        (
            Kind::VirtualGateway,
            "VirtualGatewayActive",
            "virtualGatewayARN",
        ),
        (Kind::GatewayRoute, "GatewayRouteActive", "gatewayRouteARN"),
        (Kind::Route, "RouteActive", ""),
    ] {
        let mut facts = facts(2, 2);
        let condition = |name: &str, reason: &str, message: &str| {
            json!({
                "type": name,
                "status": "True",
                "lastTransitionTime": "1970-01-01T00:00:09Z",
                "reason": reason,
                "message": message,
            })
        };
        let accepted = condition(active, "Accepted", "served as written");
        let message = "2/2 proxies have accepted the object";
        let programmed = condition("Programmed", "Programmed", message);
        let mut expected = json!({ "conditions": [accepted, programmed], "observedGeneration": 2 });
        if !arn.is_empty() {
            expected[arn] = "arn".into();
        }
        if kind == Kind::VirtualRouter {
            facts.route_arns = [("all".to_owned(), "arn/route/all".to_owned())].into();
            expected["routeARNs"] = json!({ "all": "arn/route/all" });
        }
        let status = status(kind, &facts, &Value::Null, at(9));
        assert_eq!(status, Some(expected), "{kind}");
    }
    let group = status(Kind::BackendGroup, &facts(2, 2), &Value::Null, at(9));
    assert_eq!(group, None);
}

#[test]
fn programmed_is_true_when_every_proxy_concerned_has_acked() {
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
        "3/5 proxies have accepted the object, waiting since 1970-01-01T00:01:00Z"
    );
}

#[test]
fn rejection_carries_envoys_message() {
    let mut facts = facts(2, 1);
    facts.proxies.rejections = vec![(
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
fn withheld_key_names_the_secret_and_a_proxy() {
    let mut facts = facts(3, 1);
    let example = ("mesh/m/virtualNode/a".to_owned(), "secret/n/s".to_owned());
    for replica in [1, 1] {
        facts.proxies.withheld.add(&WithheldKeys {
            proxies: replica,
            example: Some(example.clone()),
        });
    }
    let condition = programmed(&facts, &Value::Null, 0);
    assert_eq!(condition["status"], "False");
    assert_eq!(condition["reason"], "SecretWithheld");
    let message = condition["message"].as_str().unwrap();
    assert!(
        message.starts_with("2 of 3 proxies do not get the private key `secret/n/s`")
            && message.ends_with("; mesh/m/virtualNode/a"),
        "{message}"
    );
}

#[test]
fn error_makes_both_conditions_false() {
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
fn error_of_an_object_that_was_never_valid_promises_no_earlier_version() {
    let object = ObjectRef::new(Kind::VirtualNode, "n", "x");
    let problem = Problem::new(
        &object,
        FieldPath::spec(),
        Reason::InvalidValue,
        "wrong type",
    );
    let message = |is_served| {
        let facts = Facts {
            problems: vec![problem.clone()],
            is_served,
            ..facts(0, 0)
        };
        programmed(&facts, &Value::Null, 0)["message"].clone()
    };
    assert_eq!(message(false), "not served");
    assert_eq!(
        message(true),
        "not served as written; the valid parts of the object, or its last good version, are served"
    );
}

#[test]
fn last_transition_time_changes_only_with_the_status() {
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
fn conditions_of_other_controllers_stay() {
    let current = json!({"conditions": [{"type": "Theirs", "status": "True"}]});
    let status = status(Kind::Mesh, &facts(0, 0), &current, at(0)).unwrap();
    assert_eq!(status["conditions"][2], current["conditions"][0]);
}

#[test]
fn acked_weights_stay_until_every_proxy_has_acked_newer_ones() {
    let weighted = |concerned, acked, weights: &str| Facts {
        weights: Some(weights.to_owned()),
        ..facts(concerned, acked)
    };
    let of =
        |facts: &Facts, current: &Value, now| status(Kind::Route, facts, current, at(now)).unwrap();
    let acked = |status: &Value| {
        let weights = &status["conditions"][2];
        (
            weights["message"].clone(),
            weights["lastTransitionTime"].clone(),
        )
    };
    let first = of(&weighted(2, 1, "a=1"), &Value::Null, 60);
    assert_eq!(acked(&first), (Value::Null, Value::Null));
    let first = of(&weighted(2, 2, "a=1"), &first, 60);
    let since = json!("1970-01-01T00:01:00Z");
    assert_eq!(acked(&first), (json!("a=1"), since.clone()));
    let pending = of(&weighted(2, 1, "a=2"), &first, 120);
    assert_eq!(acked(&pending), (json!("a=1"), since));
    let second = of(&weighted(2, 2, "a=2"), &pending, 180);
    let since = json!("1970-01-01T00:03:00Z");
    assert_eq!(acked(&second), (json!("a=2"), since));
    assert_eq!(of(&weighted(2, 2, "a=2"), &second, 240), second);
}

#[test]
fn only_changes_of_counts_are_deferred() {
    let of = |facts: &Facts| status(Kind::Route, facts, &Value::Null, at(0)).unwrap();
    let differs = |before: &Facts, now: &Facts| differs_in_messages_only(&of(before), &of(now));
    assert!(differs(&facts(2, 2), &facts(3, 3)));
    assert!(differs(&facts(3, 1), &facts(3, 2)));
    assert!(differs(&facts(1, 1), &facts(0, 0)));
    assert!(!differs(&facts(2, 1), &facts(2, 2)));
    let rejected = Facts {
        proxies: ProxyCounts {
            rejections: vec![(String::new(), String::new())],
            ..facts(2, 1).proxies
        },
        ..facts(2, 1)
    };
    assert!(!differs(&facts(2, 1), &rejected));
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
fn each_transition_is_reported_once() {
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
    let reported = |before: &Value, now: &Value| -> Vec<(bool, String)> {
        transitions(before, now)
            .into_iter()
            .map(|it| (it.is_warning, it.reason))
            .collect()
    };
    let transition = |is_warning, reason: &str| (is_warning, reason.to_owned());
    assert_eq!(reported(&Value::Null, &good), []);
    assert_eq!(reported(&good, &pending), []);
    assert_eq!(reported(&pending, &good), []);
    assert_eq!(
        reported(&good, &wrong),
        [transition(true, "ReferenceNotFound")]
    );
    assert_eq!(reported(&wrong, &wrong), []);
    assert_eq!(
        reported(&wrong, &good),
        [
            transition(false, "Accepted"),
            transition(false, "Programmed")
        ]
    );
}
