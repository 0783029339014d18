use std::collections::BTreeMap;

use muster_arch::{ModelConfig, ParameterTable};
use muster_spec::RunSpec;
use muster_store::Checkpoint;

/// How many tensors that do not fit are named.
const NAMED: usize = 5;

/// Checks that the checkpoint that a run starts from, if any, has the weights of its model; fills in the size of the vocabulary where
/// the spec leaves it open. Waits for storage: call it off the runtime's own threads.
pub(crate) fn resolve(spec: &mut RunSpec) -> Result<(), String> {
    if spec.init.from.is_empty() {
        return Ok(());
    }
    let open = Checkpoint::open(&spec.init.from);
    let checkpoint = tokio::runtime::Handle::current()
        .block_on(open)
        .map_err(|error| error.to_string())?;
    spec.init.from = checkpoint.uri().to_owned();
    let manifest = checkpoint.manifest();
    let there: ModelConfig = serde_json::from_value(manifest.spec["model"].clone())
        .map_err(|error| format!("the checkpoint's model is not known here: {error}"))?;
    if spec.model.vocab_size == 0 {
        spec.model.vocab_size = there.vocab_size;
    }
    let stored = manifest.files.iter().flat_map(|file| &file.tensors);
    let stored: BTreeMap<&str, &[u64]> = stored
        .filter_map(|entry| Some((entry.name.strip_prefix("model.")?, entry.shape.as_slice())))
        .collect();
    match differences(&spec.model, &there, &stored) {
        found if found.is_empty() => Ok(()),
        found => {
            let more = found.len().saturating_sub(NAMED);
            let named = found[..found.len() - more].join(", ");
            let rest = match more {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            Err(format!(
                "the checkpoint is of another model than the spec's: {named}{rest}; set [model] to what the checkpoint has"
            ))
        }
    }
}

/// What keeps the stored weights from being those of the model.
fn differences(
    wanted: &ModelConfig,
    there: &ModelConfig,
    stored: &BTreeMap<&str, &[u64]>,
) -> Vec<String> {
    if wanted.family != there.family {
        let (wanted, there) = (wanted.family.name(), there.family.name());
        return vec![format!("its family is {there:?} and not {wanted:?}")];
    }
    // What the same shapes can be cut into in several ways.
    if wanted.heads != there.heads {
        let (wanted, there) = (wanted.heads, there.heads);
        return vec![format!("it has {there} heads and not {wanted}")];
    }
    let table = ParameterTable::new(wanted);
    let of = |parameter: &muster_arch::Parameter| match stored.get(parameter.name.as_str()) {
        None => Some(format!("it has no {}", parameter.name)),
        Some(shape) if **shape == parameter.shape => None,
        Some(shape) => Some(format!(
            "{} is {shape:?} and not {:?}",
            parameter.name, parameter.shape
        )),
    };
    table.parameters().iter().filter_map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_that_do_not_fit_are_named() {
        let there = ModelConfig {
            vocab_size: 64,
            ..ModelConfig::default()
        };
        let table = ParameterTable::new(&there);
        let parameters = table.parameters().iter();
        let stored: BTreeMap<_, _> = parameters
            .map(|p| (p.name.as_str(), p.shape.as_slice()))
            .collect();
        assert_eq!(differences(&there, &there, &stored), [""; 0]);
        let changed = |change: fn(&mut ModelConfig)| {
            let mut wanted = there.clone();
            change(&mut wanted);
            differences(&wanted, &there, &stored)
        };
        let longer = changed(|config| config.context_length = 512);
        assert_eq!(
            longer,
            ["transformer.wpe.weight is [256, 256] and not [512, 256]"]
        );
        let deeper = changed(|config| config.layers = 5);
        assert_eq!(deeper[0], "it has no transformer.h.4.ln_1.weight");
        assert_eq!(deeper.len(), 12);
        assert_eq!(
            changed(|config| config.heads = 8),
            ["it has 4 heads and not 8"]
        );
    }
}
