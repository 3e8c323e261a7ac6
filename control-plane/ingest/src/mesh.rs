//! `Mesh` → [`ResolvedMesh`], and the index of meshes that membership uses.

use std::{collections::BTreeMap, sync::Arc};

use evermesh_crds::v1beta2;
use evermesh_model::{
    EgressPolicy, IpFamilyPreference, ObjectRef, Problem, Reason, ResolvedMesh, SharedMap,
    problem::FieldPath,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use crate::{
    admission,
    membership::MeshLookup,
    registration::rules,
    secrets,
    seniority::{Contender, ObjectAge},
    stage::{Problems, WithProblems},
    values,
};

/// Annotation that overrides [`crate::IngestSettings::endpoint_slices`] for one mesh.
const ENDPOINT_SLICES: &str = "evermesh.dev/endpoint-slices";

/// Annotation that closes the exception of `DROP_ALL`.
const AWS_EGRESS: &str = "evermesh.dev/aws-egress";

/// A parsed mesh with its `namespaceSelector`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct UnresolvedMesh {
    pub(crate) mesh: ResolvedMesh,
    age: ObjectAge,
    selector: Option<LabelSelector>,
}

impl Contender for UnresolvedMesh {
    fn object(&self) -> &ObjectRef {
        &self.mesh.object
    }

    fn age(&self) -> &ObjectAge {
        &self.age
    }
}

pub(crate) fn parse(object: &ObjectRef, mesh: &v1beta2::Mesh) -> WithProblems<UnresolvedMesh> {
    let mut problems = Problems::of(object);
    let v1beta2::MeshSpec {
        aws_name,
        namespace_selector,
        egress_filter,
        mesh_owner: _, // part of node IDs, but ignored by their parser
        mesh_service_discovery,
    } = &mesh.spec;
    let name = values::name(
        admission::aws_name(object, aws_name.as_deref()),
        &mut problems,
    );
    let ip_preference = mesh_service_discovery
        .and_then(|v1beta2::MeshServiceDiscovery { ip_preference }| ip_preference);
    let mappings = secrets::read_mappings(mesh, &mut problems);
    let value = name.map(|name| UnresolvedMesh {
        mesh: ResolvedMesh {
            name,
            object: object.clone(),
            egress: match egress_filter {
                Some(v1beta2::EgressFilter {
                    r#type: v1beta2::EgressFilterType::AllowAll,
                }) => EgressPolicy::AllowAll,
                Some(v1beta2::EgressFilter {
                    r#type: v1beta2::EgressFilterType::DropAll,
                })
                | None => drop_all(mesh, &mut problems),
            },
            ip_preference: ip_preference.map(|preference| match preference {
                v1beta2::IpPreference::Ipv4Only => IpFamilyPreference::Ipv4Only,
                v1beta2::IpPreference::Ipv6Only => IpFamilyPreference::Ipv6Only,
            }),
            endpoint_slices: values::switch(
                &mesh.metadata,
                ENDPOINT_SLICES,
                "the setting of the control plane applies",
                &mut problems,
            ),
            acm_certificates: mappings.certificates,
            acm_authorities: mappings.authorities,
            cloud_map_registration: rules::read(mesh, &mut problems),
        },
        age: ObjectAge::of(&mesh.metadata),
        selector: namespace_selector.clone(),
    });
    WithProblems::new(value, problems)
}

/// The policy of a Mesh with `DROP_ALL`. An annotation that cannot be read closes the exception: it stands there to close it.
fn drop_all(mesh: &v1beta2::Mesh, problems: &mut Problems<'_>) -> EgressPolicy {
    let annotations = mesh.metadata.annotations.as_ref();
    if !annotations.is_some_and(|all| all.contains_key(AWS_EGRESS)) {
        return EgressPolicy::DropAll;
    }
    let otherwise = "connections to AWS APIs are dropped too";
    match values::switch(&mesh.metadata, AWS_EGRESS, otherwise, problems) {
        Some(true) => EgressPolicy::DropAll,
        Some(false) | None => EgressPolicy::BackendsOnly,
    }
}

/// All valid meshes.
#[derive(Debug, PartialEq)]
pub(crate) struct MeshIndex {
    pub(crate) by_name: SharedMap<Arc<str>, ResolvedMesh>,
    pub(crate) membership: MeshLookup,
    pub(crate) problems: Arc<[Problem]>,
}

impl MeshIndex {
    /// Indexes meshes. Of two meshes with the same `awsName`, the older one takes precedence.
    pub(crate) fn new(
        meshes: &BTreeMap<ObjectRef, Arc<ResolvedMesh>>,
        unresolved: &BTreeMap<ObjectRef, Arc<UnresolvedMesh>>,
    ) -> Self {
        let mut by_name: BTreeMap<Arc<str>, Arc<ResolvedMesh>> = BTreeMap::new();
        let mut by_object = BTreeMap::new();
        let mut problems = Vec::new();
        let mut pairs: Vec<_> = meshes.iter().zip(unresolved.values()).collect();
        pairs.sort_by(|(_, one), (_, other)| one.seniority().cmp(&other.seniority()));
        for ((object, mesh), unresolved) in pairs {
            if let Some(first) = by_name.get(&mesh.name) {
                problems.push(Problem::new(
                    object,
                    FieldPath::spec().field("awsName"),
                    Reason::DuplicateName,
                    format!(
                        "awsName `{}` is already used by `{}`, which takes precedence; choose another awsName",
                        mesh.name, first.object
                    ),
                ));
                continue;
            }
            by_name.insert(Arc::clone(&mesh.name), Arc::clone(mesh));
            by_object.insert(
                Arc::clone(&object.name),
                (Arc::clone(mesh), unresolved.selector.clone()),
            );
        }
        Self {
            by_name: Arc::new(by_name),
            membership: MeshLookup::new(&by_object),
            problems: problems.into(),
        }
    }
}
