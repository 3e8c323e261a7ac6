//! Generates the Envoy API types from the descriptor set that the `envoy-types` package carries.
//!
//! The package is an optional dependency behind the feature `carrier`, which is never enabled. So Cargo locks it with a
//! checksum and fetches it, and never compiles it. The repository contains no third-party proto.
//!
//! The gRPC clients and servers are generated too; the crate compiles them with the feature `grpc` only.

use std::{collections::BTreeSet, env, error::Error, fs, path::PathBuf};

use cargo_metadata::{CargoOpt, MetadataCommand};
use prost::{Message, bytes::Bytes};
use prost_types::FileDescriptorSet;

/// Files and folders of protos whose types Evermesh uses. Their imports are added by [`with_imports`].
const ROOTS: &[&str] = &[
    "envoy/config/bootstrap/v3/",
    "envoy/config/trace/v3/",
    "envoy/extensions/access_loggers/file/",
    "envoy/extensions/access_loggers/stream/",
    "envoy/extensions/filters/http/lua/v3/",
    "envoy/extensions/filters/http/router/",
    "envoy/extensions/filters/http/upstream_codec/v3/",
    "envoy/extensions/filters/listener/original_dst/",
    "envoy/extensions/filters/listener/tls_inspector/",
    "envoy/extensions/filters/network/http_connection_manager/",
    "envoy/extensions/filters/network/tcp_proxy/",
    "envoy/extensions/retry/host/previous_hosts/",
    "envoy/extensions/transport_sockets/tls/v3/",
    "envoy/extensions/upstreams/http/v3/",
    "envoy/service/cluster/v3/",
    "envoy/service/discovery/v3/",
    "envoy/service/endpoint/v3/",
    "envoy/service/listener/v3/",
    "envoy/service/load_stats/v3/",
    "envoy/service/route/v3/",
    "envoy/service/secret/v3/",
    "envoy/service/status/v3/",
    "google/rpc/status.proto",
];

/// A `FileDescriptorSet` in which messages stay as they are encoded. `prost_types` drops options that it does not know,
/// among them the rules by which Envoy validates messages (`validate.rules`).
#[derive(Clone, PartialEq, Message)]
struct EncodedSet {
    #[prost(message, repeated, tag = "1")]
    file: Vec<EncodedFile>,
}

/// A `FileDescriptorProto` without `source_code_info`, which is most of it.
#[derive(Clone, PartialEq, Message)]
struct EncodedFile {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    package: String,
    #[prost(string, repeated, tag = "3")]
    dependency: Vec<String>,
    #[prost(bytes = "bytes", repeated, tag = "4")]
    message_type: Vec<Bytes>,
    #[prost(bytes = "bytes", repeated, tag = "5")]
    enum_type: Vec<Bytes>,
    #[prost(bytes = "bytes", repeated, tag = "6")]
    service: Vec<Bytes>,
    #[prost(bytes = "bytes", repeated, tag = "7")]
    extension: Vec<Bytes>,
    #[prost(bytes = "bytes", optional, tag = "8")]
    options: Option<Bytes>,
    #[prost(int32, repeated, packed = "false", tag = "10")]
    public_dependency: Vec<i32>,
    #[prost(string, optional, tag = "12")]
    syntax: Option<String>,
}

fn main() -> Result<(), Box<dyn Error>> {
    let descriptors = carrier()?.join("src/generated/types.bin");
    let bytes = fs::read(&descriptors)?;
    let mut set = FileDescriptorSet::decode(bytes.as_slice())?;
    let mut encoded = EncodedSet::decode(bytes.as_slice())?;
    let wanted = with_imports(&set);
    encoded.file.retain(|file| wanted.contains(&file.name));
    set.file.retain(|file| wanted.contains(file.name()));
    for file in &mut set.file {
        file.source_code_info = None;
    }
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("envoy.fds"), encoded.encode_to_vec())?;

    let mut config = tonic_prost_build::Config::new();
    config
        .btree_map(["."]) // ordered: equal messages have equal bytes
        .bytes([".google.protobuf.Any"]) // a clone shares the payload
        .enable_type_names()
        .type_name_domain(["."], "type.googleapis.com")
        .compile_well_known_types()
        .include_file("mod.rs");
    tonic_prost_build::configure()
        .client_mod_attribute(".", "#[cfg(feature = \"grpc\")]")
        .server_mod_attribute(".", "#[cfg(feature = \"grpc\")]")
        .compile_fds_with_config(set, config)?;

    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed={}", descriptors.display());
    Ok(())
}

/// The folder where Cargo unpacked `envoy-types`. The feature `carrier` puts the package into the dependency graph.
fn carrier() -> Result<PathBuf, Box<dyn Error>> {
    let metadata = MetadataCommand::new()
        .manifest_path(PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join("Cargo.toml"))
        .features(CargoOpt::SomeFeatures(vec!["carrier".into()]))
        .other_options([
            "--locked".into(),
            "--filter-platform".into(),
            env::var("TARGET")?,
        ])
        .exec()?;
    let package = metadata
        .packages
        .iter()
        .find(|package| package.name.as_str() == "envoy-types");
    let manifest = &package
        .ok_or("envoy-types is not in the dependency graph")?
        .manifest_path;
    Ok(manifest
        .parent()
        .ok_or("the manifest of envoy-types has no parent folder")?
        .into())
}

/// The names of the files under [`ROOTS`] and of all files that these import, directly or not.
fn with_imports(set: &FileDescriptorSet) -> BTreeSet<String> {
    let mut wanted = BTreeSet::new();
    for root in ROOTS {
        let before = wanted.len();
        wanted.extend(
            set.file
                .iter()
                .map(|file| file.name().to_owned())
                .filter(|name| name.starts_with(root)),
        );
        assert!(
            before < wanted.len(),
            "ROOTS: no file that is not listed yet begins with {root}"
        );
    }
    let mut queue: Vec<String> = wanted.iter().cloned().collect();
    while let Some(name) = queue.pop() {
        let file = set
            .file
            .iter()
            .find(|file| file.name() == name)
            .expect("the descriptor set contains every imported file");
        queue.extend(
            file.dependency
                .iter()
                .filter(|import| wanted.insert((*import).clone()))
                .cloned(),
        );
    }
    wanted
}
