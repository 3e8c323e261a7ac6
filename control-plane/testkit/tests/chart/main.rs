//! The Helm chart: the API server accepts its objects, the service account has the rights that it needs and no others,
//! and values of the chart appmesh-controller are understood.
#![allow(clippy::unwrap_used)] // a panic fails the test

mod pod_webhook;
mod rights;

use std::{fs, process::Command, time::Duration};

use evermesh_testkit::{
    chart::{self, Chart, NAMESPACE, appmesh_controller_values},
    kubernetes::ApiServer,
    process, tools,
};
use serde_json::{Value, json};

/// Limit for roles and webhook configurations to take effect.
const LIMIT: Duration = Duration::from_secs(30);

/// The CRDs of cert-manager, without their schemas.
const CERT_MANAGER: &str = "
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: issuers.cert-manager.io}
spec:
  group: cert-manager.io
  names: {kind: Issuer, plural: issuers}
  scope: Namespaced
  versions:
  - name: v1
    served: true
    storage: true
    schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: certificates.cert-manager.io}
spec:
  group: cert-manager.io
  names: {kind: Certificate, plural: certificates}
  scope: Namespaced
  versions:
  - name: v1
    served: true
    storage: true
    schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
";

fn helm(action: &[&str], arguments: &[&str]) -> Command {
    chart::helm(action, arguments).unwrap()
}

fn render(arguments: &[&str]) -> String {
    chart::render(arguments).unwrap()
}

/// An API server with the namespace and all CRDs that the chart needs.
async fn api_server() -> ApiServer {
    let api = ApiServer::start().await.unwrap();
    api.create_namespace(NAMESPACE).await.unwrap();
    api.apply_path(&chart::path().unwrap().join("crds"))
        .await
        .unwrap();
    api.apply(CERT_MANAGER).await.unwrap();
    api.wait_for_crds().await.unwrap();
    api
}

#[test]
fn helm_lint_reports_nothing() {
    let version = ["--strict", "--kube-version", "1.36.0"];
    for values in [None, Some(appmesh_controller_values())] {
        let mut lint = helm(&["lint"], &version);
        if let Some(values) = values {
            lint.arg("--values").arg(values);
        }
        process::run(&mut lint).unwrap();
    }
}

#[test]
fn misspelt_value_is_rejected() {
    let error = process::run(&mut helm(
        &["template", "evermesh"],
        &["--kube-version", "1.36.0", "--set", "webhook.timeout=3"],
    ))
    .unwrap_err();
    assert!(error.to_string().contains("timeout"), "{error}");
}

#[test]
fn images_are_pinned_by_digests() {
    let digest = |digit: &str| format!("sha256:{}", digit.repeat(64));
    let images = [
        ("image", "a"),
        ("sidecar.image", "b"),
        ("init.image", "c"),
        ("xray.image", "d"),
    ];
    let values = images.map(|(image, digit)| format!("{image}.digest={}", digest(digit)));
    let values = format!("{},tracing.enabled=true", values.join(","));
    let rendered = render(&["--set", &values]);
    for (expected, digit) in [
        ("image: \"evermesh:0.1.0@", "a"),
        ("--sidecar-image-tag=distroless-v1.40.0@", "b"),
        ("--init-image=evermesh-proxy-init:0.1.0@", "c"),
        (
            "--xray-image=public.ecr.aws/xray/aws-xray-daemon:latest@",
            "d",
        ),
    ] {
        let expected = format!("{expected}{}\"\n", digest(digit));
        assert!(rendered.contains(&expected), "{expected} in:\n{rendered}");
    }
    assert!(!render(&[]).contains("@sha256"));
    let error = chart::render(&["--set", "sidecar.image.digest=latest"]).unwrap_err();
    assert!(error.to_string().contains("digest"), "{error}");
}

#[test]
fn proxies_need_credentials_unless_the_mesh_migrates() {
    assert!(render(&[]).contains("--xds-authentication=kubernetes\n"));
    for mode in ["none", "kubernetes-permissive"] {
        let set = format!("xds.authentication={mode}");
        let error = chart::render(&["--set", &set]).unwrap_err().to_string();
        assert!(error.contains("needs migration=true"), "{error}");
        let set = format!("{set},migration=true");
        let argument = format!("--xds-authentication={mode}\n");
        assert!(render(&["--set", &set]).contains(&argument));
    }
}

