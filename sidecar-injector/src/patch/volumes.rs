//! Volumes and their mounts in Envoy's container: the token, the SDS socket, and those that annotations name.

use evermesh_ingest::object::is_label;
use evermesh_proto::ContentVersion;
use serde_json::{Value, json};

use super::{PatchContext, PodPatchBuilder, container_path};
use crate::{
    annotation::{Mount, TOKEN_FOLDER, is_same_path},
    decide::RejectedPod,
};

/// The file with the token that the proxy sends to the control plane.
pub(super) const TOKEN: &str = "/var/run/secrets/evermesh.dev/token";
/// The name of that file in its volume.
const TOKEN_FILE: &str = "token";
/// Lifetime of the token, in seconds. The kubelet renews it earlier.
const TOKEN_LIFETIME: u32 = 3600;
const SCRATCH_FOLDER: &str = "/tmp";
/// Characters of the name of a Secret that are kept in the name of its volume if a hash follows.
const KEPT: usize = 46;
/// Characters of a hash in the name of a volume.
const HASH: usize = 16;

/// A volume that Evermesh adds to pods.
enum OwnVolume<'a> {
    /// The token for the control plane, with its audience.
    Token(&'a str),
    /// The socket of the secret discovery service.
    Socket(&'a str),
    /// The only folder of Envoy that can be written to, for access logs.
    Scratch,
}

impl OwnVolume<'_> {
    const fn name(&self) -> &'static str {
        match self {
            Self::Token(_) => "evermesh-token",
            Self::Socket(_) => "appmesh-sds-socket-volume",
            Self::Scratch => "evermesh-envoy-tmp",
        }
    }

    fn value(&self) -> Value {
        let name = self.name();
        match self {
            Self::Token(audience) => {
                let token = json!({
                    "audience": audience,
                    "expirationSeconds": TOKEN_LIFETIME,
                    "path": TOKEN_FILE,
                });
                json!({ "name": name, "projected": { "sources": [{ "serviceAccountToken": token }] } })
            }
            Self::Socket(path) => {
                json!({ "name": name, "hostPath": { "path": path, "type": "Socket" } })
            }
            Self::Scratch => json!({ "name": name, "emptyDir": {} }),
        }
    }

    /// Whether a volume of the pod has what Evermesh would put there.
    fn is_served_by(&self, volume: &Value) -> bool {
        match self {
            Self::Token(audience) => {
                let sources = volume["projected"]["sources"].as_array();
                let mut tokens = sources.into_iter().flatten();
                tokens.any(|source| {
                    let token = &source["serviceAccountToken"];
                    token["path"] == TOKEN_FILE && token["audience"] == **audience
                })
            }
            Self::Socket(path) => volume["hostPath"]["path"] == **path,
            Self::Scratch => !volume["emptyDir"].is_null(),
        }
    }

    fn mount(&self) -> Value {
        let name = self.name();
        match self {
            Self::Token(_) => json!({ "name": name, "mountPath": TOKEN_FOLDER, "readOnly": true }),
            Self::Socket(path) => json!({ "name": name, "mountPath": path }),
            Self::Scratch => json!({ "name": name, "mountPath": SCRATCH_FOLDER }),
        }
    }

    fn add(&self, builder: &mut PodPatchBuilder) -> Result<Value, RejectedPod> {
        match find(builder.pod(), self.name()) {
            None => builder.push(&["spec", "volumes"], self.value()),
            Some(volume) if self.is_served_by(volume) => {}
            Some(_) => {
                return Err(RejectedPod::because_of_pod(format!(
                    "the pod has a volume `{}` with other contents than the volume of this name that Envoy needs; give the volume of the pod another name",
                    self.name()
                )));
            }
        }
        Ok(self.mount())
    }
}

/// Adds the volumes that Envoy needs and the pod does not have, and returns their mounts.
pub(super) fn add(
    builder: &mut PodPatchBuilder,
    context: PatchContext<'_>,
) -> Result<Vec<Value>, RejectedPod> {
    let token = context.settings.control_plane.token_audience.as_deref();
    let own = [
        token.map(OwnVolume::Token),
        socket(context).map(OwnVolume::Socket),
    ];
    let own = own.into_iter().flatten();
    let mut mounts = own
        .map(|it| it.add(builder))
        .collect::<Result<Vec<_>, _>>()?;
    for mount in &context.requested.secret_mounts {
        let volume = add_secret(builder, &mount.name);
        mounts.push(read_only(&volume, &mount.path));
    }
    mounts.extend(present(builder.pod(), &context.requested.volume_mounts));
    Ok(mounts)
}

