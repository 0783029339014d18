//! Who depends on whom, out of `cargo metadata`.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde::Deserialize;

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    resolve: Resolve,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
}

#[derive(Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
    deps: Vec<NodeDependency>,
}

#[derive(Deserialize)]
struct NodeDependency {
    pkg: String,
    dep_kinds: Vec<DependencyKind>,
}

#[derive(Deserialize)]
struct DependencyKind {
    /// Absent for what is linked; `dev` or `build` else.
    kind: Option<String>,
}

/// Linked dependencies by package name, as cargo resolved them for the whole workspace.
#[derive(Default)]
pub struct Graph(BTreeMap<String, BTreeSet<String>>);

impl Graph {
    /// Asks cargo, without touching the network or the lock file.
    ///
    /// # Errors
    /// What cargo said.
    pub fn of_workspace() -> Result<Self, String> {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let output = Command::new(cargo)
            .args(["metadata", "--format-version", "1", "--locked"])
            .args(["--filter-platform", "x86_64-unknown-linux-gnu"])
            .output()
            .map_err(|error| format!("cannot run cargo metadata: {error}"))?;
        if !output.status.success() {
            return Err(format!(
                "cargo metadata failed: {}",
                String::from_utf8_lossy(&output.stderr)
            ));
        }
        let json = String::from_utf8_lossy(&output.stdout);
        Self::from_json(&json).map_err(|error| format!("cannot read cargo metadata: {error}"))
    }

    fn from_json(json: &str) -> Result<Self, serde_json::Error> {
        let metadata: Metadata = serde_json::from_str(json)?;
        let names: BTreeMap<_, _> = metadata
            .packages
            .iter()
            .map(|package| (package.id.as_str(), package.name.as_str()))
            .collect();
        let mut graph = Self::default();
        for node in &metadata.resolve.nodes {
            let linked = node
                .deps
                .iter()
                .filter(|dependency| dependency.dep_kinds.iter().any(|kind| kind.kind.is_none()))
                .filter_map(|dependency| names.get(dependency.pkg.as_str()));
            if let Some(name) = names.get(node.id.as_str()) {
                let entry = graph.0.entry((*name).into()).or_default();
                entry.extend(linked.map(|name| (*name).to_owned()));
            }
        }
        Ok(graph)
    }

    /// A graph of these edges.
    #[cfg(test)]
    pub fn of_edges(edges: &[(&str, &str)]) -> Self {
        let mut graph = Self::default();
        for (from, to) in edges {
            graph
                .0
                .entry((*from).into())
                .or_default()
                .insert((*to).into());
        }
        graph
    }

    /// Every package.
    pub fn packages(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// What a package links itself.
    pub fn direct(&self, package: &str) -> impl Iterator<Item = &str> {
        self.0
            .get(package)
            .into_iter()
            .flatten()
            .map(String::as_str)
    }

    /// Everything that a package links, each with the package that pulled it in.
    pub fn closure<'a>(&'a self, package: &'a str) -> BTreeMap<&'a str, &'a str> {
        let mut seen = BTreeMap::new();
        let mut open = vec![package];
        while let Some(from) = open.pop() {
            for to in self.direct(from) {
                if seen.insert(to, from).is_none() {
                    open.push(to);
                }
            }
        }
        seen
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn linked_edges_are_read_and_dev_and_build_edges_are_not() {
        let json = r#"{
            "packages": [{"id": "1", "name": "a"}, {"id": "2", "name": "b"}, {"id": "3", "name": "c"}, {"id": "4", "name": "d"}],
            "resolve": {"nodes": [
                {"id": "1", "deps": [
                    {"pkg": "2", "dep_kinds": [{"kind": null}, {"kind": "dev"}]},
                    {"pkg": "3", "dep_kinds": [{"kind": "dev"}]},
                    {"pkg": "4", "dep_kinds": [{"kind": "build"}]}
                ]},
                {"id": "2", "deps": []}
            ]}
        }"#;
        let graph = Graph::from_json(json).expect("well-formed");
        assert_eq!(graph.direct("a").collect::<Vec<_>>(), ["b"]);
    }

    #[test]
    fn a_closure_names_who_pulled_each_package_in() {
        let graph = Graph::of_edges(&[("a", "b"), ("b", "c"), ("c", "a")]);
        assert_eq!(graph.closure("a").get("c"), Some(&"b"));
    }
}
