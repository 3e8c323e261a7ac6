//! The calls of Cloud Map that registration makes.
//!
//! In: names and requests. Out: what is there, and failures in words for a person.
//! A namespace is looked for and never made; a service is made where it is missing, and deleted only by who knows it
//! to be ours.
//!
//! Must not decide what to register.

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
    plan::{HealthChecks, InstanceListing, InstanceRequest, ListedInstance},
};
use crate::source::cloud_map::CloudMapConnection;

/// What says that a service was made here: after its first node is gone, the last one still knows.
const DESCRIPTION: &str = "Made by Evermesh for the pods of App Mesh virtual nodes";

/// Why something could not be done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum RegistrationError {
    /// The service or its namespace is not there any more.
    #[error("the Cloud Map service or its namespace is gone")]
    Gone,
    /// Cloud Map refused what it was asked for; asking again soon is of no use.
    #[error("Cloud Map refused it ({0})")]
    Refused(String),
    /// Throttled or not reached.
    #[error("Cloud Map did not answer ({0})")]
    Unavailable(String),
}

/// A namespace that instances can be registered in.
#[derive(Debug, Clone)]
pub(super) struct CloudMapNamespace {
    pub(super) id: String,
    /// Whether its services have records in Route 53.
    pub(super) is_dns: bool,
}

/// A service.
#[derive(Debug, Clone)]
pub(super) struct ServiceRecord {
    pub(super) id: String,
    pub(super) arn: Option<String>,
    /// What it was made with: the UID of a virtual node, if a controller made it.
    pub(super) creator: Option<String>,
    /// Whether it says that it was made here.
    pub(super) is_marked: bool,
    pub(super) checks: HealthChecks,
}

/// Whether a service was deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DeleteOutcome {
    /// It is gone.
    Done,
    /// Cloud Map still works on its instances.
    InUse,
}

/// The client.
#[derive(Debug)]
pub(super) struct RegistrationClient {
    connection: CloudMapConnection,
}

impl RegistrationClient {
    pub(super) const fn new(connection: CloudMapConnection) -> Self {
        Self { connection }
    }

    /// The namespace of this name that API calls or a VPC's DNS find, if there is one.
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
            // Not everything that speaks the API knows the filter.
            if let (Some(id), true) = (namespace.id, namespace.name.as_deref() == Some(name)) {
                return Ok(Some(CloudMapNamespace { id, is_dns }));
            }
        }
        Ok(None)
    }

    /// The service of this name in a namespace, if there is one.
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

    /// The service with this ARN, if it is there and of that name.
    pub(super) async fn noted(
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

    async fn read(&self, id: &str) -> Result<Option<types::Service>, RegistrationError> {
        let answer = self.connection.sdk.get_service().id(id).send().await;
        match answer {
            Ok(answer) => Ok(answer.service),
            Err(error) => match self.failure(&error) {
                // An id that is none is as good as one of nothing.
                RegistrationError::Gone | RegistrationError::Refused(_) => Ok(None),
                failure @ RegistrationError::Unavailable(_) => Err(failure),
            },
        }
    }

    /// Makes a service, on behalf of the virtual node with this UID. One that is there by now is as good.
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
            // The threshold is 1 and cannot be set any more.
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
                Some(CreateServiceError::ServiceAlreadyExists(there)) => there.service_id.clone(),
                _ => return Err(self.failure(&error)),
            },
        };
        let service = match id {
            Some(id) => self.read(&id).await?.map(Into::into),
            None => self.service(namespace, &name.service).await?,
        };
        service.ok_or(RegistrationError::Gone)
    }

    /// Everything that a service holds.
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
        if service.checks != HealthChecks::None && !instances.is_empty() {
            self.add_health(service, &mut instances).await?;
        }
        Ok(InstanceListing {
            checks: service.checks,
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
                // All of them have gone meanwhile.
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

    /// Asks for what is to become of an instance. That it is asked for already, or is gone already, is as good.
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

    /// Deletes a service without instances.
    pub(super) async fn delete(
        &self,
        service: &ServiceRecord,
    ) -> Result<DeleteOutcome, RegistrationError> {
        let call = self.connection.sdk.delete_service().id(&service.id);
        match call.send().await {
            Ok(_) => Ok(DeleteOutcome::Done),
            Err(error) if error.code() == Some("ResourceInUse") => Ok(DeleteOutcome::InUse),
            Err(error) => match self.failure(&error) {
                RegistrationError::Gone => Ok(DeleteOutcome::Done),
                failure => Err(failure),
            },
        }
    }

    fn failure<E>(&self, error: &SdkError<E>) -> RegistrationError
    where
        E: ProvideErrorMetadata + Error + 'static,
    {
        let words = || self.connection.words(error);
        match error.code() {
            Some("ServiceNotFound" | "NamespaceNotFound") => RegistrationError::Gone,
            Some(
                "InvalidInput"
                | "ResourceLimitExceeded"
                | "CustomHealthNotFound"
                | "TooManyTagsException",
            ) => RegistrationError::Refused(words()),
            _ => RegistrationError::Unavailable(words()),
        }
    }
}

fn is_in(service: &types::Service, namespace: &CloudMapNamespace) -> bool {
    service.namespace_id() == Some(namespace.id.as_str())
}

impl From<types::Service> for ServiceRecord {
    fn from(service: types::Service) -> Self {
        let checks = if service.health_check_custom_config.is_some() {
            HealthChecks::Custom
        } else if service.health_check_config.is_some() {
            HealthChecks::Route53
        } else {
            HealthChecks::None
        };
        Self {
            id: service.id.unwrap_or_default(),
            arn: service.arn,
            creator: service.creator_request_id,
            is_marked: service.description.as_deref() == Some(DESCRIPTION),
            checks,
        }
    }
}

impl From<BuildError> for RegistrationError {
    fn from(error: BuildError) -> Self {
        Self::Refused(error.to_string())
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