#[test]
fn network_policy_lets_only_replicas_read_metrics() {
    let ports_and_peers = |arguments: &[&str]| -> Vec<(Value, Value)> {
        let chart = Chart::render(arguments).unwrap();
        let policies = chart.objects.iter();
        let policies = policies.filter(|object| object["kind"] == "NetworkPolicy");
        let rules = policies.flat_map(|policy| policy["spec"]["ingress"].as_array().unwrap());
        rules
            .map(|rule| (rule["ports"][0]["port"].clone(), rule["from"].clone()))
            .collect()
    };
    let replicas = json!([{"podSelector": {"matchLabels": {
        "app.kubernetes.io/name": "evermesh",
        "app.kubernetes.io/instance": "evermesh",
    }}}]);
    let all = Value::Null;
    assert_eq!(
        ports_and_peers(&[]),
        [
            (json!("xds"), all.clone()),
            (json!("webhook"), all),
            (json!("metrics"), replicas.clone()),
        ]
    );
    let peers = json!([{"namespaceSelector": {"matchLabels": {"team": "a"}}}]);
    let [xds, webhook, metrics] =
        ["xds", "webhook", "metrics"].map(|port| format!("networkPolicy.{port}From={peers}"));
    let limited = ports_and_peers(&[
        "--set-json",
        &xds,
        "--set-json",
        &webhook,
        "--set-json",
        &metrics,
    ]);
    assert_eq!(
        limited,
        [
            (json!("xds"), peers.clone()),
            (json!("webhook"), peers.clone()),
            (json!("metrics"), json!([replicas[0], peers[0]])),
        ]
    );
    assert_eq!(
        ports_and_peers(&["--set", "networkPolicy.enabled=false"]),
        []
    );
}

#[test]
fn sidecars_trust_the_secret_that_xds_is_served_with() {
    const ARGUMENT: &str = "--sidecar-xds-ca=/etc/evermesh/xds/";
    let tls = render(&["--set", "xds.tls.secretName=xds"]);
    assert!(tls.contains(&format!("{ARGUMENT}ca.crt\"")), "{tls}");
    assert!(tls.contains("mountPath: /etc/evermesh/xds\n"), "{tls}");
    let other = ["--set", "xds.tls.secretName=xds,sidecar.xdsCA=roots.pem"];
    assert!(render(&other).contains(&format!("{ARGUMENT}roots.pem\"")));
}

#[test]
fn xds_is_encrypted_with_the_certificate_of_the_webhooks() {
    let arguments = |values: &str| -> Vec<String> {
        let chart = Chart::render(&["--set", values]).unwrap();
        let all = chart.arguments().unwrap().into_iter();
        all.filter(|it| it.contains("xds-tls") || it.contains("xds-ca"))
            .collect()
    };
    let own = "--xds-tls-service=appmesh-system/evermesh-xds";
    assert_eq!(arguments(""), [own]);
    assert_eq!(arguments("injection.enabled=false"), [own]);
    assert_eq!(
        arguments("certManager.enabled=true"),
        [
            "--xds-tls-cert=/etc/evermesh/webhook/tls.crt",
            "--xds-tls-key=/etc/evermesh/webhook/tls.key",
            "--sidecar-xds-ca=/etc/evermesh/webhook/ca.crt",
        ]
    );
    let plaintext: [&str; 0] = [];
    assert_eq!(arguments("xds.tls.enabled=false"), plaintext);
    assert_eq!(arguments("beside=true,xds.tls.enabled=false"), plaintext);
    for (values, named) in [
        ("beside=true", "set xds.tls.secretName"),
        (
            "xds.tls.secretName=xds,xds.tls.enabled=false",
            "would have no effect",
        ),
    ] {
        let error = chart::render(&["--set", values]).unwrap_err().to_string();
        assert!(error.contains(named), "{values}: {error}");
    }
}