/// Adds the folder for access logs, unless an annotation mounts another volume there.
pub(super) fn add_scratch(
    builder: &mut PodPatchBuilder,
    mounts: &mut Vec<Value>,
) -> Result<(), RejectedPod> {
    if !mounts.iter().any(|it| mounts_at(it, SCRATCH_FOLDER)) {
        mounts.push(OwnVolume::Scratch.add(builder)?);
    }
    Ok(())
}

/// Adds mounts to a container that the owner of the pod wrote. Its own mounts and devices stay where they are.
pub(super) fn mount_in(
    builder: &mut PodPatchBuilder,
    container: [&str; 3],
    mounts: Vec<Value>,
    warnings: &mut Vec<String>,
) {
    let list = [&container[..], &["volumeMounts"]].concat();
    for mount in mounts {
        let path = mount["mountPath"].as_str().unwrap_or_default();
        let current = builder.pod().pointer(&format!("/{}", container.join("/")));
        let current = current.unwrap_or(&Value::Null);
        let existing = current["volumeMounts"].as_array();
        let existing = existing.and_then(|all| all.iter().find(|it| mounts_at(it, path)));
        let devices = current["volumeDevices"].as_array();
        let mut devices = devices.into_iter().flatten();
        let is_device = devices.any(|it| it["devicePath"] == path || it["name"] == mount["name"]);
        match existing {
            None if !is_device => builder.push(&list, mount),
            Some(existing) if existing["name"] == mount["name"] => {}
            _ => warnings.push(format!(
                "the container `{}` of the pod uses the path `{path}` or the volume `{}` in another way, so Evermesh does not mount the volume at this path",
                current["name"].as_str().unwrap_or_default(),
                mount["name"].as_str().unwrap_or_default()
            )),
        }
    }
}

/// Adds the mounts of volumes that another webhook added to the pod after Envoy's container.
pub(super) fn mount_late(
    builder: &mut PodPatchBuilder,
    context: PatchContext<'_>,
    container: &str,
    warnings: &mut Vec<String>,
) {
    let mounts = present(builder.pod(), &context.requested.volume_mounts);
    if let Some((list, index)) = container_path(builder.pod(), container) {
        mount_in(
            builder,
            ["spec", list, &index.to_string()],
            mounts,
            warnings,
        );
    }
}

/// The mounts of volumes that the pod has.
fn present(pod: &Value, mounts: &[Mount]) -> Vec<Value> {
    let present = mounts.iter().filter(|it| has(pod, &it.name));
    present.map(|it| read_only(&it.name, &it.path)).collect()
}

pub(super) fn read_only(volume: &str, path: &str) -> Value {
    json!({ "name": volume, "mountPath": path, "readOnly": true })
}

fn mounts_at(mount: &Value, path: &str) -> bool {
    mount["mountPath"]
        .as_str()
        .is_some_and(|it| is_same_path(it, path))
}

/// The SDS socket of this pod's proxy.
pub(super) fn socket(context: PatchContext<'_>) -> Option<&str> {
    let socket = context.settings.sds_socket.as_deref();
    socket.filter(|_| context.requested.sds)
}

/// Adds a volume with all keys of a Secret, unless the pod has one, and returns the volume's name.
///
/// The volume has the name of the Secret if that is a DNS label, as names of volumes are, and no other volume has it.
/// Otherwise a hash makes the name valid and unique.
fn add_secret(builder: &mut PodPatchBuilder, secret: &str) -> String {
    let mut attempt = 0_u32;
    loop {
        let name = match attempt {
            0 => secret.to_owned(),
            attempt => hashed(secret, attempt),
        };
        attempt += 1;
        if !is_label(&name) {
            continue;
        }
        match find(builder.pod(), &name) {
            Some(volume) if serves_secret(volume, secret) => return name,
            Some(_) => {}
            None => {
                let volume = json!({ "name": name, "secret": { "secretName": secret } });
                builder.push(&["spec", "volumes"], volume);
                return name;
            }
        }
    }
}

/// A DNS label made from the beginning of a Secret's name and a hash.
fn hashed(secret: &str, attempt: u32) -> String {
    let hash = ContentVersion::of(format!("{attempt} {secret}").as_bytes()).to_string();
    let beginning: String = secret.replace('.', "-").chars().take(KEPT).collect();
    format!("{beginning}-{}", &hash[..HASH])
}

/// Whether a volume has all keys of a Secret, under their names.
fn serves_secret(volume: &Value, secret: &str) -> bool {
    let source = &volume["secret"];
    source["secretName"] == secret && source["items"].as_array().is_none_or(Vec::is_empty)
}

