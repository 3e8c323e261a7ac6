//! The pods for which the API server calls the webhook.
//!
//! No server answers here, so a pod is rejected if and only if the webhook is called.

use std::collections::BTreeMap;

use evermesh_testkit::{
    chart::{Chart, NAMESPACE},
    kubernetes::ApiServer,
    wait,
};
use serde_json::Value;

use crate::{LIMIT, api_server};

async fn enable_injection(api: &ApiServer, namespace: &str) {
    let label = "appmesh.k8s.aws/sidecarInjectorWebhook=enabled";
    let label = ["label", "namespace", namespace, label];
    api.kubectl(&label).await.unwrap();
}

async fn install_webhooks(api: &ApiServer, chart: &Chart) {
    for object in &chart.objects {
        if object["webhooks"].is_array() {
            api.apply(&object.to_string()).await.unwrap();
        }
    }
}

/// Whether the API server calls the webhook for a pod with these labels (`A=B,…`).
async fn is_called(api: &ApiServer, namespace: &str, labels: &str) -> bool {
    let labels = format!("--labels={labels}");
    let run = ["run", "web", "--image=web", "--dry-run=server", &labels];
    match api.kubectl(&[&run[..], &["-n", namespace]].concat()).await {
        Ok(_) => false,
        Err(error) => {
            let error = format!("{error:#}");
            assert!(error.contains("failed calling webhook"), "{error}");
            true
        }
    }
}

#[tokio::test]
async fn pod_webhook_is_called_for_watched_namespaces_only() {
    let api = api_server().await;
    for namespace in ["a", "b"] {
        api.create_namespace(namespace).await.unwrap();
        enable_injection(&api, namespace).await;
    }
    for (watched, called) in [("[]", [true, true]), (r#"["a"]"#, [true, false])] {
        let set = format!("watchNamespaces={watched}");
        let chart = Chart::render(&["--set-json", &set]).unwrap();
        install_webhooks(&api, &chart).await;
        for (namespace, expected) in ["a", "b"].into_iter().zip(called) {
            let what = format!("the decision about {namespace} while watching {watched}");
            wait::eventually(&what, LIMIT, async || {
                is_called(&api, namespace, "").await == expected
            })
            .await;
        }
    }
}

#[tokio::test]
async fn own_pods_and_those_of_kube_system_are_created_while_nothing_answers() {
    let api = api_server().await;
    let account = ["create", "serviceaccount", "default", "-n", "kube-system"];
    api.kubectl(&account).await.unwrap();
    for namespace in [NAMESPACE, "kube-system"] {
        enable_injection(&api, namespace).await;
    }
    // Another name and further labels do not matter.
    let set = "nameOverride=mesh,podLabels.team=platform,podAnnotations.a=b";
    let chart = Chart::render(&["--set", set]).unwrap();
    install_webhooks(&api, &chart).await;
    let others = "a pod beside Evermesh is rejected";
    wait::eventually(others, LIMIT, async || is_called(&api, NAMESPACE, "").await).await;
    assert!(!is_called(&api, "kube-system", "").await);

    let mut templates = 0;
    for object in &chart.objects {
        let template = &object["spec"]["template"];
        if !template.is_object() {
            continue;
        }
        let metadata = &template["metadata"];
        let labels: BTreeMap<String, String> =
            serde_json::from_value(metadata["labels"].clone()).unwrap();
        let labels: Vec<String> = labels
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        assert!(!is_called(&api, NAMESPACE, &labels.join(",")).await);
        // The webhook of the App Mesh controller leaves the pod alone, too.
        let annotations = &metadata["annotations"];
        let injection = &annotations["appmesh.k8s.aws/sidecarInjectorWebhook"];
        assert_eq!(*injection, Value::from("disabled"));
        assert_eq!(annotations["a"], "b");
        templates += 1;
    }
    assert_eq!(templates, 1);
}
