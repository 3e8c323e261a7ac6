//! Calls of Cloud Map, and what their failures mean.
//!
//! In: the environment, or an endpoint. Out: instances, or a [`CloudMapFailure`] in words for a person.
//!
//! Must not remember anything of a service.

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

/// The most that one call returns; there is no second page.
const MAX_RESULTS: i32 = 1000;
/// What is looked up before the rest is guessed, if there is an endpoint of its own.
const LOOK_UP: Duration = Duration::from_secs(3);
/// Stands for a region where none matters.
const PLACEHOLDER_REGION: &str = "us-east-1";
/// The credential of a server that checks none.
const PLACEHOLDER_KEY: &str = "placeholder";
/// What the SDK puts before the host of the calls that discover.
const HOST_PREFIX: &str = "data-";

/// The names that Cloud Map gives to addresses.
const IPV4: &str = "AWS_INSTANCE_IPV4";
const IPV6: &str = "AWS_INSTANCE_IPV6";

/// What every client of Cloud Map begins with.
#[derive(Debug, Clone)]
pub(crate) struct CloudMapConnection {
    pub(crate) sdk: aws_sdk_servicediscovery::Client,
    /// What was not found at the start, in words that lead a failure: it may be its cause.
    lack: Option<&'static str>,
}

impl CloudMapConnection {
    /// Finds region and credentials as every AWS tool does. `endpoint` is called instead of AWS, exactly as it is
    /// written.
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
        let mut lack = None;
        if let Some(endpoint) = endpoint {
            builder = builder
                .endpoint_url(endpoint)
                .interceptor(EndpointAsWritten);
            if config.region().is_none() {
                builder = builder.region(Region::from_static(PLACEHOLDER_REGION));
            }
            if !has_credentials {
                info!(%endpoint, "no AWS credentials were found; Cloud Map's endpoint is called with placeholders");
                let (key, name) = (PLACEHOLDER_KEY, "placeholder");
                builder =
                    builder.credentials_provider(Credentials::new(key, key, None, None, name));
            }
        } else if config.region().is_none() {
            lack = Some("no AWS region was found: set AWS_REGION, or a region in the AWS profile");
        } else if !has_credentials {
            lack = Some(
                "no AWS credentials were found: give the process a role, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
            );
        }
        Self {
            sdk: aws_sdk_servicediscovery::Client::from_conf(builder.build()),
            lack,
        }
    }

    /// What a failure means, for a person.
    pub(crate) fn describe<E>(&self, error: &SdkError<E>) -> String
    where
        E: ProvideErrorMetadata + Error + 'static,
    {
        let words = match (error.code(), error.message()) {
            // The causes of an answer name the request: the same failure would be another one each time.
            (Some(code), message) => format!("{code}: {}", message.unwrap_or_default()),
            (None, _) => with_causes(error),
        };
        match self.lack {
            Some(lack) => format!("{lack}; {words}"),
            None => words,
        }
    }
}

/// A client of Cloud Map that discovers.
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

    /// The revision of a service; none if this role may not ask for it. Roles that were made for App Mesh may
    /// be allowed to discover instances and nothing else.
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

    /// The healthy instances of a service, ascending by id.
    pub(super) async fn instances(
        &self,
        service: &CloudMapService,
    ) -> Result<Vec<Instance>, CloudMapFailure> {
        let call = self
            .connection
            .sdk
            .discover_instances()
            .namespace_name(&*service.namespace)
            .service_name(&*service.service)
            // As App Mesh did: if all are unhealthy there are none.
            .health_status(HealthStatusFilter::Healthy)
            .max_results(MAX_RESULTS);
        let answer = call
            .send()
            .await
            .map_err(|error| self.failure(service, &error))?;
        let found = answer.instances();
        if usize::try_from(MAX_RESULTS).is_ok_and(|most| most <= found.len()) {
            warn!(%service, "Cloud Map returns no more than {MAX_RESULTS} instances of a service");
        }
        let by_id: BTreeMap<_, _> = found
            .iter()
            .filter_map(|summary| instance(service, summary))
            .map(|instance| (Arc::clone(&instance.id), instance))
            .collect();
        Ok(by_id.into_values().collect())
    }

    fn failure<E>(&self, service: &CloudMapService, error: &SdkError<E>) -> CloudMapFailure
    where
        E: ProvideErrorMetadata + Error + 'static,
    {
        match error.code() {
            Some("NamespaceNotFound") => CloudMapFailure::NotFound(format!(
                "Cloud Map has no namespace {} in this account and region",
                service.namespace
            )),
            Some("ServiceNotFound") => CloudMapFailure::NotFound(format!(
                "the Cloud Map namespace {} has no service {}",
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
    let found = tokio::time::timeout(LOOK_UP, provider.provide_credentials()).await;
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
        warn!(%service, instance, attribute, %value, "an attribute of a Cloud Map instance is no address and left out");
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

/// Calls an endpoint of one's own by the name it was given: `data-127.0.0.1` is nobody's name.
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
