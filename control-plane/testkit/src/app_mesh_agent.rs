//! The bootstrap of Envoy in App Mesh's image.
//!
//! The agent in that image writes it (aws/amazon-ecs-service-connect-agent,
//! `agent/envoy_bootstrap/envoy_bootstrap.go`); field names are spelled as the agent spells them.
//!
//! Two parts differ, because upstream Envoy would reject the agent's bootstrap:
//!
//! - Upstream Envoy lacks the call credentials `envoy.grpc_credentials.aws_iam`. The signature that they would send is
//!   initial metadata of the gRPC service instead.
//! - Runtime flags `envoy.reloadable_features.…` that newer Envoys removed are left out.

use std::net::SocketAddr;

use serde_json::{Value, json};

/// The `authorization` header of the proxies: an AWS signature (`SigV4`).
pub const SIGNATURE: &str = "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20260930/eu-west-1/appmesh/aws4_request, SignedHeaders=host;x-amz-date, Signature=fe5f80f77d5fa3beca038a248ff027d0445342fe2855ddc963176630326f1024";

/// The value of the agent's variable `APPMESH_XDS_ENDPOINT`.
#[derive(Clone, Copy, Debug)]
pub enum XdsEndpoint<'a> {
    /// `HOST:PORT`, with TLS and a signature; the second field is the path of the CA certificates.
    Tls(SocketAddr, &'a str),
    /// `unix://PATH`, without TLS and signature.
    Unix(&'a str),
}

/// The bootstrap for this `APPMESH_RESOURCE_ARN`. Other variables have their defaults, except that the log of admin
/// requests is off.
pub fn bootstrap(resource: &str, endpoint: XdsEndpoint<'_>) -> String {
    let over_ads = json!({
        "initialFetchTimeout": "0s",
        "ads": {},
        "resourceApiVersion": "V3",
    });
    let bootstrap = json!({
        "admin": {
            "accessLog": [{"typedConfig": {
                "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
                "path": "/dev/null",
            }}],
            "address": {"socketAddress": {"address": "0.0.0.0", "portValue": 9901}},
        },
        "node": {
            "id": resource,
            "cluster": resource,
            "metadata": {
                "aws.appmesh.task.interfaces": {
                    "ipv4": {"lo": ["127.0.0.1/8"], "eth0": ["10.0.1.7/32"]},
                },
                "aws.appmesh.platformInfo": {
                    "AvailabilityZone": "eu-west-1a",
                    "AvailabilityZoneID": "euw1-az1",
                    "k8sPlatformInfo": {
                        "k8sVersion": "v1.29.4-eks-036c24b",
                        "podUid": "5d1a2c1e-9f1e-4a39-9f2e-0c5b6f7a8d90",
                        "appMeshControllerVersion": "v1.13.1",
                    },
                    "systemInfo": {"systemPlatform": "x86_64", "systemKernelVersion": "5.10.217"},
                },
            },
        },
        "layeredRuntime": {"layers": [
            {
                "name": "static_layer_0",
                "staticLayer": {
                    "envoy.features.enable_all_deprecated_features": true,
                    "re2.max_program_size.error_level": 1000,
                },
            },
            {"name": "admin_layer", "adminLayer": {}},
        ]},
        "dynamicResources": {
            "adsConfig": {
                "apiType": "GRPC",
                "transportApiVersion": "V3",
                "grpcServices": [service(endpoint)],
            },
            "ldsConfig": over_ads,
            "cdsConfig": over_ads,
        },
        "clusterManager": {"outlierDetection": {"eventLogPath": "/dev/stdout"}},
    });
    bootstrap.to_string()
}

fn service(endpoint: XdsEndpoint<'_>) -> Value {
    let channel_args = json!({"args": {
        "grpc.http2.max_pings_without_data": {"intValue": "0"},
        "grpc.keepalive_time_ms": {"intValue": "10000"},
        "grpc.keepalive_timeout_ms": {"intValue": "20000"},
        "grpc.initial_reconnect_backoff_ms": {"intValue": "10000"},
        "grpc.max_reconnect_backoff_ms": {"intValue": "10000"},
    }});
    match endpoint {
        XdsEndpoint::Unix(path) => json!({"googleGrpc": {
            "statPrefix": "ads",
            "targetUri": format!("unix://{path}"),
            "channelArgs": channel_args,
        }}),
        XdsEndpoint::Tls(address, authorities) => json!({
            "googleGrpc": {
                "statPrefix": "ads",
                "targetUri": address.to_string(),
                "channelCredentials": {
                    "sslCredentials": {"rootCerts": {"filename": authorities}},
                },
                "channelArgs": channel_args,
            },
            "initialMetadata": [{"key": "authorization", "value": SIGNATURE}],
        }),
    }
}
