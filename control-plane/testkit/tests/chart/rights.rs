//! The rights of the service account: [`RIGHTS`] names the code that needs each of them.

use std::{collections::BTreeSet, fs};

use evermesh_testkit::{
    chart::{Chart, NAMESPACE},
    tools, wait,
};
use serde_json::Value;

use crate::{LIMIT, api_server, render};

/// The installations that need a right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Needed {
    Always,
    /// All but those beside the App Mesh controller.
    Writing,
    /// Installations that write, without cert-manager.
    OwnCertificate,
    /// Installations with `cloudMap.registration`.
    Registering,
    /// Installations in which pods authenticate with tokens.
    ReviewingTokens,
    /// Installations with `secretNamespaces`.
    ReadingSecrets,
}

/// A row of [`RIGHTS`].
struct Right {
    needed: Needed,
    /// Resources with their group, as in `meshes.appmesh.k8s.aws`; with a name, if the right is limited to one object.
    resources: &'static [&'static str],
    verbs: &'static [&'static str],
    reason: &'static str,
    /// The file that makes these requests, below `control-plane/src`, and words in it.
    code: (&'static str, &'static str),
}

const OBJECTS: [&str; 7] = [
    "backendgroups.appmesh.k8s.aws",
    "gatewayroutes.appmesh.k8s.aws",
    "meshes.appmesh.k8s.aws",
    "virtualgateways.appmesh.k8s.aws",
    "virtualnodes.appmesh.k8s.aws",
    "virtualrouters.appmesh.k8s.aws",
    "virtualservices.appmesh.k8s.aws",
];

const STATUSES: [&str; 8] = [
    "backendgroups/status.appmesh.k8s.aws",
    "gatewayroutes/status.appmesh.k8s.aws",
    "meshes/status.appmesh.k8s.aws",
    "routes/status.evermesh.dev",
    "virtualgateways/status.appmesh.k8s.aws",
    "virtualnodes/status.appmesh.k8s.aws",
    "virtualrouters/status.appmesh.k8s.aws",
    "virtualservices/status.appmesh.k8s.aws",
];

const CONFIGURATIONS: [&str; 2] = [
    "mutatingwebhookconfigurations.admissionregistration.k8s.io/appmesh-controller-mutating-webhook-configuration",
    "validatingwebhookconfigurations.admissionregistration.k8s.io/appmesh-controller-validating-webhook-configuration",
];

const RIGHTS: [Right; 17] = [
    Right {
        needed: Needed::Always,
        resources: &OBJECTS,
        verbs: &["list", "watch"],
        reason: "reads the mesh",
        code: ("source/kubernetes/mod.rs", "watcher(api, config)"),
    },
    Right {
        needed: Needed::Always,
        resources: &["routes.evermesh.dev"],
        verbs: &["list", "watch"],
        reason: "reads the routes of teams",
        code: ("source/kubernetes/mod.rs", "watcher(api, config)"),
    },
    Right {
        needed: Needed::Always,
        resources: &["namespaces", "pods"],
        verbs: &["list", "watch"],
        reason: "selects the members of a mesh and of a node",
        code: ("source/kubernetes/mod.rs", "watcher(api, config)"),
    },
    Right {
        needed: Needed::Always,
        resources: &["nodes"],
        verbs: &["list", "watch"],
        reason: "reads the zones of endpoints",
        code: ("source/kubernetes/mod.rs", "watcher(api, config)"),
    },
    Right {
        needed: Needed::Always,
        resources: &["endpointslices.discovery.k8s.io", "services"],
        verbs: &["list", "watch"],
        reason: "reads virtual IPs, and endpoints, which the annotation of a Mesh can turn on",
        code: ("source/kubernetes/mod.rs", "watcher(api, config)"),
    },
    Right {
        needed: Needed::ReviewingTokens,
        resources: &["tokenreviews.authentication.k8s.io"],
        verbs: &["create"],
        reason: "checks the tokens of proxies",
        code: ("auth/review.rs", "api.create(&options, &review)"),
    },
    Right {
        needed: Needed::Writing,
        resources: &OBJECTS,
        verbs: &["patch"],
        reason: "removes finalizers of the App Mesh controller",
        code: ("effect/write.rs", "api.patch(name"),
    },
    Right {
        needed: Needed::Writing,
        resources: &STATUSES,
        verbs: &["patch"],
        reason: "writes conditions",
        code: ("effect/write.rs", ".patch_status(name"),
    },
    Right {
        needed: Needed::Writing,
        resources: &["events.events.k8s.io"],
        verbs: &["create", "patch"],
        reason: "records transitions of conditions and decisions about pods; a repeated event is patched",
        code: ("event.rs", "recorder.publish"),
    },
    Right {
        needed: Needed::Writing,
        resources: &["leases.coordination.k8s.io"],
        verbs: &["create"],
        reason: "makes the Lease of the first leader",
        code: ("effect/lease.rs", "self.api.create"),
    },
    Right {
        needed: Needed::Writing,
        resources: &["leases.coordination.k8s.io/evermesh"],
        verbs: &["get", "update"],
        reason: "renews or takes the Lease",
        code: ("effect/lease.rs", ".replace(name, &PostParams"),
    },
    Right {
        needed: Needed::Registering,
        resources: &["pods/status"],
        verbs: &["patch"],
        reason: "opens the readiness gate of a registered pod",
        code: ("effect/registration/objects.rs", "api.patch_status(name"),
    },
    Right {
        needed: Needed::OwnCertificate,
        resources: &["secrets/evermesh-webhook"],
        verbs: &["get", "list", "watch"],
        reason: "shares the certificate between replicas",
        code: ("webhook/secret.rs", "watch_object(api.clone(), name)"),
    },
    Right {
        needed: Needed::OwnCertificate,
        resources: &["secrets/evermesh-webhook"],
        verbs: &["update"],
        reason: "renews the certificate",
        code: ("webhook/secret.rs", "api.replace(&self.reference.name"),
    },
    Right {
        needed: Needed::OwnCertificate,
        resources: &CONFIGURATIONS,
        verbs: &["get", "list", "watch"],
        reason: "notices a configuration without the authority",
        code: ("webhook/bundle.rs", "watch_object(self.api.clone()"),
    },
    Right {
        needed: Needed::OwnCertificate,
        resources: &CONFIGURATIONS,
        verbs: &["patch"],
        reason: "writes the authority",
        code: ("webhook/bundle.rs", ".patch(&self.name"),
    },
    Right {
        needed: Needed::ReadingSecrets,
        resources: &["secrets"],
        verbs: &["list", "watch"],
        reason: "reads the Secrets that replace ACM certificates",
        code: ("source/kubernetes/mod.rs", "labels(SECRET_LABEL)"),
    },
];

