use std::{env, fs, path::PathBuf, process::ExitCode};

use super::*;
use crate::args::LintFormat;

fn lint(folder: &str, output: LintFormat) -> (String, ExitCode) {
    let args = LintArgs {
        config: PathBuf::from(folder),
        output,
    };
    let mut printed = Vec::new();
    let code = run(&args, &mut printed).unwrap();
    (String::from_utf8(printed).unwrap(), code)
}

/// The findings of `testdata/shop` in each format. `INSTA_UPDATE=always` writes them.
#[test]
fn outputs_have_the_place_of_each_finding() {
    for (output, file) in [
        (LintFormat::Text, "text.txt"),
        (LintFormat::Json, "json.json"),
        (LintFormat::Sarif, "sarif.json"),
        (LintFormat::Github, "github.txt"),
    ] {
        let (printed, code) = lint("src/lint/testdata/shop", output);
        let printed = printed.replace(env!("CARGO_PKG_VERSION"), "VERSION");
        assert_eq!(format!("{code:?}"), format!("{:?}", ExitCode::FAILURE));
        let expected = format!("src/lint/testdata/{file}");
        if env::var("INSTA_UPDATE").is_ok_and(|it| it == "always") {
            fs::write(&expected, &printed).unwrap();
        }
        assert_eq!(printed, fs::read_to_string(&expected).unwrap(), "{file}");
    }
}

fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        fs::write(folder.path().join(name), text).unwrap();
    }
    folder
}

/// The text output of files, with paths below their folder.
fn lint_files(files: &[(&str, &str)]) -> String {
    let folder = folder(files);
    let path = folder.path().to_str().unwrap();
    let (printed, _) = lint(path, LintFormat::Text);
    printed.replace(&format!("{path}/"), "")
}

const MESH: &str = "apiVersion: appmesh.k8s.aws/v1beta2\nkind: Mesh\nmetadata: {name: m}\nspec: {namespaceSelector: {}}\n";

#[test]
fn folder_without_workloads_has_no_finding_about_pods() {
    let node = "apiVersion: appmesh.k8s.aws/v1beta2\nkind: VirtualNode\nmetadata: {name: web}\nspec: {podSelector: {matchLabels: {app: web}}}\n";
    let alone = lint_files(&[("mesh.yaml", MESH), ("node.yaml", node)]);
    assert_eq!(alone, "0 errors, 0 warnings\n");
    let job =
        "apiVersion: batch/v1\nkind: Job\nmetadata: {name: j}\nspec: {template: {spec: {}}}\n";
    let beside = lint_files(&[("mesh.yaml", MESH), ("node.yaml", node), ("job.yaml", job)]);
    assert!(beside.contains("(NoPodSelected)"), "{beside}");
}

#[test]
fn line_of_a_secret_is_not_shown() {
    let secret = "apiVersion: v1\nkind: Secret\nmetadata: {name: a}\nstringData: {pin: 0123456}\n";
    let printed = lint_files(&[("secret.yaml", secret)]);
    assert!(printed.contains("secret.yaml:4:19: warning: "), "{printed}");
    assert!(!printed.contains("123456"), "{printed}");
    let broken = lint_files(&[("secret.yaml", "kind: Secret\nkey: 'AAAA\n")]);
    assert!(broken.contains("secret.yaml:"), "{broken}");
    assert!(!broken.contains("AAAA"), "{broken}");
}

#[test]
fn long_line_is_cut_around_the_fault() {
    let blanks = " ".repeat(300);
    let text = format!(
        "{{apiVersion: appmesh.k8s.aws/v1beta2, kind: Mesh,{blanks}metadata: {{name: m}}, {blanks}spec: {{egressFilter: {{type: on}}}},{blanks}x: 1}}\n"
    );
    let printed = lint_files(&[("mesh.yaml", &text)]);
    let lines: Vec<&str> = printed.lines().collect();
    let at = lines
        .iter()
        .position(|line| line.starts_with("1 | …"))
        .unwrap();
    assert!(
        lines[at].ends_with('…') && lines[at].chars().count() < 130,
        "{printed}"
    );
    let caret = lines[at + 1].chars().position(|it| it == '^').unwrap();
    let marked: String = lines[at].chars().skip(caret).take(2).collect();
    assert_eq!(marked, "on", "{printed}");
}
