use std::fmt::Write;

use serde_json::Value;

use crate::RunSpec;

/// The whole spec as TOML, every key present and in the order of the schema; [`load`](crate::load) gives the same spec
/// back, if it is valid.
pub fn to_toml(spec: &RunSpec) -> String {
    let mut text = String::new();
    let mut sections = String::new();
    let entries = match serde_json::to_value(spec) {
        Ok(Value::Object(entries)) => entries,
        // A struct of structs of numbers and words is always an object.
        _ => return text,
    };
    // Writing to a string cannot fail.
    for (name, value) in &entries {
        if let Value::Object(keys) = value {
            let _ = write!(sections, "\n[{name}]\n");
            for (key, value) in keys {
                let _ = writeln!(sections, "{key} = {}", literal(value));
            }
        } else {
            let _ = writeln!(text, "{name} = {}", literal(value));
        }
    }
    text + &sections
}

/// A value as TOML writes it. Invalid specs are written as they are: a seed that TOML cannot hold stays visible.
fn literal(value: &Value) -> String {
    match value {
        Value::String(text) => toml::Value::from(text.as_str()).to_string(),
        // What JSON makes of NaN and infinities.
        Value::Null => "nan".into(),
        other => other.to_string(),
    }
}