/// Whether the pod has a volume of this name.
pub(super) fn has(pod: &Value, volume: &str) -> bool {
    find(pod, volume).is_some()
}

fn find<'a>(pod: &'a Value, volume: &str) -> Option<&'a Value> {
    let volumes = pod["spec"]["volumes"].as_array();
    volumes?.iter().find(|one| one["name"] == *volume)
}

/// Warnings about volumes that an annotation names and the pod does not have. They are not mounted, because the API server
/// would refuse the pod. Evermesh is called again if another webhook adds them.
pub(super) fn missing(pod: &Value, annotation: &str, mounts: &[Mount]) -> Vec<String> {
    let missing = mounts.iter().filter(|it| !has(pod, &it.name));
    missing
        .map(|mount| {
            format!(
                "the annotation `{annotation}` names the volume `{}`, which the pod does not have; unless another webhook adds the volume, nothing is mounted at `{}`; add the volume to the pod",
                mount.name, mount.path
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add_secrets(volumes: &Value, secrets: &[&str]) -> (Vec<String>, Value) {
        let mut builder = PodPatchBuilder::new(&json!({ "spec": { "volumes": volumes } }));
        let names = secrets
            .iter()
            .map(|it| add_secret(&mut builder, it))
            .collect();
        (names, builder.pod()["spec"]["volumes"].clone())
    }

    #[test]
    fn volume_of_a_secret_has_a_valid_and_unique_name() {
        let long = "a".repeat(64);
        let longer = format!("{long}.b");
        let secrets = [
            "tls",
            "tls.shop.example.com",
            &long,
            &longer,
            "tls-shop-example-com",
        ];
        let (names, volumes) = add_secrets(&json!([]), &secrets);
        assert_eq!(names[0], "tls");
        assert_eq!(names[4], "tls-shop-example-com");
        for (index, (name, secret)) in names.iter().zip(secrets).enumerate() {
            assert!(is_label(name), "{name}");
            assert_eq!(volumes[index]["name"], **name);
            assert_eq!(volumes[index]["secret"]["secretName"], secret);
        }
        let (again, same) = add_secrets(&volumes, &secrets);
        assert_eq!((again, same), (names, volumes));
    }

    #[test]
    fn volume_with_other_contents_does_not_replace_a_secret() {
        for other in [
            json!({ "name": "tls", "emptyDir": {} }),
            json!({ "name": "tls", "secret": { "secretName": "other" } }),
            json!({ "name": "tls", "secret": { "secretName": "tls", "items": [{ "key": "a", "path": "a" }] } }),
        ] {
            let (names, volumes) = add_secrets(&json!([other]), &["tls"]);
            assert_ne!(names[0], "tls");
            assert_eq!(volumes[1]["name"], *names[0]);
            // A second volume with the hashed name gets yet another hash.
            let taken = json!([other, { "name": names[0], "emptyDir": {} }]);
            let (others, volumes) = add_secrets(&taken, &["tls"]);
            assert_ne!(others, names);
            assert_eq!(volumes[2]["secret"]["secretName"], "tls");
        }
        let own = json!([{ "name": "tls", "secret": { "secretName": "tls", "defaultMode": 420, "items": [] } }]);
        assert_eq!(add_secrets(&own, &["tls"]), (vec!["tls".to_owned()], own));
    }

    #[test]
    fn volume_of_evermesh_is_not_replaced_by_another_one() {
        let token = OwnVolume::Token("evermesh");
        let other_audience = OwnVolume::Token("other").value();
        let scratch = OwnVolume::Scratch;
        let socket = OwnVolume::Socket("/run/a.sock");
        for (own, others) in [
            (
                &token,
                [
                    other_audience,
                    json!({ "name": token.name(), "emptyDir": {} }),
                ],
            ),
            (
                &socket,
                [
                    OwnVolume::Socket("/run/b.sock").value(),
                    json!({ "name": socket.name() }),
                ],
            ),
            (
                &scratch,
                [
                    json!({ "name": scratch.name(), "hostPath": { "path": "/" } }),
                    json!({ "name": scratch.name() }),
                ],
            ),
        ] {
            let mut builder =
                PodPatchBuilder::new(&json!({ "spec": { "volumes": [own.value()] } }));
            own.add(&mut builder).unwrap();
            assert!(builder.into_patch().0.is_empty());
            for other in others {
                let pod = json!({ "spec": { "volumes": [other] } });
                let rejected = own.add(&mut PodPatchBuilder::new(&pod)).unwrap_err();
                assert!(rejected.message.contains(own.name()), "{rejected}");
            }
        }
    }
}
