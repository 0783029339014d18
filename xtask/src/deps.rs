//! Arrows between crates point downward only, pure crates stay pure, and the control plane does without libtorch.

use std::{
    collections::{BTreeMap, BTreeSet},
    process::Command,
};

use serde::Deserialize;

/// The crates from the bottom up. A crate may depend on those of lower layers, and within its own layer on those named
/// before it.
const LAYERS: [&[&str]; 4] = [
    &["types"],
    &["arch", "plan", "spec", "checkpoint", "cluster"],
    &["proto", "store", "data", "c10d", "ops", "model", "train"],
    &["coordinator", "agent", "worker", "muster"],
];

/// What makes a crate impure, wherever in its tree it stands.
const IMPURE: [&str; 8] = [
    "tokio",
    "tonic",
    "tch",
    "torch-sys",
    "rand",
    "rusqlite",
    "memmap2",
    "nix",
];

/// What the pure crates are.
const PURE_LAYERS: usize = 2;

/// Crates that need libtorch.
const TORCH: [&str; 2] = ["tch", "torch-sys"];

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    dependencies: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    name: String,
    kind: Option<String>,
    #[serde(default)]
    optional: bool,
}

/// Normal, non-optional dependencies by package.
type Graph = BTreeMap<String, BTreeSet<String>>;

/// Reads `cargo metadata` and checks every rule.
///
/// # Errors
/// One line a violation.
pub fn check() -> Result<String, Vec<String>> {
    let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["metadata", "--format-version", "1", "--locked"])
        .output()
        .map_err(|error| vec![format!("cannot run cargo metadata: {error}")])?;
    if !output.status.success() {
        return Err(vec![format!(
            "cargo metadata failed: {}",
            String::from_utf8_lossy(&output.stderr)
        )]);
    }
    let metadata: Metadata = serde_json::from_slice(&output.stdout)
        .map_err(|error| vec![format!("cannot read cargo metadata: {error}")])?;
    let graph = graph(metadata);
    let problems = problems(&graph);
    if problems.is_empty() {
        Ok(format!(
            "{} crates point downward only",
            LAYERS.iter().map(|layer| layer.len()).sum::<usize>()
        ))
    } else {
        Err(problems)
    }
}

fn graph(metadata: Metadata) -> Graph {
    let mut graph = Graph::new();
    for package in metadata.packages {
        let normal = package
            .dependencies
            .into_iter()
            .filter(|d| d.kind.is_none() && !d.optional);
        graph
            .entry(package.name)
            .or_default()
            .extend(normal.map(|d| d.name));
    }
    graph
}

fn package_name(name: &str) -> String {
    if name == "muster" {
        name.into()
    } else {
        format!("muster-{name}")
    }
}

fn problems(graph: &Graph) -> Vec<String> {
    let mut order = BTreeMap::new();
    for (layer, names) in LAYERS.iter().enumerate() {
        for (place, name) in names.iter().enumerate() {
            order.insert(package_name(name), (layer, place));
        }
    }
    let mut problems = Vec::new();
    for name in graph.keys().filter(|name| name.starts_with("muster")) {
        if !order.contains_key(name) {
            problems.push(format!(
                "{name} has no layer: give it one in xtask/src/deps.rs"
            ));
        }
    }
    for (name, here) in &order {
        for dependency in graph.get(name).into_iter().flatten() {
            if order.get(dependency).is_some_and(|there| there >= here) {
                problems.push(format!(
                    "{name} must not depend on {dependency}: arrows point downward only"
                ));
            }
        }
        let tree = closure(graph, name);
        if here.0 < PURE_LAYERS {
            for impure in IMPURE.iter().filter(|impure| tree.contains(**impure)) {
                problems.push(format!("{name} is pure and must not depend on {impure}"));
            }
        }
    }
    let control_plane = closure(graph, "muster");
    for torch in TORCH.iter().filter(|torch| control_plane.contains(**torch)) {
        problems.push(format!(
            "muster must not depend on {torch}: the control plane does without libtorch"
        ));
    }
    problems
}

fn closure<'a>(graph: &'a Graph, root: &str) -> BTreeSet<&'a str> {
    let mut seen = BTreeSet::new();
    let mut open: Vec<&str> = graph
        .get(root)
        .into_iter()
        .flatten()
        .map(String::as_str)
        .collect();
    while let Some(name) = open.pop() {
        if seen.insert(name) {
            open.extend(graph.get(name).into_iter().flatten().map(String::as_str));
        }
    }
    seen
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planted(edges: &[(&str, &str)]) -> Vec<String> {
        let mut graph = Graph::new();
        for (from, to) in edges {
            graph
                .entry((*from).into())
                .or_default()
                .insert((*to).into());
        }
        problems(&graph)
    }

    #[test]
    fn a_downward_arrow_is_fine() {
        assert_eq!(
            planted(&[
                ("muster-cluster", "muster-plan"),
                ("muster-plan", "muster-types")
            ]),
            [""; 0]
        );
    }

    #[test]
    fn an_upward_arrow_is_named() {
        let found = planted(&[("muster-plan", "muster-cluster")]);
        assert!(
            found[0].contains("muster-plan must not depend on muster-cluster"),
            "{found:?}"
        );
    }

    #[test]
    fn impurity_is_found_through_others() {
        let found = planted(&[("muster-spec", "innocent"), ("innocent", "tokio")]);
        assert!(found[0].contains("muster-spec is pure"), "{found:?}");
    }

    #[test]
    fn libtorch_below_the_control_plane_is_found() {
        let found = planted(&[("muster", "muster-agent"), ("muster-agent", "tch")]);
        assert!(
            found
                .iter()
                .any(|line| line.contains("does without libtorch")),
            "{found:?}"
        );
    }

    #[test]
    fn a_crate_without_a_layer_is_named() {
        let found = planted(&[("muster-novel", "serde")]);
        assert!(found[0].contains("muster-novel has no layer"), "{found:?}");
    }
}
