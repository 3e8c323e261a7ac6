//! The tests of the workspace that an entry may name: golden cases and test functions.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use syn::{Attribute, ItemFn, visit::Visit};

use crate::files::{self, SourceFile};

/// The folder below which golden cases are named: `ingest/testdata/node/bare` is
/// `control-plane/ingest/testdata/node/bare`.
const GOLDEN_ROOT: &str = "control-plane/";

/// Names of all golden cases and test functions.
pub(crate) struct Evidence {
    names: BTreeSet<String>,
}

impl Evidence {
    /// # Errors
    ///
    /// If the files cannot be listed or parsed.
    pub(crate) fn of_workspace() -> Result<Self> {
        let inputs = files::with_suffix(&["/in.yaml"])?;
        let mut names: BTreeSet<String> = inputs
            .iter()
            .filter_map(|file| golden_case(&file.path))
            .collect();
        let crates = crates(&files::with_suffix(&["Cargo.toml"])?);
        for file in files::with_suffix(&[".rs"])? {
            let Some((_, name)) = crates
                .iter()
                .filter(|(folder, _)| file.path.starts_with(folder))
                .max_by_key(|(folder, _)| folder.len())
            else {
                continue;
            };
            let tests = test_functions(&file.text).context(file.path)?;
            names.extend(tests.into_iter().map(|test| format!("{name}::{test}")));
        }
        Ok(Self { names })
    }

    pub(crate) fn contains(&self, name: &str) -> bool {
        self.names.contains(name)
    }
}

fn golden_case(input: &str) -> Option<String> {
    let folder = input.strip_suffix("/in.yaml")?;
    let case = folder.strip_prefix(GOLDEN_ROOT)?;
    Some(case.to_owned())
}

/// Folder, with a slash at its end, and name of each crate.
fn crates(manifests: &[SourceFile]) -> Vec<(String, String)> {
    let named = manifests.iter().filter_map(|manifest| {
        let folder = manifest.path.strip_suffix("Cargo.toml")?;
        let mut lines = manifest.text.lines();
        let name = lines.find_map(|line| line.strip_prefix("name = "))?;
        Some((folder.to_owned(), name.trim_matches('"').to_owned()))
    });
    named.collect()
}

/// Names of the functions with an attribute such as `#[test]` or `#[tokio::test]`.
fn test_functions(source: &str) -> syn::Result<Vec<String>> {
    let mut tests = TestFunctions::default();
    tests.visit_file(&syn::parse_file(source)?);
    Ok(tests.names)
}

#[derive(Default)]
struct TestFunctions {
    names: Vec<String>,
}

impl<'ast> Visit<'ast> for TestFunctions {
    fn visit_item_fn(&mut self, item: &'ast ItemFn) {
        let is_test = |attribute: &Attribute| {
            let last = attribute.path().segments.last();
            last.is_some_and(|segment| segment.ident == "test")
        };
        if item.attrs.iter().any(is_test) {
            self.names.push(item.sig.ident.to_string());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_case_is_named_by_its_folder() {
        assert_eq!(
            golden_case("control-plane/ingest/testdata/node/bare/in.yaml").as_deref(),
            Some("ingest/testdata/node/bare")
        );
    }

    #[test]
    fn functions_with_a_test_attribute_are_tests() {
        let source = "#[test] fn a() {} fn b() {} \
                      mod inner { #[tokio::test(flavor = \"multi_thread\")] async fn c() {} }";
        assert_eq!(test_functions(source).unwrap(), ["a", "c"]);
    }

    #[test]
    fn crate_is_named_by_its_manifest() {
        let manifest = SourceFile {
            path: "control-plane/ingest/Cargo.toml".to_owned(),
            text: "[package]\nname = \"evermesh-ingest\"\n".to_owned(),
        };
        assert_eq!(
            crates(&[manifest]),
            [(
                "control-plane/ingest/".to_owned(),
                "evermesh-ingest".to_owned()
            )]
        );
    }
}
