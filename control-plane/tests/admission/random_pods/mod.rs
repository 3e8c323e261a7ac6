//! Random pods, annotations and settings: whenever the injector allows a pod that the API server accepts, the API server
//! accepts the patched pod as well, and a second patch of it is empty.
//!
//! The API server first fills in its defaults, as it does before it calls the webhook. A failing test prints its input and
//! keeps its seed in `proptest-regressions`. `PROPTEST_CASES` sets the number of pods, and `PROPTEST_RNG_SEED` the seed of
//! all of them.

mod annotations;
mod input;

use std::cell::RefCell;

use evermesh_injector::Decision;
use kube::{
    Api, Client, Error,
    api::{ApiResource, DynamicObject, PostParams},
};
use proptest::{
    prelude::*,
    test_runner::{FileFailurePersistence, RngSeed, TestRunner},
};
use serde_json::{Value, json};

use self::input::{PodInput, pod_input};
use crate::pods::{api_server, injection::Case};

/// Number of pods by what became of them.
#[derive(Debug, Default, Clone, Copy)]
struct Outcomes {
    /// Refused by the API server without a patch.
    invalid: u32,
    /// Refused by the injector.
    rejected: u32,
    /// Left alone by the injector.
    skipped: u32,
    /// Patched, and accepted by the API server.
    accepted: u32,
}

impl Outcomes {
    fn total(self) -> u32 {
        self.invalid + self.rejected + self.skipped + self.accepted
    }
}

/// The namespace of the API server without Pod Security, which is policy.
const NAMESPACE: &str = "privileged";

/// Creates a pod as a dry run and returns it as the API server would store it.
async fn create(client: &Client, pod: &Value) -> Result<Value, String> {
    let mut pod = pod.clone();
    pod["metadata"]["namespace"] = NAMESPACE.into();
    let resource = ApiResource::erase::<k8s_openapi::api::core::v1::Pod>(&());
    let pods: Api<DynamicObject> = Api::namespaced_with(client.clone(), NAMESPACE, &resource);
    let dry = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    let pod: DynamicObject = serde_json::from_value(pod).unwrap();
    match pods.create(&dry, &pod).await {
        Ok(created) => {
            let mut created = json!(created);
            created.as_object_mut().unwrap().remove("status");
            let metadata = created["metadata"].as_object_mut().unwrap();
            for field in ["uid", "creationTimestamp", "managedFields", "name"] {
                metadata.remove(field);
            }
            metadata.insert("namespace".to_owned(), "shop".into());
            Ok(created)
        }
        Err(Error::Api(status)) => Err(status.message.clone()),
        Err(error) => panic!("the API server does not answer: {error}"),
    }
}

async fn judge(client: &Client, input: &PodInput) -> Result<Outcomes, TestCaseError> {
    let mut outcomes = Outcomes::default();
    let Ok(pod) = create(client, &input.pod).await else {
        outcomes.invalid += 1;
        return Ok(outcomes);
    };
    let mut case = Case::read(&input.surroundings);
    case.pod = pod;
    let message = match case.decide() {
        Decision::Inject(_) => match case.patch(&case.pod).unwrap() {
            Ok(made) => {
                let mut patched = case.pod.clone();
                json_patch::patch(&mut patched, &made.patch).unwrap();
                let stored = create(client, &patched).await;
                let stored = stored.map_err(TestCaseError::fail)?;
                let again = case.patch(&stored).unwrap();
                let again = again.map_err(|error| TestCaseError::fail(error.to_string()))?;
                prop_assert!(again.patch.0.is_empty(), "{}", json!(again.patch));
                outcomes.accepted += 1;
                return Ok(outcomes);
            }
            Err(error) => error.to_string(),
        },
        Decision::Reject(rejected) => rejected.message,
        Decision::Skip(_) => {
            outcomes.skipped += 1;
            return Ok(outcomes);
        }
        Decision::Unready(message) => {
            return Err(TestCaseError::fail(message));
        }
    };
    prop_assert!(message.contains('`'), "names nothing: {message}");
    outcomes.rejected += 1;
    Ok(outcomes)
}

#[test]
fn patched_pod_is_accepted_whenever_the_pod_is() {
    let mut config = ProptestConfig {
        failure_persistence: Some(Box::new(FileFailurePersistence::WithSource(
            "proptest-regressions",
        ))),
        source_file: Some(file!()),
        ..ProptestConfig::default()
    };
    if config.rng_seed == RngSeed::Random {
        config.rng_seed = RngSeed::Fixed(fastrand::u64(..));
    }
    println!("PROPTEST_RNG_SEED={}", config.rng_seed);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (_api, client) = runtime.block_on(api_server());
    let sum = RefCell::new(Outcomes::default());
    let result = TestRunner::new(config).run(&pod_input(), |input| {
        let one = runtime.block_on(judge(&client, &input))?;
        let mut sum = sum.borrow_mut();
        sum.invalid += one.invalid;
        sum.rejected += one.rejected;
        sum.skipped += one.skipped;
        sum.accepted += one.accepted;
        Ok(())
    });
    let sum = sum.into_inner();
    println!("{sum:?}");
    if let Err(error) = result {
        panic!("{error}");
    }
    // Enough of the pods reach the API server a second time.
    assert!(sum.accepted * 5 > sum.total(), "{sum:?}");
    assert!(sum.rejected * 20 > sum.total(), "{sum:?}");
}
