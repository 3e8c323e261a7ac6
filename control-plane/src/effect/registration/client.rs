//! The Cloud Map calls of registration.
//!
//! Namespaces are looked up and never created. Services are looked up, created and deleted; the worker decides when.

use std::{collections::BTreeMap, error::Error};

use aws_sdk_servicediscovery::{
    error::{BuildError, ProvideErrorMetadata, SdkError},
    operation::create_service::CreateServiceError,
    types::{
        self, CustomHealthStatus, DnsConfig, DnsRecord, FilterCondition, HealthCheckCustomConfig,
        HealthStatus, NamespaceFilter, NamespaceFilterName, NamespaceType, RecordType,
        RoutingPolicy, ServiceFilter, ServiceFilterName,
    },
};
use evermesh_model::CloudMapService;

use super::{
    RegistrationSettings,
    plan::{HealthCheck, InstanceListing, InstanceRequest, ListedInstance},
};
use crate::source::cloud_map::CloudMapConnection;

/// Description of the services that Evermesh creates. It marks them as deletable together with their last node, also
/// after the node that caused the creation is gone. The text must not change, or older services are not recognised.
const DESCRIPTION: &str = "Made by Evermesh for the pods of App Mesh virtual nodes";

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum RegistrationError {
    #[error("the Cloud Map service or its namespace does not exist any more")]
    Gone,
    /// Cloud Map rejected the request; a retry would fail too.
    #[error("Cloud Map rejected the request ({0})")]
    Rejected(String),
    /// Cloud Map throttled the request or could not be reached; a retry may succeed.
    #[error("Cloud Map did not answer ({0})")]
    Unavailable(String),
}

/// A namespace of the type `DNS_PRIVATE` or `HTTP`.
#[derive(Debug, Clone)]
pub(super) struct CloudMapNamespace {
    pub(super) id: String,
    /// Whether the type is `DNS_PRIVATE`: services then have records in Route 53.
    pub(super) is_dns: bool,
}

#[derive(Debug, Clone)]
pub(super) struct ServiceRecord {
    pub(super) id: String,
    pub(super) arn: Option<String>,
    /// `CreatorRequestId`: the UID of a virtual node, if Evermesh or App Mesh's controller created the service.
    pub(super) creator: Option<String>,
    /// Whether the description is Evermesh's.
    pub(super) is_marked: bool,
    pub(super) health_check: HealthCheck,
}

/// The result of a request to delete a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DeleteOutcome {
    Deleted,
    /// The service still has instances, or Cloud Map is still deregistering them.
    InUse,
}

#[derive(Debug)]
pub(super) struct RegistrationClient {
    connection: CloudMapConnection,
}

impl RegistrationClient {
    pub(super) const fn new(connection: CloudMapConnection) -> Self {
        Self { connection }
    }

