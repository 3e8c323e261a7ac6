//! The Cloud Map calls of discovery, and the connection that registration uses too.
//!
//! Region and credentials come from the environment as for every AWS tool. Errors become a [`CloudMapFailure`] with a
//! message for users.

use std::{
    collections::BTreeMap, error::Error, iter, net::IpAddr, str::FromStr, sync::Arc, time::Duration,
};

use aws_config::{BehaviorVersion, Region, retry::RetryConfig, timeout::TimeoutConfig};
use aws_sdk_servicediscovery::{
    config::{
        Builder, ConfigBag, Credentials, Intercept, ProvideCredentials, RuntimeComponents,
        interceptors::BeforeTransmitInterceptorContextMut,
    },
    error::{BoxError, ProvideErrorMetadata, SdkError},
    types::{HealthStatusFilter, HttpInstanceSummary},
};
use evermesh_model::{CloudMapService, Instance, endpoint::CloudMapFailure};
use tracing::{info, warn};

use super::CloudMapOptions;

/// Largest result of `DiscoverInstances`, which has no pagination.
const MAX_RESULTS: i32 = 1000;
/// Time limit for finding credentials when the connection is opened.
const CREDENTIALS_TIMEOUT: Duration = Duration::from_secs(3);
/// Region for an endpoint that is not AWS, if no region is configured.
const PLACEHOLDER_REGION: &str = "us-east-1";
/// Credentials for an endpoint that is not AWS, if none are configured.
const PLACEHOLDER_KEY: &str = "placeholder";
/// Prefix that the SDK adds to the host name of discovery calls.
const HOST_PREFIX: &str = "data-";

/// Attributes that contain the addresses of an instance.
const IPV4: &str = "AWS_INSTANCE_IPV4";
const IPV6: &str = "AWS_INSTANCE_IPV6";

/// A configured SDK client.
#[derive(Debug, Clone)]
pub(crate) struct CloudMapConnection {
    pub(crate) sdk: aws_sdk_servicediscovery::Client,
    /// A missing setting that may cause later failures; their messages begin with it.
    missing: Option<&'static str>,
}

impl CloudMapConnection {
    /// Finds region and credentials. If `endpoint` is given it is called instead of AWS, exactly as written.
    pub(crate) async fn open(endpoint: Option<&str>) -> Self {
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(Duration::from_secs(3))
            .operation_attempt_timeout(Duration::from_secs(5))
            .build();
        let config = aws_config::defaults(BehaviorVersion::latest())
            .timeout_config(timeouts)
            .retry_config(RetryConfig::standard().with_max_attempts(2))
            .load()
            .await;
        let has_credentials = has_credentials(&config).await;
        let mut builder = Builder::from(&config);
        let mut missing = None;
        if let Some(endpoint) = endpoint {
            builder = builder
                .endpoint_url(endpoint)
                .interceptor(EndpointAsWritten);
            if config.region().is_none() {
                builder = builder.region(Region::from_static(PLACEHOLDER_REGION));
            }
            if !has_credentials {
                info!(%endpoint, "found no AWS credentials; calling the Cloud Map endpoint with placeholder credentials");
                let (key, name) = (PLACEHOLDER_KEY, "placeholder");
                builder =
                    builder.credentials_provider(Credentials::new(key, key, None, None, name));
            }
        } else if config.region().is_none() {
            missing =
                Some("no AWS region is configured; set AWS_REGION, or a region in the AWS profile");
        } else if !has_credentials {
            missing = Some(
                "no AWS credentials were found; give the process a role, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
            );
        }
        Self {
            sdk: aws_sdk_servicediscovery::Client::from_conf(builder.build()),
            missing,
        }
    }

    /// A message for users: error code and message of AWS, or the chain of causes.
    pub(crate) fn describe<E>(&self, error: &SdkError<E>) -> String
    where
        E: ProvideErrorMetadata + Error + 'static,
    {
        let text = match (error.code(), error.message()) {
            // The causes contain the request ID, which would make every failure a different one.
            (Some(code), message) => format!("{code}: {}", message.unwrap_or_default()),
            (None, _) => with_causes(error),
        };
        match self.missing {
            Some(missing) => format!("{missing}; {text}"),
            None => text,
        }
    }
}

/// An answer with the healthy instances of a service.
#[derive(Debug)]
pub(super) struct Instances {
    /// In ascending order of ID.
    pub(super) found: Vec<Instance>,
    /// Whether the answer has [`MAX_RESULTS`].
    pub(super) is_full: bool,
}

/// The discovery client.
#[derive(Debug)]
pub(super) struct DiscoveryClient {
    connection: CloudMapConnection,
}

