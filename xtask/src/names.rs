//! The check of names: no two exported types of the workspace share one.
//!
//! A type counts as exported if its visibility is `pub`, `pub(crate)`, `pub(super)` or `pub(in …)` and it stands
//! outside of tests and benches. The kinds that `kube`'s derive generates count as well.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use syn::{
    Attribute, Ident, ItemEnum, ItemMod, ItemStruct, ItemTrait, ItemType, ItemUnion, LitStr,
    Visibility, visit::Visit,
};

use crate::{Finding, files};

/// A finding for each declaration whose name is declared elsewhere, too.
///
/// # Errors
///
/// If the files cannot be listed or parsed.
pub(crate) fn check() -> Result<Vec<Finding>> {
    let mut declarations = BTreeMap::<String, Vec<(String, usize)>>::new();
    for file in files::with_suffix(&[".rs"])? {
        if is_test(&file.path) {
            continue;
        }
        let exported = exported(&file.text).with_context(|| file.path.clone())?;
        for (name, line) in exported {
            let places = declarations.entry(name).or_default();
            places.push((file.path.clone(), line));
        }
    }
    let mut findings = Vec::new();
    for (name, places) in declarations {
        if places.len() < 2 {
            continue;
        }
        for (path, line) in &places {
            let others: Vec<String> = places
                .iter()
                .filter(|other| *other != &(path.clone(), *line))
                .map(|(path, line)| format!("{path}:{line}"))
                .collect();
            findings.push(Finding {
                path: path.clone(),
                line: *line,
                message: format!(
                    "the exported type `{name}` is declared in {}, too",
                    others.join(", ")
                ),
            });
        }
    }
    findings.sort();
    Ok(findings)
}

fn is_test(path: &str) -> bool {
    let folders = ["/tests/", "/benches/", "/fuzz/"];
    folders.iter().any(|folder| path.contains(folder)) || path.ends_with("/tests.rs")
}

/// Names of the exported types of a file, with their lines.
fn exported(source: &str) -> syn::Result<Vec<(String, usize)>> {
    let mut declarations = Declarations::default();
    declarations.visit_file(&syn::parse_file(source)?);
    Ok(declarations.found)
}

#[derive(Default)]
struct Declarations {
    found: Vec<(String, usize)>,
}

impl Declarations {
    fn declare(&mut self, visibility: &Visibility, name: &Ident) {
        if !matches!(visibility, Visibility::Inherited) {
            self.found
                .push((name.to_string(), name.span().start().line));
        }
    }
}

impl<'ast> Visit<'ast> for Declarations {
    fn visit_item_struct(&mut self, item: &'ast ItemStruct) {
        self.declare(&item.vis, &item.ident);
        for kind in item.attrs.iter().filter_map(kube_kind) {
            self.found.push((kind.value(), kind.span().start().line));
        }
    }

    fn visit_item_enum(&mut self, item: &'ast ItemEnum) {
        self.declare(&item.vis, &item.ident);
    }

    fn visit_item_union(&mut self, item: &'ast ItemUnion) {
        self.declare(&item.vis, &item.ident);
    }

    fn visit_item_trait(&mut self, item: &'ast ItemTrait) {
        self.declare(&item.vis, &item.ident);
    }

    fn visit_item_type(&mut self, item: &'ast ItemType) {
        self.declare(&item.vis, &item.ident);
    }

    fn visit_item_mod(&mut self, item: &'ast ItemMod) {
        if !item.attrs.iter().any(is_for_tests) {
            syn::visit::visit_item_mod(self, item);
        }
    }
}

fn is_for_tests(attribute: &Attribute) -> bool {
    let condition = attribute.path().is_ident("cfg");
    condition && attribute.parse_args::<Ident>().is_ok_and(|it| it == "test")
}

/// The `kind` of `#[kube(kind = "Mesh", …)]`.
fn kube_kind(attribute: &Attribute) -> Option<LitStr> {
    let mut kind = None;
    if attribute.path().is_ident("kube") {
        // The nested attributes that this closure does not read end the parsing, after `kind`.
        let _unread = attribute.parse_nested_meta(|meta| {
            if meta.path.is_ident("kind") {
                kind = Some(meta.value()?.parse()?);
            } else if meta.input.peek(syn::Token![=]) {
                meta.value()?.parse::<syn::Expr>()?;
            }
            Ok(())
        });
    }
    kind
}

#[cfg(test)]
mod tests {
    use super::exported;

    fn names(source: &str) -> Vec<String> {
        let exported = exported(source).unwrap();
        exported.into_iter().map(|(name, _)| name).collect()
    }

    #[test]
    fn every_kind_of_exported_type_counts() {
        let source = "pub struct A; pub(crate) enum B {} pub(super) trait C {} pub type D = u8; \
                      mod inner { pub union E { e: u8 } }";
        assert_eq!(names(source), ["A", "B", "C", "D", "E"]);
    }

    #[test]
    fn private_types_and_types_of_tests_do_not_count() {
        let source = "struct A; trait T { type B; } #[cfg(test)] mod tests { pub struct C; }";
        assert_eq!(names(source), [""; 0]);
    }

    #[test]
    fn a_kind_that_kube_generates_counts() {
        let source = r#"#[kube(group = "g", kind = "Mesh", status = "S")] pub struct MeshSpec;"#;
        assert_eq!(names(source), ["MeshSpec", "Mesh"]);
    }
}
