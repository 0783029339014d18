use std::{collections::BTreeMap, ops::Range, sync::Arc};

use config::{Config, ConfigError};
use miette::{LabeledSpan, NamedSource};
use serde::{Serialize, Serializer, ser::SerializeMap};

use crate::{
    Format, RunSpec, SpecError, check,
    document::{self, Leaf, Leaves},
};

/// What variables that set keys begin with. `MUSTER_COORDINATOR` and its like are not among them.
const ENVIRONMENT_PREFIX: &str = "MUSTER__";

/// Loads a run spec from all its layers and checks it: defaults, then `text`, then those variables of `environment` that
/// are named `MUSTER__SECTION__KEY`, then `overrides`, whose keys are paths such as `train.steps`. `file_name` is what
/// messages call the text.
///
/// # Errors
/// Everything that is wrong, as one error: in a TOML text with the line, in the other layers with the variable or the
/// override. Whether values go together is said once each is right by itself.
pub fn load(
    text: &str,
    file_name: &str,
    format: Format,
    environment: impl IntoIterator<Item = (String, String)>,
    overrides: &[(String, String)],
) -> Result<RunSpec, SpecError> {
    let mut origins = Origins {
        source: Arc::new(NamedSource::new(file_name, text.to_owned())),
        spans: BTreeMap::new(),
        above: BTreeMap::new(),
    };
    let document = document::parse(text, format).map_err(|error| origins.unparsable(error))?;
    let checked = check::document(document);
    let mut errors: Vec<_> = checked
        .problems
        .into_iter()
        .map(|(error, span)| origins.in_file(error, span))
        .collect();
    origins.spans = checked.spans;

    // Sorted, because the order of an environment is nobody's choice.
    let variables: BTreeMap<_, _> = environment
        .into_iter()
        .filter(|(name, _)| name.starts_with(ENVIRONMENT_PREFIX))
        .collect();
    let mut from_environment = Leaves::new();
    for (name, value) in &variables {
        let path = name[ENVIRONMENT_PREFIX.len()..]
            .replace("__", ".")
            .to_lowercase();
        let said_by = format!("{name}={value}");
        let taken = origins.take(&path, value, said_by, &mut from_environment);
        errors.extend(taken.err());
    }
    let mut from_overrides = Leaves::new();
    for (path, value) in overrides {
        let said_by = format!("--set {path}={value}");
        let taken = origins.take(path, value, said_by, &mut from_overrides);
        errors.extend(taken.err());
    }
    SpecError::gather(file_name, errors)?;

    let layers = [checked.leaves, from_environment, from_overrides];
    let spec = merge(layers).map_err(|error| {
        let message = format!("the layers of {file_name} do not make a run spec: {error}");
        SpecError::new("", message, String::new())
    })?;
    let contradictions = spec.contradictions().into_iter();
    let errors = contradictions.map(|found| origins.of_keys(found.error, &found.keys));
    SpecError::gather(file_name, errors.collect())?;
    Ok(spec)
}

/// Where values came from.
struct Origins {
    source: Arc<NamedSource<String>>,
    spans: BTreeMap<String, Range<usize>>,
    /// `MUSTER__TRAIN__STEPS=5` or `--set train.steps=5`: what stands over the file.
    above: BTreeMap<String, String>,
}

fn merge(layers: [Leaves; 3]) -> Result<RunSpec, ConfigError> {
    let mut builder = Config::builder().add_source(Config::try_from(&RunSpec::default())?);
    for layer in layers {
        builder = builder.add_source(Config::try_from(&Nested(layer.iter().collect()))?);
    }
    builder.build()?.try_deserialize()
}

/// Leaves by path, serialized as tables within tables.
struct Nested<'a>(Vec<(&'a String, &'a Leaf)>);

impl Serialize for Nested<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut sections: BTreeMap<&str, BTreeMap<&str, &Leaf>> = BTreeMap::new();
        let mut map = serializer.serialize_map(None)?;
        for (path, leaf) in &self.0 {
            match path.split_once('.') {
                Some((section, key)) => {
                    sections.entry(section).or_default().insert(key, leaf);
                }
                None => map.serialize_entry(path, leaf)?,
            }
        }
        for (section, leaves) in &sections {
            map.serialize_entry(section, leaves)?;
        }
        map.end()
    }
}

impl Origins {
    /// Puts the value of a variable or an override, `said_by`, into its layer.
    fn take(
        &mut self,
        path: &str,
        value: &str,
        said_by: String,
        into: &mut Leaves,
    ) -> Result<(), SpecError> {
        match check::from_text(path, value) {
            Ok(leaf) => {
                into.insert(path.to_owned(), leaf);
                self.above.insert(path.to_owned(), said_by);
                Ok(())
            }
            Err(mut error) => {
                error.message = format!("{said_by}: {}", error.message);
                Err(error)
            }
        }
    }

    fn unparsable(&self, error: document::ParseError) -> SpecError {
        let message = format!("{} cannot be parsed: {}", self.source.name(), error.message);
        let mut problem = SpecError::new("", message, String::new());
        problem.labels.extend(
            error
                .span
                .map(|span| LabeledSpan::new_with_span(Some("here".into()), span)),
        );
        problem.source_code = Some(self.source.clone());
        problem
    }

    fn in_file(&self, mut error: SpecError, span: Option<Range<usize>>) -> SpecError {
        match span {
            Some(span) => error.labels.push(LabeledSpan::new_with_span(None, span)),
            None => error.message = format!("{}: {}", self.source.name(), error.message),
        }
        error.source_code = Some(self.source.clone());
        error
    }

    /// Shows where the values of `keys` came from.
    fn of_keys(&self, mut error: SpecError, keys: &[String]) -> SpecError {
        let above: Vec<_> = keys
            .iter()
            .filter_map(|key| self.above.get(key))
            .map(String::as_str)
            .collect();
        if !above.is_empty() {
            error.message = format!("{} [{}]", error.message, above.join(", "));
        }
        for key in keys.iter().filter(|key| !self.above.contains_key(*key)) {
            if let Some(span) = self.spans.get(key) {
                error
                    .labels
                    .push(LabeledSpan::new_with_span(None, span.clone()));
            }
        }
        error.source_code = Some(self.source.clone());
        error
    }
}
