use serde_json::json;

use super::*;

/// The violations of a value and what pruning leaves of it.
fn check_value(schema: Value, mut value: Value) -> (Vec<String>, Value) {
    let schema: JSONSchemaProps = serde_json::from_value(schema).unwrap();
    let violations = check(&schema, &mut value, &FieldPath::root().field("it"));
    let violations = violations.into_iter().map(|violation| {
        let SchemaViolation { field, message, .. } = violation;
        format!("{field}: {message}")
    });
    (violations.collect(), value)
}

fn violations(schema: &Value, value: Value) -> Vec<String> {
    check_value(schema.clone(), value).0
}

#[test]
fn bounds_belong_to_the_valid_values() {
    let number = json!({ "type": "integer", "minimum": 2.0, "maximum": 4.0 });
    let text = json!({ "type": "string", "minLength": 2, "maxLength": 4 });
    let list = json!({
        "type": "array", "minItems": 2, "maxItems": 4, "items": { "type": "integer" },
    });
    for (size, number_fault, size_fault) in [
        (1_u8, "at least 2, not 1", "at least 2 UNIT, not 1"),
        (2, "", ""),
        (4, "", ""),
        (5, "at most 4, not 5", "at most 4 UNIT, not 5"),
    ] {
        let expected = |verb: &str, fault: &str| {
            let faults = [fault].into_iter().filter(|fault| !fault.is_empty());
            faults
                .map(|fault| format!("it: must {verb} {fault}"))
                .collect::<Vec<_>>()
        };
        assert_eq!(
            violations(&number, json!(size)),
            expected("be", number_fault)
        );
        assert_eq!(
            violations(&text, json!("ä".repeat(size.into()))),
            expected("have", &size_fault.replace("UNIT", "characters"))
        );
        assert_eq!(
            violations(&list, json!(vec![1; size.into()])),
            expected("have", &size_fault.replace("UNIT", "items"))
        );
    }
}

#[test]
fn floats_are_integers_up_to_the_limit_of_their_precision() {
    let schema = json!({ "type": "integer" });
    let exact = 9_007_199_254_740_992_i64;
    for (value, expected) in [
        (json!(7.0), Some(7)),
        (json!(-7.0), Some(-7)),
        (json!(9_007_199_254_740_992.0), Some(exact)),
        (json!(-9_007_199_254_740_992.0), Some(-exact)),
        (json!(9_007_199_254_740_994.0), None),
        (json!(-9_007_199_254_740_994.0), None),
        (json!(0.5), None),
        (json!(i64::MIN), Some(i64::MIN)),
        (json!(i64::MAX), Some(i64::MAX)),
        (json!(i64::MAX.unsigned_abs() + 1), None),
    ] {
        let (violations, kept) = check_value(schema.clone(), value.clone());
        assert_eq!(violations.is_empty(), expected.is_some(), "{value}");
        assert_eq!(kept, expected.map_or(value, Value::from));
    }
}

#[test]
fn violations_describe_values_of_every_type() {
    for (expected, value, message) in [
        ("object", json!(null), "must be an object, not null"),
        ("array", json!({}), "must be a list, not an object"),
        ("string", json!([]), "must be a string, not a list"),
        (
            "boolean",
            json!("a`\n"),
            "must be true or false, not the string `a`\\n`",
        ),
        (
            "integer",
            json!(false),
            "must be a 64-bit integer, not false",
        ),
        ("number", json!(1), "must be number, not the number 1"),
    ] {
        let violations = violations(&json!({ "type": expected }), value);
        assert_eq!(violations, [format!("it: {message}")]);
    }
}
