//! `scripts/images` writes reproducible images that are named by their content and can run, and lists of what they contain.

#![allow(clippy::unwrap_used)] // a panic fails the test

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use evermesh_testkit::{process, tools};
use serde_json::Value;
use tempfile::TempDir;

const NAME: &str = "evermesh-test-app";

/// Writes one image of a program that links shared libraries, and returns the folder.
fn write_image() -> TempDir {
    let dir = tools::scratch("images").unwrap();
    let binary = tools::built(NAME).unwrap();
    process::run(&mut script(binary.parent().unwrap(), dir.path())).unwrap();
    dir
}

/// The command that writes the image of a program in the folder `binaries`.
fn script(binaries: &Path, output: &Path) -> Command {
    let mut script = Command::new(tools::workspace().unwrap().join("scripts/images"));
    script.arg("--binaries").arg(binaries);
    script.arg("--output").arg(output).arg(NAME);
    script
}

fn archive(dir: &Path) -> PathBuf {
    dir.join(format!("{NAME}.tar"))
}

fn sbom(dir: &Path) -> PathBuf {
    dir.join(format!("{NAME}.cdx.json"))
}

fn sha256(file: &Path) -> String {
    let printed = process::run(Command::new("sha256sum").arg(file)).unwrap();
    printed.split_whitespace().next().unwrap().to_owned()
}

fn unpack(archive: &Path, into: &Path) {
    fs::create_dir(into).unwrap();
    let mut tar = Command::new("tar");
    tar.arg("--extract").arg("--file").arg(archive);
    process::run(tar.arg("--directory").arg(into)).unwrap();
}

/// Unpacks the archive and returns the folder and the only entry of its manifest.
fn unpack_archive(dir: &Path) -> (PathBuf, Value) {
    let opened = dir.join("opened");
    unpack(&archive(dir), &opened);
    let manifest = fs::read_to_string(opened.join("manifest.json")).unwrap();
    let mut manifest: Value = serde_json::from_str(&manifest).unwrap();
    assert_eq!(manifest.as_array().unwrap().len(), 1);
    (opened, manifest[0].take())
}

#[test]
fn same_program_makes_the_same_bytes() {
    let [one, two] = [write_image(), write_image()];
    let bytes = |path: fn(&Path) -> PathBuf| {
        let [one, two] = [&one, &two].map(|dir| fs::read(path(dir.path())).unwrap());
        assert!(one == two, "{} and {} bytes", one.len(), two.len());
    };
    bytes(archive);
    bytes(sbom);
}

#[test]
fn archive_is_kept_until_the_program_changes() {
    let dir = tools::scratch("images").unwrap();
    let program = dir.path().join(NAME);
    let write = |from: &str| {
        fs::copy(from, &program).unwrap();
        let mut script = script(dir.path(), dir.path());
        process::run(script.arg("--keep")).unwrap()
    };
    assert!(write("/bin/true").contains(NAME));
    let first = sha256(&archive(dir.path()));
    assert_eq!(write("/bin/true"), "");
    assert!(write("/bin/false").contains(NAME));
    assert_ne!(sha256(&archive(dir.path())), first);
    assert!(write("/bin/true").contains(NAME));
    assert_eq!(sha256(&archive(dir.path())), first);
}

#[test]
fn sbom_names_every_crate_of_the_binary_and_every_package_of_its_libraries() {
    let dir = write_image();
    let bom: Value = serde_json::from_str(&fs::read_to_string(sbom(dir.path())).unwrap()).unwrap();
    let subject = &bom["metadata"]["component"];
    assert_eq!(subject["name"], NAME);
    assert_eq!(
        subject["hashes"][0]["content"],
        sha256(&archive(dir.path()))
    );
    let components = bom["components"].as_array().unwrap();
    let names: BTreeSet<_> = components
        .iter()
        .map(|it| it["purl"].as_str().unwrap())
        .collect();
    let linked = crates_in(&tools::built(NAME).unwrap());
    assert!(linked.len() > 20, "{linked:?}");
    let missing: Vec<_> = linked
        .iter()
        .filter(|it| !names.contains(it.as_str()))
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
    // The program links the C library, and no crate of the control plane.
    assert!(
        names
            .iter()
            .any(|it| it.starts_with("pkg:deb/debian/libc6@")),
        "{names:?}"
    );
    assert!(
        !names
            .iter()
            .any(|it| it.starts_with("pkg:cargo/evermesh-xds@"))
    );
}

/// The crates whose source files a program names, for messages of panics and for debuggers, as package URLs.
fn crates_in(program: &Path) -> BTreeSet<String> {
    let bytes = fs::read(program).unwrap();
    let text = String::from_utf8_lossy(&bytes);
    let paths = text.split("/registry/src/").skip(1);
    // A path may end with its folder, since the program keeps folders and names of files apart.
    let folders = paths.filter_map(|path| path.split(['/', '\0']).nth(1));
    let crates = folders.filter_map(|folder| {
        let is_version = |at: usize| {
            let rest = &folder[at + 1..];
            rest.starts_with(|it: char| it.is_ascii_digit()) && rest.matches('.').count() >= 2
        };
        let mut dashes = folder.match_indices('-').map(|(at, _)| at);
        let at = dashes.find(|at| is_version(*at))?;
        Some(format!("pkg:cargo/{}@{}", &folder[..at], &folder[at + 1..]))
    });
    crates.collect()
}

#[test]
fn config_and_layer_are_named_by_their_digests() {
    let dir = write_image();
    let (opened, manifest) = unpack_archive(dir.path());
    let config = manifest["Config"].as_str().unwrap();
    assert_eq!(config, format!("{}.json", sha256(&opened.join(config))));
    let layers = manifest["Layers"].as_array().unwrap();
    assert_eq!(layers.len(), 1);
    let layer = layers[0].as_str().unwrap();
    let digest = sha256(&opened.join(layer));
    assert_eq!(layer, format!("{digest}/layer.tar"));

    let config = fs::read_to_string(opened.join(config)).unwrap();
    let config: Value = serde_json::from_str(&config).unwrap();
    assert_eq!(config["rootfs"]["diff_ids"][0], format!("sha256:{digest}"));
    assert_eq!(config["config"]["User"], "65532:65532");
    assert_eq!(config["config"]["Entrypoint"][0], NAME);
}

#[test]
fn image_has_everything_that_the_program_needs() {
    let dir = write_image();
    let (opened, manifest) = unpack_archive(dir.path());
    let root = dir.path().join("rootfs");
    unpack(&opened.join(manifest["Layers"][0].as_str().unwrap()), &root);
    let passwd = fs::read_to_string(root.join("etc/passwd")).unwrap();
    assert!(passwd.contains(":65532:65532:"), "{passwd}");
    let mut chroot = Command::new("unshare");
    chroot.args(["--map-root-user", "chroot"]).arg(&root);
    let help = process::run(chroot.args(["/usr/bin/evermesh-test-app", "--help"])).unwrap();
    assert!(help.contains("Usage: "), "{help}");
}
