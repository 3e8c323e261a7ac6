//! Requests and limits of the containers, from annotations and settings.

use super::{AnnotationReader, exceeds, key, quantity};
use crate::settings::Resources;

/// The request and the limit of one resource. An empty text is not set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Amounts {
    request: String,
    limit: String,
}

/// A resource, the prefix of its annotations, and the prefix of its flags.
struct ResourceNames {
    resource: &'static str,
    request: &'static str,
    limit: &'static str,
    request_flag: &'static str,
    limit_flag: &'static str,
}

const CPU: ResourceNames = ResourceNames {
    resource: "cpu",
    request: "cpuRequest",
    limit: "cpuLimit",
    request_flag: "--sidecar-cpu-requests",
    limit_flag: "--sidecar-cpu-limits",
};

const MEMORY: ResourceNames = ResourceNames {
    resource: "memory",
    request: "memoryRequest",
    limit: "memoryLimit",
    request_flag: "--sidecar-memory-requests",
    limit_flag: "--sidecar-memory-limits",
};

/// The resources of `envoy` and `xray-daemon`, and those of `proxyinit`, which no annotation changes.
pub(super) fn read(
    reader: &mut AnnotationReader<'_>,
    defaults: &Resources,
) -> (Resources, Resources) {
    let of = |cpu: Amounts, memory: Amounts| Resources {
        cpu_request: cpu.request,
        cpu_limit: cpu.limit,
        memory_request: memory.request,
        memory_limit: memory.limit,
    };
    let default_cpu = Amounts {
        request: defaults.cpu_request.clone(),
        limit: defaults.cpu_limit.clone(),
    };
    let default_memory = Amounts {
        request: defaults.memory_request.clone(),
        limit: defaults.memory_limit.clone(),
    };
    let [cpu, init_cpu] = amounts(reader, &CPU, default_cpu);
    let [memory, init_memory] = amounts(reader, &MEMORY, default_memory);
    (of(cpu, memory), of(init_cpu, init_memory))
}

/// The amounts with the annotations, and without them.
fn amounts(
    reader: &mut AnnotationReader<'_>,
    names: &ResourceNames,
    defaults: Amounts,
) -> [Amounts; 2] {
    let request = reader.read(names.request, quantity);
    let limit = reader.read(names.limit, quantity);
    if is_set_for_the_pod(reader, names) {
        for (name, annotated) in [(names.request, &request), (names.limit, &limit)] {
            if annotated.is_some() {
                reader.warnings.push(format!(
                    "the annotation `{}` has no effect, because spec.resources of the pod sets {} for all containers together; remove the annotation",
                    key(name),
                    names.resource
                ));
            }
        }
        return [Amounts::default(), Amounts::default()];
    }
    [
        consistent(reader, names, request, limit, &defaults),
        defaults,
    ]
}

/// Whether the pod has a request or limit for all containers together. Kubernetes refuses a pod whose containers request
/// more, and derives a missing request of the pod from its containers before Evermesh adds one.
fn is_set_for_the_pod(reader: &AnnotationReader<'_>, names: &ResourceNames) -> bool {
    let resources = &reader.pod["spec"]["resources"];
    let mut fields = ["requests", "limits"].iter();
    fields.any(|field| !resources[field][names.resource].is_null())
}

/// Amounts of which the request is not larger than the limit.
fn consistent(
    reader: &mut AnnotationReader<'_>,
    names: &ResourceNames,
    request: Option<String>,
    limit: Option<String>,
    defaults: &Amounts,
) -> Amounts {
    let chosen = Amounts {
        request: request.clone().unwrap_or_else(|| defaults.request.clone()),
        limit: limit.clone().unwrap_or_else(|| defaults.limit.clone()),
    };
    if !exceeds(&chosen.request, &chosen.limit) {
        return chosen;
    }
    let Amounts {
        request: most,
        limit: least,
    } = &chosen;
    match (request, limit) {
        (Some(request), Some(limit)) => {
            let reason = format!(
                "more than the limit in `{}`, which is `{limit}`; write a request of at most `{limit}`, or a limit of at least `{request}`",
                key(names.limit)
            );
            reader.refuse(key(names.request), &request, &reason);
            reader.replaced.push(key(names.limit));
            defaults.clone()
        }
        (Some(request), None) => {
            let reason = format!(
                "more than the limit of all sidecars, which is `{least}` ({}); write at most `{least}`, or set `{}` as well",
                names.limit_flag,
                key(names.limit)
            );
            reader.refuse(key(names.request), &request, &reason);
            defaults.clone()
        }
        (None, limit) => {
            if limit.is_some() {
                reader.warnings.push(format!(
                    "the request of Envoy is `{least}` like the limit in the annotation `{}`, because the request of all sidecars is `{most}` ({}); set `{}` to choose another request",
                    key(names.limit),
                    names.request_flag,
                    key(names.request)
                ));
            }
            Amounts {
                request: least.clone(),
                limit: least.clone(),
            }
        }
    }
}
