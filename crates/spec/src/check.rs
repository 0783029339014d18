use std::{collections::BTreeMap, ops::Range};

use crate::{
    RunSpec, SpecError,
    document::{Datum, Entry, Leaf, Leaves, from_json},
    keys::{Bounds, KEYS, Kind, Node, one_of},
    suggest::closest,
};

/// What a document holds once it was checked against the keys: values, where each stands, and what is wrong.
#[derive(Default)]
pub(crate) struct Checked {
    pub leaves: Leaves,
    /// Where each value stands in the text.
    pub spans: BTreeMap<String, Range<usize>>,
    /// What is wrong, and where.
    pub problems: Vec<(SpecError, Option<Range<usize>>)>,
}

/// Checks a whole document.
pub(crate) fn document(datum: Datum) -> Checked {
    let mut checked = Checked::default();
    match datum {
        Datum::Table(entries) => walk(&KEYS, "", entries, &mut checked),
        // An empty YAML file.
        Datum::Null => {}
        other => {
            let message = format!(
                "a run spec must be a table of sections, but this is {}",
                describe(&other)
            );
            let fix = "begin with a section such as [train]".into();
            checked
                .problems
                .push((SpecError::new("", message, fix), None));
        }
    }
    checked
}

fn walk(node: &Node, prefix: &str, entries: Vec<Entry>, checked: &mut Checked) {
    for Entry {
        key,
        key_span,
        value,
        value_span,
    } in entries
    {
        let path = if prefix.is_empty() {
            key.clone()
        } else {
            format!("{prefix}.{key}")
        };
        match (node.get(&key), value) {
            (None, value) => {
                let is_section = matches!(value, Datum::Table(_));
                checked
                    .problems
                    .push((unknown(&path, is_section), key_span));
            }
            (Some(section @ Node::Section(_)), Datum::Table(entries)) => {
                walk(section, &path, entries, checked)
            }
            // YAML's way to write an empty section.
            (Some(Node::Section(_)), Datum::Null) => {}
            (Some(Node::Section(inner)), other) => {
                let first = inner.first().map_or("", |(name, _)| name.as_str());
                let message = format!("`{path}` is a section, but here it is {}", describe(&other));
                let fix = format!("set its keys, such as `{path}.{first}`");
                checked
                    .problems
                    .push((SpecError::new(path, message, fix), value_span));
            }
            (Some(Node::Leaf(kind)), value) => match leaf(&path, kind, value) {
                Ok(leaf) => {
                    if let Some(span) = value_span {
                        checked.spans.insert(path.clone(), span);
                    }
                    checked.leaves.insert(path, leaf);
                }
                Err(error) => checked.problems.push((error, value_span)),
            },
        }
    }
}

/// The value that `text` stands for at `path`, as an environment variable or an override gives it.
pub(crate) fn from_text(path: &str, text: &str) -> Result<Leaf, SpecError> {
    let kind = match KEYS.find(path) {
        None => return Err(unknown(path, false)),
        Some(Node::Section(inner)) => {
            let first = inner.first().map_or("", |(name, _)| name.as_str());
            let fix = format!("name one of its keys, such as `{path}.{first}`");
            return Err(SpecError::new(
                path,
                format!("`{path}` is a section, not a key"),
                fix,
            ));
        }
        Some(Node::Leaf(kind)) => kind,
    };
    let digits = || text.replace('_', "");
    let datum = match kind {
        Kind::Integer { .. } => digits().parse().map(Datum::Integer).ok(),
        Kind::Number(_) => digits().parse().map(Datum::Number).ok(),
        Kind::Flag => text.parse().map(Datum::Flag).ok(),
        Kind::Word(_) | Kind::Text => None,
    };
    leaf(
        path,
        kind,
        datum.unwrap_or_else(|| Datum::Text(text.to_owned())),
    )
}

/// What is wrong with a spec's values one by one.
pub(crate) fn values(spec: &RunSpec) -> Vec<SpecError> {
    let value = match serde_json::to_value(spec) {
        Ok(value) => value,
        Err(error) => {
            let message = format!("the spec cannot be written: {error}");
            return vec![SpecError::new("", message, String::new())];
        }
    };
    let mut datum = from_json(value);
    name_non_finite(&mut datum);
    let problems = document(datum).problems;
    problems.into_iter().map(|(error, _)| error).collect()
}

/// JSON has no NaN and no infinity: they become nulls, and nothing else in a spec does.
fn name_non_finite(datum: &mut Datum) {
    match datum {
        Datum::Null => *datum = Datum::Other("infinite or not a number at all"),
        Datum::Table(entries) => entries
            .iter_mut()
            .for_each(|entry| name_non_finite(&mut entry.value)),
        _ => {}
    }
}