    /// Looks up a namespace of the type `DNS_PRIVATE` or `HTTP` by name.
    pub(super) async fn namespace(
        &self,
        name: &str,
    ) -> Result<Option<CloudMapNamespace>, RegistrationError> {
        let filter = NamespaceFilter::builder()
            .name(NamespaceFilterName::Name)
            .values(name)
            .condition(FilterCondition::Eq);
        let pages = self.connection.sdk.list_namespaces();
        let pages = pages.filters(filter.build()?);
        let mut pages = pages.into_paginator().send();
        let mut found = Vec::new();
        while let Some(page) = pages.next().await {
            let page = page.map_err(|error| self.failure(&error))?;
            found.extend(page.namespaces.unwrap_or_default());
        }
        for namespace in found {
            let is_dns = match namespace.r#type() {
                Some(NamespaceType::DnsPrivate) => true,
                Some(NamespaceType::Http) => false,
                _ => continue,
            };
            // Some implementations of the API ignore the filter.
            if let (Some(id), true) = (namespace.id, namespace.name.as_deref() == Some(name)) {
                return Ok(Some(CloudMapNamespace { id, is_dns }));
            }
        }
        Ok(None)
    }

    /// Looks up a service by name.
    pub(super) async fn service(
        &self,
        namespace: &CloudMapNamespace,
        name: &str,
    ) -> Result<Option<ServiceRecord>, RegistrationError> {
        let filter = ServiceFilter::builder()
            .name(ServiceFilterName::NamespaceId)
            .values(&namespace.id)
            .condition(FilterCondition::Eq);
        let pages = self.connection.sdk.list_services();
        let pages = pages.filters(filter.build()?);
        let mut pages = pages.into_paginator().send();
        let mut found = Vec::new();
        while let Some(page) = pages.next().await {
            let page = page.map_err(|error| self.failure(&error))?;
            found.extend(page.services.unwrap_or_default());
        }
        for summary in found {
            if summary.name() != Some(name) {
                continue;
            }
            let Some(id) = summary.id() else { continue };
            let service = self.read(id).await?;
            if let Some(service) = service.filter(|it| is_in(it, namespace)) {
                return Ok(Some(service.into()));
            }
        }
        Ok(None)
    }

    /// Looks up a service by ARN. `None` if the service does not exist or has another name or namespace.
    pub(super) async fn service_by_arn(
        &self,
        namespace: &CloudMapNamespace,
        name: &str,
        arn: &str,
    ) -> Result<Option<ServiceRecord>, RegistrationError> {
        let Some((_, id)) = arn.rsplit_once('/') else {
            return Ok(None);
        };
        let service = self
            .read(id)
            .await?
            .filter(|it| is_in(it, namespace) && it.name() == Some(name) && it.arn() == Some(arn));
        Ok(service.map(Into::into))
    }

    /// Looks up a service by nothing but its ARN.
    pub(super) async fn former_service(
        &self,
        arn: &str,
    ) -> Result<Option<ServiceRecord>, RegistrationError> {
        let Some((_, id)) = arn.rsplit_once('/') else {
            return Ok(None);
        };
        let service = self.read(id).await?.filter(|it| it.arn() == Some(arn));
        Ok(service.map(Into::into))
    }

    async fn read(&self, id: &str) -> Result<Option<types::Service>, RegistrationError> {
        let answer = self.connection.sdk.get_service().id(id).send().await;
        match answer {
            Ok(answer) => Ok(answer.service),
            Err(error) => match self.failure(&error) {
                // Cloud Map rejects an ID that is malformed.
                RegistrationError::Gone | RegistrationError::Rejected(_) => Ok(None),
                failure @ RegistrationError::Unavailable(_) => Err(failure),
            },
        }
    }

    /// Creates a service on behalf of the virtual node with this UID, or returns the service if it exists already.
    pub(super) async fn create(
        &self,
        namespace: &CloudMapNamespace,
        name: &CloudMapService,
        uid: &str,
        settings: RegistrationSettings,
    ) -> Result<ServiceRecord, RegistrationError> {
        let mut call = self
            .connection
            .sdk
            .create_service()
            .name(&*name.service)
            .namespace_id(&namespace.id)
            .creator_request_id(uid)
            .description(DESCRIPTION);
        if namespace.is_dns {
            call = call.dns_config(dns_config(settings)?);
        }
        if settings.custom_health_check {
            // The failure threshold is always 1; AWS deprecated the field.
            call = call.health_check_custom_config(HealthCheckCustomConfig::builder().build());
        }
        let id = match call.send().await {
            Ok(answer) => {
                if let Some(service) = answer.service {
                    return Ok(service.into());
                }
                None
            }
            Err(error) => match error.as_service_error() {
                Some(CreateServiceError::ServiceAlreadyExists(existing)) => {
                    existing.service_id.clone()
                }
                _ => return Err(self.failure(&error)),
            },
        };
        let service = match id {
            Some(id) => self.read(&id).await?.map(Into::into),
            None => self.service(namespace, &name.service).await?,
        };
        service.ok_or(RegistrationError::Gone)
    }

    /// Lists the instances of a service, with their health if the service has a health check.
    pub(super) async fn list(
        &self,
        service: &ServiceRecord,
    ) -> Result<InstanceListing, RegistrationError> {
        let call = self.connection.sdk.list_instances();
        let mut pages = call.service_id(&service.id).into_paginator().send();
        let mut instances = BTreeMap::new();
        while let Some(page) = pages.next().await {
            let page = page.map_err(|error| self.failure(&error))?;
            let listed = page.instances.into_iter().flatten().filter_map(|summary| {
                let listed = ListedInstance {
                    attributes: summary.attributes.into_iter().flatten().collect(),
                    healthy: None,
                };
                Some((summary.id?, listed))
            });
            instances.extend(listed);
        }
        if service.health_check != HealthCheck::None && !instances.is_empty() {
            self.add_health(service, &mut instances).await?;
        }
        Ok(InstanceListing {
            health_check: service.health_check,
            instances,
        })
    }

    async fn add_health(
        &self,
        service: &ServiceRecord,
        instances: &mut BTreeMap<String, ListedInstance>,
    ) -> Result<(), RegistrationError> {
        let call = self.connection.sdk.get_instances_health_status();
        let mut pages = call.service_id(&service.id).into_paginator().send();
        while let Some(page) = pages.next().await {
            let page = match page {
                Ok(page) => page,
                // All instances were deregistered meanwhile.
                Err(error) if error.code() == Some("InstanceNotFound") => return Ok(()),
                Err(error) => return Err(self.failure(&error)),
            };
            let statuses: BTreeMap<_, _> = page.status.into_iter().flatten().collect();
            for (id, status) in statuses {
                if let Some(listed) = instances.get_mut(&id) {
                    listed.healthy = match status {
                        HealthStatus::Healthy => Some(true),
                        HealthStatus::Unhealthy => Some(false),
                        _ => None,
                    };
                }
            }
        }
        Ok(())
    }

    /// Sends a request about an instance. A request that Cloud Map already processes, or that is already done, succeeds.
    pub(super) async fn send(
        &self,
        service: &ServiceRecord,
        id: &str,
        request: &InstanceRequest,
    ) -> Result<(), RegistrationError> {
        let sdk = &self.connection.sdk;
        match request {
            InstanceRequest::Register(attributes) => {
                let call = sdk.register_instance();
                let call = call.service_id(&service.id).instance_id(id);
                let attributes = attributes.clone().into_iter().collect();
                self.done(call.set_attributes(Some(attributes)).send().await)
            }
            InstanceRequest::Deregister => {
                let call = sdk.deregister_instance();
                self.done(call.service_id(&service.id).instance_id(id).send().await)
            }
            InstanceRequest::SetHealth(healthy) => {
                let status = if *healthy {
                    CustomHealthStatus::Healthy
                } else {
                    CustomHealthStatus::Unhealthy
                };
                let call = sdk.update_instance_custom_health_status();
                let call = call.service_id(&service.id).instance_id(id);
                self.done(call.status(status).send().await)
            }
        }
    }

    fn done<T, E>(&self, answer: Result<T, SdkError<E>>) -> Result<(), RegistrationError>
    where
        E: ProvideErrorMetadata + Error + 'static,
    {
        match answer {
            Ok(_) => Ok(()),
            Err(error) if matches!(error.code(), Some("DuplicateRequest" | "InstanceNotFound")) => {
                Ok(())
            }
            Err(error) => Err(self.failure(&error)),
        }
    }

    /// Deletes a service that has no instances.
    pub(super) async fn delete(
        &self,
        service: &ServiceRecord,
    ) -> Result<DeleteOutcome, RegistrationError> {
        let call = self.connection.sdk.delete_service().id(&service.id);
        match call.send().await {
            Ok(_) => Ok(DeleteOutcome::Deleted),
            Err(error) if error.code() == Some("ResourceInUse") => Ok(DeleteOutcome::InUse),
            Err(error) => match self.failure(&error) {
                RegistrationError::Gone => Ok(DeleteOutcome::Deleted),
                failure => Err(failure),
            },
        }
    }

    fn failure<E>(&self, error: &SdkError<E>) -> RegistrationError
    where
        E: ProvideErrorMetadata + Error + 'static,
    {
        let text = || self.connection.describe(error);
        match error.code() {
            Some("ServiceNotFound" | "NamespaceNotFound") => RegistrationError::Gone,
            Some(
                "InvalidInput"
                | "ResourceLimitExceeded"
                | "CustomHealthNotFound"
                | "TooManyTagsException",
            ) => RegistrationError::Rejected(text()),
            _ => RegistrationError::Unavailable(text()),
        }
    }
}

fn is_in(service: &types::Service, namespace: &CloudMapNamespace) -> bool {
    service.namespace_id() == Some(namespace.id.as_str())
}

impl From<types::Service> for ServiceRecord {
    fn from(service: types::Service) -> Self {
        let health_check = if service.health_check_custom_config.is_some() {
            HealthCheck::Custom
        } else if service.health_check_config.is_some() {
            HealthCheck::Route53
        } else {
            HealthCheck::None
        };
        Self {
            id: service.id.unwrap_or_default(),
            arn: service.arn,
            creator: service.creator_request_id,
            is_marked: service.description.as_deref() == Some(DESCRIPTION),
            health_check,
        }
    }
}

impl From<BuildError> for RegistrationError {
    fn from(error: BuildError) -> Self {
        Self::Rejected(error.to_string())
    }
}

fn dns_config(settings: RegistrationSettings) -> Result<DnsConfig, BuildError> {
    let record = DnsRecord::builder()
        .r#type(if settings.ipv6 {
            RecordType::Aaaa
        } else {
            RecordType::A
        })
        .ttl(settings.dns_ttl.into());
    DnsConfig::builder()
        .routing_policy(RoutingPolicy::Multivalue)
        .dns_records(record.build()?)
        .build()
}
