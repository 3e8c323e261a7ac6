//! Services in which a node was registered before its `awsCloudMap` changed, which is possible without admission.
//!
//! The annotation [`SERVICE_ARN`] names the service of a node. It keeps the former one until that has no instances of
//! the node any more, so that neither a restart nor another leader forgets them.

use evermesh_ingest::registration::{NodeRegistration, SERVICE_ARN};
use tracing::info;

use super::{
    client::{RegistrationError, ServiceRecord},
    instance,
    plan::{InstanceListing, InstanceRequest},
    worker::{NodeProblems, ServiceWorker},
};

/// Instances in a problem.
const SHOWN_INSTANCES: usize = 5;

/// The ARN of the former service of a node whose service is this one now.
pub(super) fn former_arn<'a>(
    node: &'a NodeRegistration,
    service: &ServiceRecord,
) -> Option<&'a str> {
    let annotated = node.service_arn.as_deref()?;
    (service.arn.as_deref()? != annotated).then_some(annotated)
}

/// The instances of a node in its former service.
#[derive(Debug, Default, PartialEq, Eq)]
struct FormerInstances<'a> {
    /// IDs of those that are pods of the node.
    of_pods: Vec<&'a str>,
    /// IDs of the others. They may belong to another Kubernetes cluster, whose manifests were copied with the annotation.
    others: Vec<&'a str>,
}

impl<'a> FormerInstances<'a> {
    fn of(node: &NodeRegistration, listing: &'a InstanceListing) -> Self {
        let own = listing.instances.iter();
        let own = own.filter(|(_, listed)| instance::is_of(node, &listed.attributes));
        let mut found = Self::default();
        for (id, listed) in own {
            let mut pods = node.pods.iter();
            let is_of_pod = pods.any(|pod| {
                instance::id(pod) == *id && instance::is_of_pod(node, pod, &listed.attributes)
            });
            if is_of_pod {
                found.of_pods.push(id);
            } else {
                found.others.push(id);
            }
        }
        found
    }

    fn problem(&self, arn: &str) -> Option<String> {
        let shown = self.others.iter().take(SHOWN_INSTANCES);
        let shown: Vec<String> = shown.map(|id| format!("`{id}`")).collect();
        let more = self.others.len().saturating_sub(SHOWN_INSTANCES);
        let more = (more > 0).then(|| format!(" and {more} more"));
        (!shown.is_empty()).then(|| {
            format!(
                "instances {}{} of this node remain in its former Cloud Map service `{arn}` and are not pods of this Kubernetes cluster; deregister them, or remove the annotation `{SERVICE_ARN}` if another cluster registered them",
                shown.join(", "),
                more.unwrap_or_default()
            )
        })
    }
}

impl ServiceWorker {
    /// Deregisters the pods of nodes from their former services. Returns the nodes without instances there.
    pub(super) async fn leave_former_services<'a>(
        &self,
        nodes: &[&'a NodeRegistration],
        service: &ServiceRecord,
        problems: &mut NodeProblems,
    ) -> Vec<&'a NodeRegistration> {
        let mut left = Vec::new();
        for node in nodes.iter().filter(|node| !node.terminating) {
            let Some(arn) = former_arn(node, service) else {
                continue;
            };
            let problem = match self.leave_former_service(node, arn).await {
                Ok(Some(listing)) => {
                    let former = FormerInstances::of(node, &listing);
                    if former == FormerInstances::default() {
                        left.push(*node);
                    }
                    former.problem(arn)
                }
                Ok(None) | Err(RegistrationError::Gone) => {
                    left.push(*node);
                    None
                }
                Err(failure) => Some(format!(
                    "cannot deregister the pods of this node from its former Cloud Map service `{arn}`: {failure}"
                )),
            };
            problems.extend(problem.map(|problem| (node.object.clone(), problem)));
        }
        left
    }

    /// Deregisters the pods of a node from a service. Returns the instances of the service from before, or `None` if it
    /// does not exist.
    async fn leave_former_service(
        &self,
        node: &NodeRegistration,
        arn: &str,
    ) -> Result<Option<InstanceListing>, RegistrationError> {
        let registry = &self.shared.registry;
        let Some(service) = registry.former_service(arn).await? else {
            return Ok(None);
        };
        let listing = registry.list(&service).await?;
        for id in FormerInstances::of(node, &listing).of_pods {
            let request = InstanceRequest::Deregister;
            registry.send(&service, id, &request).await?;
            info!(service = arn, node = %node.object, instance = id, "deregistered a pod from the former Cloud Map service of its node");
        }
        Ok(Some(listing))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::effect::registration::{
        plan::HealthCheck,
        tests::{holding, node, pod},
    };

    #[test]
    fn only_pods_of_the_node_leave_its_former_service_and_its_other_instances_are_named() {
        let here = node("a", vec![pod("a-1", "10.0.0.1"), pod("a-2", "10.0.0.2")]);
        let elsewhere = [("b-1", "10.0.0.2"), ("b-2", "10.1.0.1")].map(|(name, ip)| pod(name, ip));
        let elsewhere = node("a", elsewhere.into());
        let other = node("other", vec![pod("o", "10.0.0.9")]);
        let here_before = node("a", vec![pod("a-1", "10.0.0.1")]);
        let listing = holding(HealthCheck::None, &[&here_before, &elsewhere, &other]);
        let former = FormerInstances::of(&here, &listing);
        assert_eq!(former.of_pods, ["10.0.0.1"]);
        assert_eq!(former.others, ["10.0.0.2", "10.1.0.1"]);
        let expected = "instances `10.0.0.2`, `10.1.0.1` of this node remain in its former Cloud Map service `arn:old` and are not pods of this Kubernetes cluster; deregister them, or remove the annotation `cloudMapServiceARN` if another cluster registered them";
        assert_eq!(former.problem("arn:old").unwrap(), expected);

        let many = (1..=9).map(|number| pod("b", &format!("10.1.0.{number}")));
        let listing = holding(HealthCheck::None, &[&node("a", many.collect())]);
        let problem = FormerInstances::of(&here, &listing)
            .problem("arn:old")
            .unwrap();
        assert!(
            problem.contains("`10.1.0.5` and 4 more of this node"),
            "{problem}"
        );
        let listing = holding(HealthCheck::None, &[&here_before, &other]);
        assert_eq!(
            FormerInstances::of(&here, &listing).problem("arn:old"),
            None
        );
    }
}