fn leaf(path: &str, kind: &Kind, value: Datum) -> Result<Leaf, SpecError> {
    let out_of_range = |value: String, range: String| {
        let message = format!("`{path}` is {value}, but must be {range}");
        SpecError::new(path, message, example(path))
    };
    match (kind, value) {
        (Kind::Flag, Datum::Flag(flag)) => Ok(Leaf::Flag(flag)),
        (Kind::Text, Datum::Text(text)) => Ok(Leaf::Text(text)),
        (Kind::Word(words), Datum::Text(text)) if words.contains(&text) => Ok(Leaf::Text(text)),
        (Kind::Word(words), Datum::Text(text)) => Err(unknown_word(path, words, &text)),
        (Kind::Integer { min, max }, Datum::Integer(value)) => match i64::try_from(value) {
            Ok(small) if (*min..=*max).contains(&value) => Ok(Leaf::Integer(small)),
            _ if value < *min => Err(out_of_range(value.to_string(), format!("at least {min}"))),
            _ => Err(out_of_range(value.to_string(), format!("at most {max}"))),
        },
        (Kind::Number(bounds), Datum::Integer(value)) => number(value as f64, bounds, out_of_range),
        (Kind::Number(bounds), Datum::Number(value)) => number(value, bounds, out_of_range),
        (kind, other) => {
            let message = format!(
                "`{path}` must be {}, but is {}",
                kind.words(),
                describe(&other)
            );
            Err(SpecError::new(path, message, example(path)))
        }
    }
}

fn number(
    value: f64,
    bounds: &Bounds,
    out_of_range: impl Fn(String, String) -> SpecError,
) -> Result<Leaf, SpecError> {
    let refuse = |range: String| Err(out_of_range(value.to_string(), range));
    match bounds {
        _ if !value.is_finite() => refuse("finite".into()),
        Bounds { min: Some(min), .. } if value < *min => refuse(format!("at least {min}")),
        Bounds { max: Some(max), .. } if value > *max => refuse(format!("at most {max}")),
        Bounds {
            above: Some(above), ..
        } if value <= *above => refuse(format!("above {above}")),
        Bounds {
            below: Some(below), ..
        } if value >= *below => refuse(format!("below {below}")),
        _ => Ok(Leaf::Number(value)),
    }
}

fn unknown_word(path: &str, words: &[String], text: &str) -> SpecError {
    if let [only] = words {
        let message = format!("`{path}` is {text:?}, but this version has only {only:?}");
        return SpecError::new(path, message, format!("set it to {only:?} or leave it out"));
    }
    let fix = closest(text, words.iter().map(String::as_str))
        .map_or_else(|| example(path), |w| format!("did you mean {w:?}?"));
    SpecError::new(
        path,
        format!("`{path}` is {text:?}, but must be {}", one_of(words)),
        fix,
    )
}

fn unknown(path: &str, is_section: bool) -> SpecError {
    let (parent, key) = path.rsplit_once('.').unwrap_or(("", path));
    let siblings = match if parent.is_empty() {
        Some(&*KEYS)
    } else {
        KEYS.find(parent)
    } {
        Some(Node::Section(entries)) => entries.as_slice(),
        _ => &[],
    };
    let names = |sections: Option<bool>| {
        let wanted = siblings.iter().filter(move |(_, node)| {
            sections.is_none_or(|s| s == matches!(node, Node::Section(_)))
        });
        wanted.map(|(name, _)| name.as_str())
    };
    let message = if is_section {
        format!("unknown section [{path}]")
    } else {
        format!("unknown key `{path}`")
    };
    let elsewhere = match &*KEYS {
        Node::Section(all) => all.iter().find(|(_, node)| node.get(key).is_some()),
        Node::Leaf(_) => None,
    };
    let fix = match (closest(key, names(None)), elsewhere) {
        (Some(meant), _) if is_section => format!("did you mean [{meant}]?"),
        (Some(meant), _) => format!("did you mean `{meant}`?"),
        (None, Some((section, _))) => format!("`{key}` belongs in [{section}]"),
        (None, None) if parent.is_empty() => {
            format!(
                "the sections are {}",
                names(Some(true)).collect::<Vec<_>>().join(", ")
            )
        }
        (None, None) => format!(
            "[{parent}] has the keys {}",
            names(None).collect::<Vec<_>>().join(", ")
        ),
    };
    SpecError::new(path, message, fix)
}

/// How the key is set to its default.
fn example(path: &str) -> String {
    let pointer = format!("/{}", path.replace('.', "/"));
    let default = serde_json::to_value(RunSpec::default())
        .ok()
        .and_then(|spec| spec.pointer(&pointer).cloned());
    let (section, key) = path.rsplit_once('.').unwrap_or(("", path));
    let place = if section.is_empty() {
        String::new()
    } else {
        format!(" in [{section}]")
    };
    match default {
        Some(value) if value.as_str() != Some("") => {
            format!("for example `{key} = {value}`{place}")
        }
        _ => String::new(),
    }
}

fn describe(datum: &Datum) -> String {
    match datum {
        Datum::Null => "nothing".into(),
        Datum::Flag(value) => value.to_string(),
        Datum::Integer(value) => format!("the number {value}"),
        Datum::Number(value) => format!("the number {value}"),
        Datum::Text(text) => format!("the text {text:?}"),
        Datum::Other(words) => (*words).into(),
        Datum::Table(_) => "a section".into(),
    }
}