/// Each verb that the roles of the service account grant with these values, as `VERB RESOURCE`.
fn granted(values: &str) -> BTreeSet<String> {
    let chart = Chart::render(&["--set", values]).unwrap();
    let mut granted = BTreeSet::new();
    let roles = chart.objects.iter().filter(|object| {
        let labels = object["metadata"]["labels"].to_string();
        // Roles with these labels are for people.
        object["rules"].is_array() && !labels.contains("aggregate-to")
    });
    for rule in roles.flat_map(|role| role["rules"].as_array().unwrap()) {
        for right in rights_of(rule) {
            assert!(!granted.contains(&right), "{right} is granted twice");
            granted.insert(right);
        }
    }
    granted
}

fn rights_of(rule: &Value) -> Vec<String> {
    let list = |field: &str| -> Vec<String> {
        serde_json::from_value(rule[field].clone()).unwrap_or_default()
    };
    let [group] = &list("apiGroups")[..] else {
        panic!("a rule with several groups: {rule}")
    };
    let name = match &list("resourceNames")[..] {
        [] => String::new(),
        [name] => format!("/{name}"),
        _ => panic!("a rule with several names: {rule}"),
    };
    let mut rights = Vec::new();
    for resource in list("resources") {
        let resource = format!("{resource}.{group}");
        let resource = resource.trim_end_matches('.');
        for verb in list("verbs") {
            rights.push(format!("{verb} {resource}{name}"));
        }
    }
    rights
}

#[test]
fn every_right_is_needed_by_the_code() {
    use Needed::{Always, OwnCertificate, ReadingSecrets, Registering, ReviewingTokens, Writing};

    const DEFAULT: [Needed; 4] = [Always, Writing, OwnCertificate, ReviewingTokens];
    for (values, needed) in [
        ("", &DEFAULT[..]),
        (
            "cloudMap.registration=true,secretNamespaces={certificates}",
            &[&DEFAULT[..], &[Registering, ReadingSecrets]].concat(),
        ),
        (
            "certManager.enabled=true",
            &[Always, Writing, ReviewingTokens],
        ),
        (
            "xds.authentication=certificate,xds.tls.secretName=xds,injection.enabled=false",
            &[Always, Writing, OwnCertificate],
        ),
        (
            "beside=true,cloudMap.registration=true,enableCertManager=true,xds.tls.enabled=false",
            &[Always, ReviewingTokens],
        ),
    ] {
        let mut expected = BTreeSet::new();
        for right in RIGHTS.iter().filter(|it| needed.contains(&it.needed)) {
            for resource in right.resources {
                let verbs = right.verbs.iter();
                expected.extend(verbs.map(|verb| format!("{verb} {resource}")));
            }
        }
        assert_eq!(granted(values), expected, "with {values}");
    }
}

