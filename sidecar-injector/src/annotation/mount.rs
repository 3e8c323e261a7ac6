//! Annotations that mount a Secret or a volume: `NAME:PATH`, separated by commas.

use evermesh_ingest::object::{is_label, is_subdomain};

use super::{items, shown};

/// The folder of Envoy's container with the token for the control plane.
pub(crate) const TOKEN_FOLDER: &str = "/var/run/secrets/evermesh.dev";

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mount {
    /// The name of a Secret or a volume.
    pub(crate) name: String,
    /// An absolute path.
    pub(crate) path: String,
}

/// The object that an annotation mounts, which decides about its names.
#[derive(Debug, Clone, Copy)]
pub(super) enum Mounted {
    Secret,
    Volume,
}

/// Paths of the container that are in use already.
#[derive(Debug, Clone, Copy)]
pub(super) struct TakenPaths<'a> {
    /// The socket of the secret discovery service.
    pub(super) socket: Option<&'a str>,
    /// The mounts of other annotations.
    pub(super) mounts: &'a [Mount],
}

impl TakenPaths<'_> {
    /// No paths.
    pub(super) const NONE: Self = Self {
        socket: None,
        mounts: &[],
    };
}

pub(super) fn mounts(
    text: &str,
    mounted: Mounted,
    taken: TakenPaths<'_>,
) -> Result<Vec<Mount>, String> {
    let mut mounts: Vec<Mount> = Vec::new();
    for item in items(text) {
        let mount = mount(item, mounted)?;
        if let Some(socket) = taken.socket.filter(|it| overlap(it, &mount.path)) {
            return Err(format!(
                "`{}` overlaps `{socket}`, where Evermesh mounts the SDS socket; use another path",
                shown(item)
            ));
        }
        let mut others = taken.mounts.iter().chain(&mounts);
        if let Some(other) = others.find(|other| is_same_path(&other.path, &mount.path)) {
            return Err(format!(
                "`{}` has the path of `{}:{}`; mount each Secret or volume at a path of its own",
                shown(item),
                shown(&other.name),
                shown(&other.path)
            ));
        }
        mounts.push(mount);
    }
    Ok(mounts)
}

fn mount(item: &str, mounted: Mounted) -> Result<Mount, String> {
    let (name, path) = item
        .split_once(':')
        .map(|(name, path)| (name.trim(), path.trim()))
        .filter(|(name, path)| !name.is_empty() && path.starts_with('/'))
        .ok_or_else(|| {
            format!(
                "`{}` is not of the form NAME:PATH with an absolute path",
                shown(item)
            )
        })?;
    match mounted {
        Mounted::Secret if !is_subdomain(name) => Err(format!(
            "`{}` is not the name of a Secret, which has at most 253 lower-case letters, digits, `-` and `.`",
            shown(name)
        )),
        Mounted::Volume if !is_label(name) => Err(format!(
            "`{}` is not the name of a volume, which has at most 63 lower-case letters, digits and `-`",
            shown(name)
        )),
        Mounted::Secret | Mounted::Volume => Ok(Mount {
            name: name.to_owned(),
            path: mount_path(path)?,
        }),
    }
}

/// Checks a path in Envoy's container at which a volume is mounted, and returns it unchanged.
///
/// # Errors
/// If Kubernetes or the container runtime refuses the path, or if the mount would hide a file that Envoy needs.
pub fn mount_path(path: &str) -> Result<String, String> {
    let shown = shown(path);
    if !path.starts_with('/') {
        return Err("use an absolute path".to_owned());
    }
    if path.contains(|it: char| it == ':' || it.is_control())
        || path.split('/').any(|it| it == "..")
    {
        return Err(format!(
            "the path `{shown}` has a `:`, a `..` or a control character; use an absolute path without them"
        ));
    }
    if parts(path).is_empty() || overlap(path, TOKEN_FOLDER) {
        return Err(format!(
            "a mount at `{shown}` would hide files that Envoy needs; use a path that is neither `/` nor inside or above `{TOKEN_FOLDER}`"
        ));
    }
    Ok(path.to_owned())
}

/// Whether two paths lead to the same file or folder.
pub(crate) fn is_same_path(one: &str, other: &str) -> bool {
    resolved(one) == resolved(other)
}

/// Whether one of the paths is inside the other, or both are the same.
fn overlap(one: &str, other: &str) -> bool {
    [parts, resolved].into_iter().any(|parts| {
        let (one, other) = (parts(one), parts(other));
        one.starts_with(&other) || other.starts_with(&one)
    })
}

/// The names on a path.
fn parts(path: &str) -> Vec<&str> {
    let parts = path.split('/');
    parts.filter(|it| !it.is_empty() && *it != ".").collect()
}

/// The names on the path that the container sees: in Envoy's image `/var/run` is a link to `/run`.
fn resolved(path: &str) -> Vec<&str> {
    let mut parts = parts(path);
    if parts.starts_with(&["var", "run"]) {
        parts.remove(0);
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secrets(text: &str) -> Result<Vec<Mount>, String> {
        mounts(text, Mounted::Secret, TakenPaths::NONE)
    }

    fn volumes(text: &str) -> Result<Vec<Mount>, String> {
        mounts(text, Mounted::Volume, TakenPaths::NONE)
    }

    #[test]
    fn names_are_those_of_secrets_or_of_volumes() {
        let long = format!("{}:/a", "a".repeat(64));
        for good in ["tls:/a", "tls.shop.example.com:/a", &long] {
            assert!(secrets(good).is_ok(), "{good}");
        }
        for bad in ["TLS:/a", "tls_1:/a", "-tls:/a", "tls.:/a", ":/a"] {
            assert!(secrets(bad).is_err(), "{bad}");
        }
        assert!(volumes("certs-1:/a, data : /b").is_ok());
        for bad in ["tls.shop:/a", "Certs:/a", &long] {
            assert!(volumes(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn each_path_is_mounted_once() {
        for twice in [
            "a:/x,b:/x",
            "a:/x,a:/x",
            "a:/x,b:/x/",
            "a:/x/y,b://x/./y",
            "a:/run/x,b:/var/run/x",
        ] {
            let error = secrets(twice).unwrap_err();
            assert!(error.contains("path of its own"), "{twice}: {error}");
        }
        let others = secrets("a:/x").unwrap();
        let taken = TakenPaths {
            socket: Some("/run/spire/agent.sock"),
            mounts: &others,
        };
        for bad in [
            "b:/x",
            "b:/run/spire",
            "b:/var/run",
            "b:/run/spire/agent.sock",
        ] {
            assert!(mounts(bad, Mounted::Volume, taken).is_err(), "{bad}");
        }
        assert!(mounts("b:/x/y,c:/run/spire2", Mounted::Volume, taken).is_ok());
    }

    #[test]
    fn paths_of_envoy_and_paths_that_cannot_be_mounted_are_refused() {
        for bad in [
            "/a:ro",
            "/a/../b",
            "/a\n",
            "/",
            "//",
            "/var",
            "/var/run/secrets",
            "/run",
            "/run/secrets/evermesh.dev/token",
            "a",
        ] {
            assert!(mount_path(bad).is_err(), "{bad}");
        }
        for good in ["/certs", "/tmp/", "/var/run/secrets/other", "/a..b"] {
            assert_eq!(mount_path(good).as_deref(), Ok(good));
        }
    }
}