/// A self-signed certificate would be its own authority, so that no sidecar would trust the next one.
#[test]
fn cert_manager_signs_with_an_authority_that_outlives_certificates() {
    let specs = |values: &str, kind: &str| -> Vec<Value> {
        let chart = Chart::render(&["--set", values]).unwrap();
        let found = chart.objects.iter().filter(|it| it["kind"] == kind);
        found.map(|it| it["spec"].clone()).collect()
    };
    let enabled = "certManager.enabled=true";
    let issuers = specs(enabled, "Issuer");
    let authority = json!({"ca": {"secretName": "evermesh-root"}});
    assert_eq!(issuers, [json!({"selfSigned": {}}), authority]);
    let [root, serving] = &specs(enabled, "Certificate")[..] else {
        panic!("the chart renders another number of certificates")
    };
    assert_eq!(root["isCA"], true);
    assert_eq!(root["secretName"], "evermesh-root");
    let names = serving["dnsNames"].to_string();
    assert!(
        names.contains("evermesh-webhook.appmesh-system.svc"),
        "{names}"
    );
    assert!(names.contains("evermesh-xds.appmesh-system.svc"), "{names}");
    assert_eq!(serving["issuerRef"]["name"], "evermesh-webhook");

    let other = format!("{enabled},certManager.issuerRef.name=platform");
    assert_eq!(specs(&other, "Issuer"), Vec::<Value>::new());
    let [serving] = &specs(&other, "Certificate")[..] else {
        panic!("the chart renders an authority beside that of the issuer")
    };
    assert_eq!(serving["issuerRef"]["name"], "platform");
}

#[test]
fn values_that_would_lock_out_every_sidecar_are_rejected() {
    const TLS: &str = "xds.tls.secretName=xds";
    for (values, named) in [
        ("xds.authentication=certificate", "xds.tls.secretName"),
        ("xds.tls.clientCertificates=true", "xds.tls.secretName"),
        (
            "xds.authentication=certificate,xds.tls.secretName=xds",
            "injection.enabled",
        ),
        (
            "xds.tls.clientCertificates=true,xds.tls.secretName=xds",
            "injection.enabled",
        ),
        ("sidecar.tokenAudience=other", "xds.tokenAudience"),
        (
            "sidecar.tokenAudience=,xds.authentication=kubernetes",
            "sidecar.tokenAudience",
        ),
        ("webhook.timeoutSeconds=2", "/webhook/timeoutSeconds"),
        ("sidecar.logLevel=verbose", "/sidecar/logLevel"),
    ] {
        let Err(error) = chart::render(&["--set", values]) else {
            panic!("the chart accepts {values}")
        };
        let error = error.to_string();
        assert!(error.contains(named), "{values}: {error}");
    }
    for more in ["injection.enabled=false", "beside=true"] {
        let set = format!("xds.authentication=certificate,{TLS},{more}");
        assert!(render(&["--set", &set]).contains("--xds-client-ca="));
    }
}

#[tokio::test]
async fn api_server_accepts_the_rendered_objects() {
    let api = api_server().await;
    let old = appmesh_controller_values();
    let everything = [
        "--set",
        "watchNamespaces={a,b},secretNamespaces={default},ipFamily=ipv6,region=us-west-2,env.A=1",
        "--set-json",
        r#"networkPolicy.metricsFrom=[{"namespaceSelector": {}}]"#,
        "--set-json",
        r#"networkPolicy.webhookFrom=[{"ipBlock": {"cidr": "10.0.0.1/32"}}]"#,
    ];
    for arguments in [
        &[][..],
        &everything[..],
        &["--set", "certManager.enabled=true"][..],
        &[
            "--set",
            "beside=true,enableCertManager=true,xds.tls.enabled=false",
        ][..],
        &["--values", old.to_str().unwrap()][..],
    ] {
        let dir = tools::scratch("chart").unwrap();
        let file = dir.path().join("rendered.yaml");
        fs::write(&file, render(arguments)).unwrap();
        // With strict validation an unknown field is an error.
        let apply = ["apply", "--dry-run=server", "--validate=strict", "-f"];
        api.kubectl(&[&apply[..], &[file.to_str().unwrap()]].concat())
            .await
            .unwrap_or_else(|error| panic!("{arguments:?}: {error:#}"));
    }
}

