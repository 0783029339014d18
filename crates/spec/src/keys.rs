use std::sync::LazyLock;

use serde_json::Value;

use crate::RunSpec;

/// The run spec's JSON Schema (draft 2020-12), for editors and for people.
pub fn schema() -> Value {
    schemars::schema_for!(RunSpec).to_value()
}

/// What may stand at a place in a spec. It is read off the schema, so that schema, messages and checks agree.
#[derive(Debug)]
pub(crate) enum Node {
    Section(Vec<(String, Node)>),
    Leaf(Kind),
}

/// What a value may be.
#[derive(Debug)]
pub(crate) enum Kind {
    Integer { min: i128, max: i128 },
    Number(Bounds),
    Flag,
    Word(Vec<String>),
    Text,
}

/// A range of numbers; absent ends are open.
#[derive(Debug, Default)]
pub(crate) struct Bounds {
    pub min: Option<f64>,
    pub max: Option<f64>,
    pub above: Option<f64>,
    pub below: Option<f64>,
}

/// All keys of a run spec.
pub(crate) static KEYS: LazyLock<Node> = LazyLock::new(|| {
    let root = schema();
    node(&root, &root)
});

impl Node {
    /// What stands directly below, under `key`.
    pub(crate) fn get(&self, key: &str) -> Option<&Self> {
        match self {
            Self::Section(entries) => entries
                .iter()
                .find(|(name, _)| name == key)
                .map(|(_, node)| node),
            Self::Leaf(_) => None,
        }
    }

    /// What stands at `path`, whose parts are joined by dots.
    pub(crate) fn find(&self, path: &str) -> Option<&Self> {
        path.split('.').try_fold(self, |node, part| match node {
            Self::Section(_) => node.get(part),
            Self::Leaf(_) => None,
        })
    }
}

fn node(root: &Value, schema: &Value) -> Node {
    let target = match schema["$ref"]
        .as_str()
        .and_then(|reference| reference.strip_prefix('#'))
    {
        Some(pointer) => root.pointer(pointer).unwrap_or(&Value::Null),
        None => schema,
    };
    if let Some(properties) = target["properties"].as_object() {
        return Node::Section(
            properties
                .iter()
                .map(|(key, value)| (key.clone(), node(root, value)))
                .collect(),
        );
    }
    Node::Leaf(kind(target))
}

fn kind(schema: &Value) -> Kind {
    if let Some(variants) = schema["oneOf"].as_array() {
        return Kind::Word(
            variants
                .iter()
                .filter_map(|variant| variant["const"].as_str().map(str::to_owned))
                .collect(),
        );
    }
    if let Some(words) = schema["enum"].as_array() {
        return Kind::Word(
            words
                .iter()
                .filter_map(|word| word.as_str().map(str::to_owned))
                .collect(),
        );
    }
    match schema["type"].as_str() {
        Some("integer") => {
            let widest = match schema["format"].as_str() {
                Some("uint32") => i128::from(u32::MAX),
                _ => i128::from(i64::MAX),
            };
            let bound = |key: &str| schema[key].as_i64().map(i128::from);
            Kind::Integer {
                min: bound("minimum").unwrap_or(0),
                max: bound("maximum").unwrap_or(widest).min(widest),
            }
        }
        Some("number") => Kind::Number(Bounds {
            min: schema["minimum"].as_f64(),
            max: schema["maximum"].as_f64(),
            above: schema["exclusiveMinimum"].as_f64(),
            below: schema["exclusiveMaximum"].as_f64(),
        }),
        Some("boolean") => Kind::Flag,
        _ => Kind::Text,
    }
}

impl Kind {
    /// The kind in words, to follow "must be".
    pub(crate) fn words(&self) -> String {
        match self {
            Self::Integer { .. } => "a whole number".into(),
            Self::Number(_) => "a number".into(),
            Self::Flag => "true or false".into(),
            Self::Word(words) => one_of(words),
            Self::Text => "text".into(),
        }
    }
}

/// `"a", "b" or "c"`.
pub(crate) fn one_of(words: &[String]) -> String {
    let quoted: Vec<_> = words.iter().map(|word| format!("{word:?}")).collect();
    match quoted.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, rest)) => format!("{} or {last}", rest.join(", ")),
        None => String::new(),
    }
}

#[cfg(test)]
#[allow(clippy::panic)]
mod tests {
    use super::*;

    #[test]
    fn every_leaf_of_the_default_spec_is_a_known_key_and_the_other_way_round() {
        fn leaves(value: &Value, path: &str, into: &mut Vec<String>) {
            match value.as_object() {
                Some(entries) => entries
                    .iter()
                    .for_each(|(key, value)| leaves(value, &format!("{path}.{key}"), into)),
                None => into.push(path[1..].to_owned()),
            }
        }
        fn known(node: &Node, path: &str, into: &mut Vec<String>) {
            match node {
                Node::Section(entries) => {
                    entries
                        .iter()
                        .for_each(|(key, node)| known(node, &format!("{path}.{key}"), into));
                }
                Node::Leaf(_) => into.push(path[1..].to_owned()),
            }
        }
        let (mut of_spec, mut of_keys) = (Vec::new(), Vec::new());
        leaves(
            &serde_json::to_value(RunSpec::default()).unwrap(),
            "",
            &mut of_spec,
        );
        known(&KEYS, "", &mut of_keys);
        of_spec.sort();
        of_keys.sort();
        assert_eq!(of_spec, of_keys);
        assert!(of_spec.len() > 30);
    }

    #[test]
    fn kinds_and_ranges_come_from_the_schema() {
        let kind = |path: &str| match KEYS.find(path) {
            Some(Node::Leaf(kind)) => kind,
            other => panic!("{path}: {other:?}"),
        };
        assert!(
            matches!(kind("train.steps"), Kind::Integer { min: 1, max } if *max == i128::from(i64::MAX))
        );
        assert!(
            matches!(kind("workers.min"), Kind::Integer { min: 1, max } if *max == i128::from(u32::MAX))
        );
        assert!(
            matches!(kind("optimizer.beta1"), Kind::Number(b) if b.min == Some(0.0) && b.below == Some(1.0))
        );
        assert!(
            matches!(kind("optimizer.epsilon"), Kind::Number(b) if b.above == Some(0.0) && b.min.is_none())
        );
        assert!(
            matches!(kind("train.reduction"), Kind::Word(words) if *words == ["fast", "canonical"])
        );
        assert!(matches!(kind("schedule.kind"), Kind::Word(words) if words.len() == 4));
        assert!(matches!(kind("data.path"), Kind::Text));
        assert!(KEYS.find("train.steps.more").is_none());
    }
}
