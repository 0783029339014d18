use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use crate::{Family, ModelConfig, ParameterTable};

/// Where a parameter's values are found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorMatch {
    /// The parameter's name in the table.
    pub parameter: String,
    /// The tensor's name in the file.
    pub tensor: String,
}

/// How a file's tensors differ from what the model needs. Every one is named.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mismatch {
    /// Parameters that no tensor is for.
    pub missing: Vec<String>,
    /// Tensors that no parameter is for.
    pub unexpected: Vec<String>,
    /// Tensors of other shapes: name, shape found, shape needed.
    pub misshapen: Vec<(String, Vec<u64>, Vec<u64>)>,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the tensors are not those that config.json promises")?;
        for name in &self.missing {
            write!(f, "\n  missing: {name}")?;
        }
        for name in &self.unexpected {
            write!(f, "\n  unexpected: {name}")?;
        }
        for (name, found, needed) in &self.misshapen {
            write!(f, "\n  {name} is {found:?} and should be {needed:?}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Mismatch {}

/// Finds each parameter's tensor among those of a checkpoint of Hugging Face, given as names and shapes. Prefixes that a class
/// leaves out are added; second names of tied tensors and constant buffers are passed over.
///
/// # Errors
/// Everything that does not fit.
pub fn match_tensors(
    config: &ModelConfig,
    found: &BTreeMap<String, Vec<u64>>,
) -> Result<Vec<TensorMatch>, Mismatch> {
    let by_name: BTreeMap<String, &String> = found
        .keys()
        .map(|name| (full_name(config.family, name), name))
        .collect();
    let mut mismatch = Mismatch::default();
    let mut matches = Vec::new();
    let mut used = BTreeSet::new();
    for parameter in ParameterTable::new(config).parameters() {
        let name = parameter.name.as_str();
        let tensor = by_name
            .get(name)
            .or_else(|| second_name(config, name).and_then(|second| by_name.get(second)));
        let Some(&tensor) = tensor else {
            mismatch.missing.push(name.into());
            continue;
        };
        used.insert(tensor);
        let shape = &found[tensor];
        if *shape != parameter.shape {
            let needed = parameter.shape.clone();
            mismatch
                .misshapen
                .push((tensor.clone(), shape.clone(), needed));
        }
        matches.push(TensorMatch {
            parameter: name.into(),
            tensor: tensor.clone(),
        });
    }
    let left = by_name.iter().filter(|(_, tensor)| !used.contains(*tensor));
    for (name, tensor) in left {
        if !is_redundant(config, name) {
            mismatch.unexpected.push((*tensor).clone());
        }
    }
    if mismatch == Mismatch::default() {
        Ok(matches)
    } else {
        Err(mismatch)
    }
}

/// The name in the state dict of the family's class with an output head.
fn full_name(family: Family, name: &str) -> String {
    let prefixed = |prefix: &str, heads: &[&str]| {
        let is_full = name.starts_with(prefix) || heads.iter().any(|head| name.starts_with(head));
        if is_full {
            name.to_owned()
        } else {
            format!("{prefix}{name}")
        }
    };
    match family {
        Family::Gpt2 => prefixed("transformer.", &["lm_head."]),
        Family::Llama => prefixed("model.", &["lm_head."]),
        Family::Bert => {
            let full = prefixed("bert.", &["cls."]);
            // What checkpoints converted from TensorFlow call a norm's gain and bias.
            match (full.strip_suffix(".gamma"), full.strip_suffix(".beta")) {
                (Some(norm), _) => format!("{norm}.weight"),
                (_, Some(norm)) => format!("{norm}.bias"),
                _ => full,
            }
        }
    }
}

/// Under which name a tied tensor may lie instead.
fn second_name(config: &ModelConfig, parameter: &str) -> Option<&'static str> {
    match parameter {
        "transformer.wte.weight" => Some("lm_head.weight"),
        "model.embed_tokens.weight" if config.tie_embeddings => Some("lm_head.weight"),
        "bert.embeddings.word_embeddings.weight" => Some("cls.predictions.decoder.weight"),
        "cls.predictions.bias" => Some("cls.predictions.decoder.bias"),
        _ => None,
    }
}

/// Whether a tensor says what another one, or the configuration, says already.
fn is_redundant(config: &ModelConfig, name: &str) -> bool {
    match config.family {
        Family::Gpt2 => {
            name == "lm_head.weight"
                || name.ends_with(".attn.bias")
                || name.ends_with(".attn.masked_bias")
        }
        Family::Llama => {
            (name == "lm_head.weight" && config.tie_embeddings)
                || name.ends_with(".rotary_emb.inv_freq")
        }
        Family::Bert => {
            name == "bert.embeddings.position_ids"
                || (config.mlm_head && name.starts_with("cls.predictions.decoder."))
        }
    }
}