/// Helm fails if it is to create an object that exists and belongs to no release.
#[tokio::test]
async fn secret_of_another_owner_is_left_alone() {
    let api = api_server().await;
    let kubeconfig = api.kubeconfig();
    let renders_secret = async || {
        let place = ["--dry-run=server", "--namespace", NAMESPACE, "--kubeconfig"];
        let mut install = helm(&["install", "evermesh"], &place);
        let printed = process::run(install.arg(&kubeconfig)).unwrap();
        printed.contains("kind: Secret\n")
    };
    let secret = ["secret", "evermesh-webhook", "--namespace", NAMESPACE];
    let kubectl = async |verb: &[&str], more: &[&str]| {
        let arguments = [verb, more].concat();
        api.kubectl(&arguments).await.unwrap();
    };
    assert!(renders_secret().await);
    let generic = [
        "create",
        "secret",
        "generic",
        "evermesh-webhook",
        "-n",
        NAMESPACE,
    ];
    kubectl(&generic, &[]).await;
    assert!(!renders_secret().await);
    // As Helm marks its own objects.
    let release = "meta.helm.sh/release-name=evermesh";
    let namespace = "meta.helm.sh/release-namespace=appmesh-system";
    kubectl(
        &["annotate"],
        &[&secret[..], &[release, namespace]].concat(),
    )
    .await;
    let managed = "app.kubernetes.io/managed-by=Helm";
    kubectl(&["label"], &[&secret[..], &[managed]].concat()).await;
    assert!(renders_secret().await);
}

#[tokio::test]
async fn values_of_appmesh_controller_are_mapped_and_ignored_ones_are_named() {
    let old = appmesh_controller_values();
    let values = ["--values", old.to_str().unwrap()];
    let rendered = render(&values);
    for expected in [
        "replicas: 1\n",
        "--aws-region=us-west-2\n",
        "--aws-account-id=012345678901\"\n",
        "name: AWS_REGION\n",
        "--log=debug\n",
        "name: AWS_USE_FIPS_ENDPOINT\n",
        "serviceAccountName: appmesh-controller\n",
        "eks.amazonaws.com/role-arn: arn:aws:iam::012345678901:role/appmesh-controller\n",
        "minAvailable: 1\n",
        "kind: Certificate\n",
        "image: \"evermesh:",
        "--sidecar-xds=evermesh-xds.appmesh-system.svc:18000\"\n",
        "--sidecar-memory-requests=32Mi\"\n",
        "--poststart-interval=5\"\n",
        "--envoy-admin-access-enable-ipv6\"\n",
        "--xray-daemon-port=2000\"\n",
        "--init-image=evermesh-proxy-init:",
        "name: mpod.appmesh.k8s.aws\n",
    ] {
        assert!(rendered.contains(expected), "{expected} in:\n{rendered}");
    }
    for unexpected in [
        "registry.example.com/amazon",
        "registry.example.com/aws-",
        "AWS_USE_DUALSTACK_ENDPOINT",
    ] {
        assert!(!rendered.contains(unexpected), "{unexpected}");
    }

    let api = api_server().await;
    let kubeconfig = api.kubeconfig();
    let notes = async |arguments: &[&str]| {
        let place = ["--dry-run=server", "--namespace", NAMESPACE, "--kubeconfig"];
        let mut install = helm(&["install", "evermesh"], &place);
        install.arg(&kubeconfig).args(arguments);
        let printed = process::run(&mut install).unwrap();
        printed.split_once("NOTES:").unwrap().1.to_owned()
    };
    let with_old = notes(&values).await;
    let ignored = with_old
        .lines()
        .find_map(|line| line.strip_prefix("Ignored values (docs/install.md gives the reasons): "))
        .unwrap();
    assert_eq!(
        ignored,
        "clusterName, enableBackendGroups, livenessProbe, preview, tlsCipherSuite, tlsMinVersion, sidecar.useDualStackEndpoint, sidecar.useFipsEndpoint, image (of appmesh-controller), sidecar.image (of AWS), init.image (of AWS), rbac.pspEnabled."
    );
    let with_ours = notes(&[]).await;
    assert!(!with_ours.contains("ignored"), "{with_ours}");
    let end = "--set migration=false,xds.authentication=kubernetes";
    assert!(!with_ours.contains(end), "{with_ours}");
    let open = "migration=true,xds.authentication=kubernetes-permissive";
    let migrating = notes(&["--set", open]).await;
    assert!(migrating.contains(end), "{migrating}");
}
