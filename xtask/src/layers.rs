//! The layer check: arrows between the workspace's crates point down or sideways, never up.

use anyhow::{Context, bail};
use serde_json::Value;

use crate::shell::{cargo, output};

/// (crate, layer): contracts at the bottom, programs on top. See ARCHITECTURE.md.
const LAYERS: &[(&str, u8)] = &[
    ("sparkler-spec", 0),
    ("sparkler-memory", 0),
    ("sparkler-metrics", 0),
    ("sparkler-bus", 1),
    ("sparkler-virtio", 1),
    ("sparkler-vcpu", 1),
    ("sparkler-devices", 2),
    ("sparkler-irqchip", 2),
    ("sparkler-simd", 2),
    ("sparkler-softcpu", 2),
    ("sparkler-kvm", 2),
    ("sparkler-host", 2),
    ("sparkler-mmds", 2),
    ("sparkler-ext4", 2),
    ("sparkler-boot", 3),
    ("sparkler-machine", 3),
    ("sparkler-cpu-oracle", 4),
    ("sparkler-api", 4),
    ("sparkler-client", 4),
    ("sparkler-image", 4),
    ("sparkler-guest-init", 4),
    ("sparkler-guest-suite", 4),
    ("sparkler-vmm", 4),
    ("sparkler", 5),
    ("xtask", 5),
];

/// Reads the workspace's dependencies, and refuses the first arrow that points up.
pub fn check() -> anyhow::Result<()> {
    let metadata = output(&mut cargo(&["metadata", "--no-deps", "--format-version", "1"]))?;
    let metadata: Value = serde_json::from_str(&metadata).context("cargo metadata")?;
    let arrows = arrows(&metadata);
    for (from, to) in &arrows {
        let (above, below) = (layer(from)?, layer(to)?);
        if below > above {
            bail!("{from} (layer {above}) depends on {to} (layer {below}): arrows point down only");
        }
    }
    eprintln!("== layers: {} dependencies between crates, none points up", arrows.len());
    Ok(())
}

fn layer(name: &str) -> anyhow::Result<u8> {
    let found = LAYERS.iter().find(|(known, _)| *known == name);
    found.map(|(_, layer)| *layer).with_context(|| {
        format!("crate {name} has no layer: give it one in xtask/src/layers.rs and ARCHITECTURE.md")
    })
}

/// Pairs of (crate, crate it depends on) within the workspace; tests may use what they like.
fn arrows(metadata: &Value) -> Vec<(String, String)> {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let name = |value: &Value| value["name"].as_str().unwrap_or_default().to_owned();
    let mut arrows = Vec::new();
    for package in list(&metadata["packages"]) {
        for dependency in list(&package["dependencies"]) {
            if dependency["path"].is_string() && dependency["kind"] != "dev" {
                arrows.push((name(&package), name(&dependency)));
            }
        }
    }
    arrows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrows_are_found_in_metadata() {
        let metadata = serde_json::json!({"packages": [{"name": "a", "dependencies": [
            {"name": "b", "path": "/b", "kind": null},
            {"name": "c", "path": "/c", "kind": "dev"},
            {"name": "serde", "kind": null},
        ]}]});
        assert_eq!(arrows(&metadata), [("a".to_owned(), "b".to_owned())]);
        assert!(layer("no-such-crate").is_err());
    }
}