impl DiscoveryClient {
    pub(super) async fn connect(options: &CloudMapOptions) -> Self {
        Self {
            connection: CloudMapConnection::open(options.endpoint.as_deref()).await,
        }
    }

    /// The revision of a service; `None` if the role lacks the permission `DiscoverInstancesRevision`. Roles for App Mesh
    /// often have `DiscoverInstances` only.
    pub(super) async fn revision(
        &self,
        service: &CloudMapService,
    ) -> Result<Option<i64>, CloudMapFailure> {
        let call = self
            .connection
            .sdk
            .discover_instances_revision()
            .namespace_name(&*service.namespace)
            .service_name(&*service.service);
        match call.send().await {
            Ok(answer) => Ok(answer.instances_revision()),
            Err(error) if error.code() == Some("AccessDeniedException") => Ok(None),
            Err(error) => Err(self.failure(service, &error)),
        }
    }

    pub(super) async fn instances(
        &self,
        service: &CloudMapService,
    ) -> Result<Instances, CloudMapFailure> {
        let call = self
            .connection
            .sdk
            .discover_instances()
            .namespace_name(&*service.namespace)
            .service_name(&*service.service)
            // As in App Mesh: if all instances are unhealthy the result is empty.
            .health_status(HealthStatusFilter::Healthy)
            .max_results(MAX_RESULTS);
        let answer = call
            .send()
            .await
            .map_err(|error| self.failure(service, &error))?;
        let found = answer.instances();
        let by_id: BTreeMap<_, _> = found
            .iter()
            .filter_map(|summary| instance(service, summary))
            .map(|instance| (Arc::clone(&instance.id), instance))
            .collect();
        Ok(Instances {
            found: by_id.into_values().collect(),
            is_full: usize::try_from(MAX_RESULTS).is_ok_and(|most| most <= found.len()),
        })
    }

    fn failure<E>(&self, service: &CloudMapService, error: &SdkError<E>) -> CloudMapFailure
    where
        E: ProvideErrorMetadata + Error + 'static,
    {
        match error.code() {
            Some("NamespaceNotFound") => CloudMapFailure::NotFound(format!(
                "Cloud Map has no namespace `{}` in this account and region",
                service.namespace
            )),
            Some("ServiceNotFound") => CloudMapFailure::NotFound(format!(
                "the Cloud Map namespace `{}` has no service `{}`",
                service.namespace, service.service
            )),
            _ => CloudMapFailure::Unavailable(self.connection.describe(error)),
        }
    }
}

async fn has_credentials(config: &aws_config::SdkConfig) -> bool {
    let Some(provider) = config.credentials_provider() else {
        return false;
    };
    let found = tokio::time::timeout(CREDENTIALS_TIMEOUT, provider.provide_credentials()).await;
    found.is_ok_and(|found| found.is_ok())
}

fn instance(service: &CloudMapService, summary: &HttpInstanceSummary) -> Option<Instance> {
    let id: Arc<str> = summary.instance_id()?.into();
    let attributes: BTreeMap<Arc<str>, Arc<str>> = summary
        .attributes()
        .into_iter()
        .flatten()
        .map(|(key, value)| (key.as_str().into(), value.as_str().into()))
        .collect();
    Some(Instance {
        ipv4: address(service, &id, &attributes, IPV4),
        ipv6: address(service, &id, &attributes, IPV6),
        id,
        attributes,
    })
}

fn address<A: FromStr + Into<IpAddr>>(
    service: &CloudMapService,
    instance: &str,
    attributes: &BTreeMap<Arc<str>, Arc<str>>,
    attribute: &str,
) -> Option<A> {
    let value = attributes.get(attribute)?;
    let address = value.parse().ok();
    if address.is_none() {
        warn!(%service, instance, attribute, %value, "ignored an attribute of a Cloud Map instance that is not a valid IP address");
    }
    address
}

fn with_causes(error: &dyn Error) -> String {
    let causes = iter::successors(Some(error), |error: &&dyn Error| (*error).source());
    causes
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ")
}

/// Removes the prefix that the SDK adds to the host of a custom endpoint: `data-127.0.0.1` does not resolve.
#[derive(Debug)]
struct EndpointAsWritten;

impl Intercept for EndpointAsWritten {
    fn name(&self) -> &'static str {
        "EndpointAsWritten"
    }

    fn modify_before_signing(
        &self,
        context: &mut BeforeTransmitInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let request = context.request_mut();
        if let Some((scheme, rest)) = request.uri().split_once("://")
            && let Some(rest) = rest.strip_prefix(HOST_PREFIX)
        {
            let written = format!("{scheme}://{rest}");
            request.set_uri(written)?;
        }
        Ok(())
    }
}
