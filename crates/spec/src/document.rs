use std::{collections::BTreeMap, ops::Range, path::Path};

use serde::{Serialize, Serializer};
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use crate::SpecError;

/// How a spec file is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// The usual one; errors show the line.
    Toml,
    /// By `serde_yaml_ng`.
    Yaml,
    /// As `muster config show -o json` prints it.
    Json,
}

impl Format {
    /// The format that the extension of `path` stands for: `toml`, `yaml`, `yml` or `json`.
    ///
    /// # Errors
    /// Any other extension, or none.
    pub fn of(path: &str) -> Result<Self, SpecError> {
        match Path::new(path)
            .extension()
            .and_then(|extension| extension.to_str())
        {
            Some("toml") => Ok(Self::Toml),
            Some("yaml" | "yml") => Ok(Self::Yaml),
            Some("json") => Ok(Self::Json),
            _ => Err(SpecError::new(
                "",
                format!("{path}: the name does not say in which format the run spec is written"),
                "name it with the extension .toml, .yaml, .yml or .json".into(),
            )),
        }
    }
}

/// A value as a file holds it, before anything is known of what it should be.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Datum {
    Null,
    Flag(bool),
    Integer(i128),
    Number(f64),
    Text(String),
    /// A list, a date or whatever else no key takes; in words.
    Other(&'static str),
    Table(Vec<Entry>),
}

/// A key and its value. Spans are byte ranges of the file's text, where the format gives them.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Entry {
    pub key: String,
    pub key_span: Option<Range<usize>>,
    pub value: Datum,
    pub value_span: Option<Range<usize>>,
}

/// Why a text is no document, and where.
pub(crate) struct ParseError {
    pub message: String,
    pub span: Option<Range<usize>>,
}

/// A checked value, on its way into a layer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Leaf {
    Flag(bool),
    Integer(i64),
    Number(f64),
    Text(String),
}

impl Serialize for Leaf {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Flag(value) => serializer.serialize_bool(*value),
            Self::Integer(value) => serializer.serialize_i64(*value),
            Self::Number(value) => serializer.serialize_f64(*value),
            Self::Text(value) => serializer.serialize_str(value),
        }
    }
}

/// Checked values by path (`train.steps`).
pub(crate) type Leaves = BTreeMap<String, Leaf>;

/// Reads `text` into a table.
pub(crate) fn parse(text: &str, format: Format) -> Result<Datum, ParseError> {
    match format {
        Format::Toml => match DeTable::parse(text) {
            Ok(table) => Ok(from_toml_table(table.into_inner())),
            Err(error) => Err(ParseError {
                message: error.message().into(),
                span: error.span(),
            }),
        },
        Format::Yaml => match serde_yaml_ng::from_str(text) {
            Ok(value) => Ok(from_yaml(value)),
            Err(error) => Err(ParseError {
                span: error.location().map(|place| line_at(text, place.line())),
                message: error.to_string(),
            }),
        },
        Format::Json => match serde_json::from_str(text) {
            Ok(value) => Ok(from_json(value)),
            Err(error) => Err(ParseError {
                span: Some(line_at(text, error.line())),
                message: error.to_string(),
            }),
        },
    }
}

/// The bytes of the line `number` (from 1), without its end.
fn line_at(text: &str, number: usize) -> Range<usize> {
    let start: usize = text
        .split_inclusive('\n')
        .take(number.saturating_sub(1))
        .map(str::len)
        .sum();
    let line = text[start..].lines().next().unwrap_or("");
    start..start + line.len()
}

fn from_toml_table(table: DeTable<'_>) -> Datum {
    let entry = |(key, value): (Spanned<_>, Spanned<DeValue<'_>>)| Entry {
        key_span: Some(key.span()),
        value_span: Some(value.span()),
        key: std::borrow::Cow::into_owned(key.into_inner()),
        value: from_toml(value.into_inner()),
    };
    let mut entries: Vec<_> = table.into_iter().map(entry).collect();
    entries.sort_by_key(|entry| entry.key_span.as_ref().map(|span| span.start));
    Datum::Table(entries)
}

fn from_toml(value: DeValue<'_>) -> Datum {
    match value {
        DeValue::String(text) => Datum::Text(text.into_owned()),
        DeValue::Boolean(flag) => Datum::Flag(flag),
        DeValue::Integer(integer) => {
            match i128::from_str_radix(integer.as_str(), integer.radix()) {
                Ok(value) => Datum::Integer(value),
                Err(_) => Datum::Other("a number beyond all bounds"),
            }
        }
        DeValue::Float(number) => match number.as_str().parse() {
            Ok(value) => Datum::Number(value),
            Err(_) => Datum::Other("a malformed number"),
        },
        DeValue::Table(table) => from_toml_table(table),
        DeValue::Array(_) => Datum::Other("a list"),
        DeValue::Datetime(_) => Datum::Other("a date"),
    }
}

fn plain(key: String, value: Datum) -> Entry {
    Entry {
        key,
        key_span: None,
        value,
        value_span: None,
    }
}

pub(crate) fn from_json(value: serde_json::Value) -> Datum {
    use serde_json::Value;
    match value {
        Value::Null => Datum::Null,
        Value::Bool(flag) => Datum::Flag(flag),
        Value::String(text) => Datum::Text(text),
        Value::Array(_) => Datum::Other("a list"),
        Value::Object(entries) => Datum::Table(
            entries
                .into_iter()
                .map(|(key, value)| plain(key, from_json(value)))
                .collect(),
        ),
        Value::Number(number) => match (number.as_i128(), number.as_f64()) {
            (Some(value), _) => Datum::Integer(value),
            (None, Some(value)) => Datum::Number(value),
            (None, None) => Datum::Other("a number beyond all bounds"),
        },
    }
}

fn from_yaml(value: serde_yaml_ng::Value) -> Datum {
    use serde_yaml_ng::Value;
    match value {
        Value::Null => Datum::Null,
        Value::Bool(flag) => Datum::Flag(flag),
        Value::String(text) => Datum::Text(text),
        Value::Sequence(_) => Datum::Other("a list"),
        Value::Tagged(tagged) => from_yaml(tagged.value),
        Value::Number(number) => match (number.as_i64(), number.as_u64(), number.as_f64()) {
            (Some(value), ..) => Datum::Integer(value.into()),
            (None, Some(value), _) => Datum::Integer(value.into()),
            (None, None, Some(value)) => Datum::Number(value),
            (None, None, None) => Datum::Other("a number beyond all bounds"),
        },
        Value::Mapping(entries) => {
            let name = |key: Value| match key {
                Value::String(text) => text,
                other => serde_yaml_ng::to_string(&other)
                    .unwrap_or_default()
                    .trim()
                    .to_owned(),
            };
            Datum::Table(
                entries
                    .into_iter()
                    .map(|(key, value)| plain(name(key), from_yaml(value)))
                    .collect(),
            )
        }
    }
}