#[test]
fn table_of_rights_names_existing_code() {
    let source = tools::workspace().unwrap().join("control-plane/src");
    for right in RIGHTS {
        let (file, words) = right.code;
        let what = format!("{:?} {:?}: {}", right.verbs, right.resources, right.reason);
        let code = fs::read_to_string(source.join(file)).unwrap();
        assert!(code.contains(words), "{what}: {file} lacks {words}");
    }
}

/// The roles view, edit and admin.
#[test]
fn aggregated_roles_cannot_write_meshes() {
    let chart = Chart::render(&[]).unwrap();
    let roles = chart.objects.iter().filter(|object| {
        let labels = object["metadata"]["labels"].to_string();
        object["rules"].is_array() && labels.contains("aggregate-to")
    });
    let rights: Vec<String> = roles
        .flat_map(|role| role["rules"].as_array().unwrap())
        .flat_map(rights_of)
        .collect();
    let of_meshes = rights.iter().filter(|it| it.contains(" meshes."));
    let verbs: Vec<&str> = of_meshes.filter_map(|it| it.split(' ').next()).collect();
    assert_eq!(verbs, ["get", "list", "watch"]);
    assert!(rights.contains(&"delete virtualnodes.appmesh.k8s.aws".to_owned()));
    assert!(!rights.iter().any(|it| it.contains("status")));
}

/// The API server's opinion of the rules.
#[tokio::test]
async fn service_account_has_the_rights_that_it_needs_and_no_others() {
    let api = api_server().await;
    api.create_namespace("certificates").await.unwrap();
    let set = ["--set", "secretNamespaces={certificates}"];
    api.apply(&render(&set)).await.unwrap();
    let account = format!("--as=system:serviceaccount:{NAMESPACE}:evermesh");
    for (question, expected) in [
        ("list meshes.appmesh.k8s.aws", true),
        ("watch backendgroups.appmesh.k8s.aws -A", true),
        ("patch virtualnodes.appmesh.k8s.aws -A", true),
        (
            "patch virtualnodes.appmesh.k8s.aws -A --subresource=status",
            true,
        ),
        ("patch routes.evermesh.dev -A --subresource=status", true),
        ("watch routes.evermesh.dev -A", true),
        ("watch endpointslices.discovery.k8s.io -A", true),
        ("list nodes", true),
        ("create events.events.k8s.io -A", true),
        ("create tokenreviews.authentication.k8s.io", true),
        (
            "update leases.coordination.k8s.io/evermesh -n appmesh-system",
            true,
        ),
        ("get secrets/evermesh-webhook -n appmesh-system", true),
        ("list secrets -n certificates", true),
        ("watch secrets -n certificates", true),
        (
            "patch mutatingwebhookconfigurations/appmesh-controller-mutating-webhook-configuration",
            true,
        ),
        ("delete virtualnodes.appmesh.k8s.aws -A", false),
        ("update virtualnodes.appmesh.k8s.aws -A", false),
        ("patch routes.evermesh.dev -A", false),
        ("get virtualnodes.appmesh.k8s.aws -A", false),
        ("patch pods -A", false),
        ("patch pods -A --subresource=status", false),
        ("create events -A", false),
        ("create subjectaccessreviews.authorization.k8s.io", false),
        ("create secrets -n appmesh-system", false),
        ("get secrets/other -n appmesh-system", false),
        ("get secrets/evermesh-webhook -n default", false),
        ("create secrets -n default", false),
        ("list secrets -n default", false),
        ("list secrets -n appmesh-system", false),
        ("get secrets/other -n certificates", false),
        ("update secrets/other -n certificates", false),
        (
            "update leases.coordination.k8s.io/other -n appmesh-system",
            false,
        ),
        (
            "update leases.coordination.k8s.io/evermesh -n default",
            false,
        ),
        ("patch mutatingwebhookconfigurations/other", false),
    ] {
        let mut arguments = vec!["auth", "can-i", &account];
        arguments.extend(question.split(' '));
        // kubectl exits with code 1 for "no".
        let answer = async || {
            let mut kubectl = api.kubectl_command().unwrap();
            let output = kubectl.args(&arguments).output().await.unwrap();
            String::from_utf8_lossy(&output.stdout).trim().to_owned()
        };
        // New rights take effect after a moment. All rights are granted before the first denied one is checked.
        if expected {
            wait::eventually(question, LIMIT, async || answer().await == "yes").await;
        } else {
            assert_eq!(answer().await, "no", "{question}");
        }
    }
}
