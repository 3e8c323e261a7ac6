use std::cell::Cell;

use evermesh_model::Kind;

use super::*;

fn object() -> ObjectRef {
    ObjectRef::new(Kind::VirtualNode, "shop", "x")
}

/// A result with this value, and a problem with this message unless it is empty.
fn result(value: Option<u32>, message: &str) -> WithProblems<u32> {
    let object = object();
    let mut problems = Problems::of(&object);
    if !message.is_empty() {
        problems.add(FieldPath::spec(), Reason::InvalidValue, message);
    }
    WithProblems::new(value, problems)
}

#[test]
fn equal_values_and_problems_keep_their_pointers() {
    let mut stage = KeyedStage::<&str, Arc<(u32, &str)>, u32>::default();
    let mut update = |value, message| {
        let input = Arc::new((value, message));
        let mut problems = ProblemLists::new();
        let values = stage.update(
            [(&"key", &input)],
            |_, input| result(Some(input.0), input.1),
            &mut problems,
        );
        (values, problems)
    };
    let (values, problems) = update(1, "a");
    let (same_values, same_problems) = update(1, "a");
    assert!(Arc::ptr_eq(&values, &same_values));
    assert!(problems.fast_eq(&same_problems) && problems.len() == 1);

    let (same_values, other_problems) = update(1, "b");
    assert!(Arc::ptr_eq(&values, &same_values));
    assert_eq!(other_problems[0][0].message, "b");

    let (other_values, same_problems) = update(2, "b");
    assert_eq!(*other_values["key"], 2);
    assert!(other_problems.fast_eq(&same_problems));
    assert_eq!(update(2, "").1, [] as [Arc<[Problem]>; 0]);
}

#[test]
fn removed_key_and_missing_value_leave_the_map() {
    let mut stage = KeyedStage::<&str, Arc<Option<u32>>, u32>::default();
    let mut update = |inputs: &[(&'static str, Option<u32>)]| {
        let inputs: Vec<_> = inputs
            .iter()
            .map(|(key, value)| (*key, Arc::new(*value)))
            .collect();
        let inputs = inputs.iter().map(|(key, value)| (key, value));
        let values = stage.update(inputs, |_, input| result(**input, ""), &mut Vec::new());
        values
            .iter()
            .map(|(key, value)| (*key, **value))
            .collect::<Vec<_>>()
    };
    let both = [("a", Some(1)), ("b", Some(2))];
    assert_eq!(update(&both), [("a", 1), ("b", 2)]);
    assert_eq!(update(&[("a", None), ("b", Some(2))]), [("b", 2)]);
    assert_eq!(update(&both), [("a", 1), ("b", 2)]);
    assert_eq!(update(&both[..1]), [("a", 1)]);
}

#[test]
fn object_is_resolved_again_only_if_its_input_or_lookup_changed() {
    let mut stage = KeyedStage::<&str, (Arc<u32>, Arc<u32>), u32, bool>::default();
    let (looked_up, resolved) = (Cell::new(0), Cell::new(0));
    let mut update = |input: &Arc<u32>, context: &Arc<u32>| {
        let values = stage.update_with_lookup(
            [(&"key", (input, context))],
            |_, context| {
                looked_up.set(looked_up.get() + 1);
                **context > 10
            },
            |input, found| {
                resolved.set(resolved.get() + 1);
                result(Some(if *found { **input } else { 0 }), "")
            },
            &mut Vec::new(),
        );
        (*values["key"], looked_up.take(), resolved.take())
    };
    let (input, context) = (Arc::new(1), Arc::new(11));
    assert_eq!(update(&input, &context), (1, 1, 1));
    assert_eq!(update(&input, &context), (1, 0, 0));
    let equal_for_the_lookup = Arc::new(12);
    assert_eq!(update(&input, &equal_for_the_lookup), (1, 1, 0));
    assert_eq!(update(&input, &Arc::new(10)), (0, 1, 1));
    assert_eq!(update(&Arc::new(2), &Arc::new(11)), (2, 1, 1));
}

#[test]
fn cached_value_is_derived_again_only_from_another_input() {
    let mut cached = CachedValue::<Arc<u32>, u32>::default();
    let derived = Cell::new(0);
    let mut update = |input: &Arc<u32>| {
        let output = cached.update(Arc::clone(input), |input| {
            derived.set(derived.get() + 1);
            **input / 10
        });
        (output, derived.take())
    };
    let input = Arc::new(11);
    let (output, count) = update(&input);
    assert_eq!((*output, count), (1, 1));
    let (same, count) = update(&input);
    assert_eq!((Arc::ptr_eq(&output, &same), count), (true, 0));
    let (equal, count) = update(&Arc::new(12));
    assert_eq!((Arc::ptr_eq(&output, &equal), count), (true, 1));
    let (other, count) = update(&Arc::new(20));
    assert_eq!((*other, count), (2, 1));
}

#[test]
fn outputs_of_a_stage_are_compared_by_pointer() {
    let values: SharedMap<&str, u32> = Arc::new([("a", Arc::new(1))].into());
    let problems = vec![result(None, "a").problems];
    let output = |values: &SharedMap<_, _>, problems: &ProblemLists| StageOutput {
        values: Arc::clone(values),
        problems: problems.clone(),
    };
    let one = output(&values, &problems);
    assert_eq!(one, output(&values, &problems));
    assert_ne!(one, output(&Arc::new((*values).clone()), &problems));
    assert_ne!(one, output(&values, &vec![result(None, "a").problems]));
}

#[test]
fn merged_results_keep_all_values_and_problems() {
    let all = WithProblems::all([result(Some(1), ""), result(None, "a"), result(Some(2), "b")]);
    let messages: Vec<&str> = all.problems.iter().map(|it| &*it.message).collect();
    assert_eq!(messages, ["a", "b"]);
    let values = all.into_value().unwrap();
    assert_eq!(**values, [Arc::new(1), Arc::new(2)]);
}
