//! The manifests of the example and their weights.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};

/// Copies the YAML files of a folder.
pub(super) fn copy_manifests(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let path = entry?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "yaml")
        {
            fs::copy(
                &path,
                to.join(path.file_name().context("a file has no name")?),
            )?;
        }
    }
    Ok(())
}

/// Sets the `weight:` lines of a manifest to these weights, in order.
pub(super) fn with_weights(text: &str, weights: [u32; 2]) -> String {
    let mut weights = weights.iter();
    let lines = text.lines().map(|line| match line.split_once("weight:") {
        Some((before, _)) => weights.next().map_or_else(
            || line.to_owned(),
            |weight| format!("{before}weight: {weight}"),
        ),
        None => line.to_owned(),
    });
    lines.map(|line| line + "\n").collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_weights_are_set_and_in_order() {
        let text = "# Weights\n- name: a\n  weight: 100\n- name: b\n  weight: 0\n";
        assert_eq!(
            with_weights(text, [90, 10]),
            "# Weights\n- name: a\n  weight: 90\n- name: b\n  weight: 10\n"
        );
    }
}
