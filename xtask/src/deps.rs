//! Arrows between crates point downward only, pure crates stay pure, and the control plane does without libtorch.

use std::collections::BTreeMap;

use crate::{Outcome, graph::Graph};

/// From the bottom up. A crate may depend on every crate of a lower layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Layer {
    Base,
    Pure,
    Adapters,
    Shells,
}

/// A crate, its layer, and the crates of its own layer that it may depend on.
struct Place(&'static str, Layer, &'static [&'static str]);

const PLACES: &[Place] = &[
    Place("muster-types", Layer::Base, &[]),
    Place("muster-arch", Layer::Pure, &[]),
    Place("muster-spec", Layer::Pure, &["muster-arch"]),
    Place("muster-plan", Layer::Pure, &[]),
    Place("muster-audit", Layer::Pure, &["muster-plan"]),
    Place("muster-checkpoint", Layer::Pure, &[]),
    Place(
        "muster-cluster",
        Layer::Pure,
        &["muster-spec", "muster-plan", "muster-checkpoint"],
    ),
    Place("muster-proto", Layer::Adapters, &[]),
    Place("muster-access", Layer::Adapters, &[]),
    Place("muster-store", Layer::Adapters, &[]),
    Place("muster-data", Layer::Adapters, &[]),
    Place("muster-c10d", Layer::Adapters, &[]),
    Place("muster-ops", Layer::Adapters, &["muster-c10d"]),
    Place(
        "muster-model",
        Layer::Adapters,
        &["muster-c10d", "muster-ops"],
    ),
    Place(
        "muster-train",
        Layer::Adapters,
        &[
            "muster-store",
            "muster-data",
            "muster-c10d",
            "muster-ops",
            "muster-model",
        ],
    ),
    Place("muster-coordinator", Layer::Shells, &[]),
    Place("muster-agent", Layer::Shells, &[]),
    Place("muster-worker", Layer::Shells, &[]),
    Place("muster-load", Layer::Shells, &[]),
    Place(
        "muster",
        Layer::Shells,
        &["muster-coordinator", "muster-agent"],
    ),
];

/// What brings effects (a runtime, sockets, files, randomness, libtorch) and so has no place below a pure crate.
const IMPURE: &[&str] = &[
    "tokio",
    "tonic",
    "hyper",
    "tch",
    "torch-sys",
    "rand",
    "rusqlite",
    "object_store",
    "memmap2",
    "nix",
];

/// What the control plane does without.
const LIBTORCH: &[&str] = &["tch", "torch-sys", "muster-c10d"];

/// Reads `cargo metadata` and checks every rule.
///
/// # Errors
/// One line a violation.
pub fn check() -> Outcome {
    let graph = Graph::of_workspace().map_err(|error| vec![error])?;
    let missing = PLACES
        .iter()
        .filter(|place| graph.packages().all(|package| package != place.0))
        .map(|place| format!("{} has a layer but is not in the workspace", place.0));
    let problems: Vec<_> = missing.chain(problems(&graph)).collect();
    if problems.is_empty() {
        Ok(format!(
            "the arrows of {} crates point downward only",
            PLACES.len()
        ))
    } else {
        Err(problems)
    }
}

fn problems(graph: &Graph) -> Vec<String> {
    let places: BTreeMap<_, _> = PLACES.iter().map(|place| (place.0, place)).collect();
    let ours = |name: &str| name == "muster" || name.starts_with("muster-");
    let mut problems: Vec<_> = graph
        .packages()
        .filter(|name| ours(name) && !places.contains_key(name))
        .map(|name| format!("{name} has no layer: give it one in xtask/src/deps.rs"))
        .collect();
    for place in PLACES {
        problems.extend(wrong_arrows(graph, place, &places));
        if place.1 <= Layer::Pure {
            problems.extend(reached(graph, place.0, IMPURE, "is pure"));
        }
    }
    problems.extend(reached(graph, "muster", LIBTORCH, "never links libtorch"));
    problems
}

fn wrong_arrows(graph: &Graph, from: &Place, places: &BTreeMap<&str, &Place>) -> Vec<String> {
    let wrong = |to: &&str| match places.get(to) {
        Some(place) => place.1 > from.1 || (place.1 == from.1 && !from.2.contains(to)),
        None => false,
    };
    graph
        .direct(from.0)
        .filter(wrong)
        .map(|to| {
            format!(
                "{} must not depend on {to}: arrows point downward only",
                from.0
            )
        })
        .collect()
}

fn reached(graph: &Graph, package: &str, forbidden: &[&str], rule: &str) -> Vec<String> {
    let closure = graph.closure(package);
    forbidden
        .iter()
        .filter_map(|name| closure.get(name).map(|via| (name, via)))
        .map(|(name, via)| {
            format!("{package} {rule} and must not depend on {name} (pulled in by {via})")
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planted(edges: &[(&str, &str)]) -> String {
        problems(&Graph::of_edges(edges)).join("\n")
    }

    #[test]
    fn allowed_arrows_are_quiet() {
        let edges = [
            ("muster-cluster", "muster-plan"),
            ("muster-plan", "muster-types"),
            ("muster-train", "muster-model"),
            ("muster-coordinator", "tokio"),
            ("muster", "muster-agent"),
        ];
        assert_eq!(planted(&edges), "");
    }

    #[test]
    fn an_arrow_to_a_higher_layer_is_named() {
        let found = planted(&[("muster-store", "muster-agent")]);
        assert!(
            found.contains("muster-store must not depend on muster-agent"),
            "{found}"
        );
    }

    #[test]
    fn an_arrow_against_the_order_of_a_layer_is_named() {
        let found = planted(&[
            ("muster-ops", "muster-model"),
            ("muster-plan", "muster-cluster"),
        ]);
        assert!(
            found.contains("muster-ops must not depend on muster-model"),
            "{found}"
        );
        assert!(
            found.contains("muster-plan must not depend on muster-cluster"),
            "{found}"
        );
    }

    #[test]
    fn impurity_is_found_through_others() {
        let found = planted(&[("muster-spec", "innocent"), ("innocent", "tokio")]);
        assert_eq!(
            found,
            "muster-spec is pure and must not depend on tokio (pulled in by innocent)"
        );
    }

    #[test]
    fn libtorch_below_the_control_plane_is_found() {
        let found = planted(&[("muster", "muster-agent"), ("muster-agent", "tch")]);
        assert!(found.contains("muster never links libtorch"), "{found}");
    }

    #[test]
    fn a_crate_without_a_layer_is_named() {
        let found = planted(&[("muster-novel", "serde")]);
        assert!(found.contains("muster-novel has no layer"), "{found}");
    }
}
