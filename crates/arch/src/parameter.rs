use crate::{Family, ModelConfig, bert, gpt2, llama};

/// Whether decoupled weight decay applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decay {
    /// Tensors of two or more dimensions: they multiply activations.
    Decayed,
    /// Biases and gains.
    Exempt,
}

/// What a parameter holds before the first step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    /// Independent draws from a normal distribution around 0.
    Normal {
        /// Its standard deviation.
        std: f64,
    },
    /// All zero.
    Zeros,
    /// All one.
    Ones,
}

/// One trainable tensor.
#[derive(Clone, Debug, PartialEq)]
pub struct Parameter {
    /// Its name in the family's Hugging Face state dict.
    pub name: String,
    /// Extent of each dimension, in elements.
    pub shape: Vec<u64>,
    /// Whether it decays.
    pub decay: Decay,
    /// How it starts.
    pub init: Init,
}

impl Parameter {
    /// A parameter that decays if it has two or more dimensions.
    pub(crate) fn new(name: impl Into<String>, shape: &[u64], init: Init) -> Self {
        let decay = if shape.len() >= 2 {
            Decay::Decayed
        } else {
            Decay::Exempt
        };
        Self {
            name: name.into(),
            shape: shape.to_vec(),
            decay,
            init,
        }
    }

    /// Elements: the product of the extents.
    pub fn elements(&self) -> u64 {
        self.shape.iter().product()
    }
}

/// A model's parameters in their fixed order: the order of the optimizer's state, of the reducer's buckets, of hashes and
/// of checkpoints.
#[derive(Clone, Debug, PartialEq)]
pub struct ParameterTable(Vec<Parameter>);

impl ParameterTable {
    /// The table of a configuration that [`ModelConfig::validate`] accepts.
    pub fn new(config: &ModelConfig) -> Self {
        Self(match config.family {
            Family::Gpt2 => gpt2::parameters(config),
            Family::Llama => llama::parameters(config),
            Family::Bert => bert::parameters(config),
        })
    }

    /// The parameters in order.
    pub fn parameters(&self) -> &[Parameter] {
        &self.0
    }

    /// Elements of all parameters together; a tied tensor counts once.
    pub fn elements(&self) -> u64 {
        self.0.iter().map(Parameter::elements).sum()
    }
}
