use muster_arch::{ConfigError, Family, ModelConfig, ParameterTable};
use muster_types::Seed;
use tch::{Device, TchError};

use crate::{Model, Parameters, bert::Bert, gpt2::Gpt2, llama::Llama};

/// Why a model could not be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The configuration describes no model.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The configuration still waits for a dataset's vocabulary.
    #[error(
        "model.vocab_size is not known; set it, or take it from the dataset or the checkpoint first"
    )]
    VocabularyUnknown,
    /// A family's code asks for a parameter that its table lacks.
    #[error("the model's parameter table has no {name:?}")]
    NoSuchParameter {
        /// What was asked for.
        name: String,
    },
    /// libtorch refused.
    #[error("libtorch could not build the model: {0}")]
    Torch(#[from] TchError),
}

/// Builds the family's model, its parameters initialised from the seed. The same seed gives the same bits on every
/// device and machine.
///
/// # Errors
/// See [`BuildError`].
pub fn build(
    config: &ModelConfig,
    device: Device,
    seed: Seed,
) -> Result<Box<dyn Model>, BuildError> {
    config.validate()?;
    if config.vocab_size == 0 {
        return Err(BuildError::VocabularyUnknown);
    }
    let parameters = Parameters::new(ParameterTable::new(config), device, seed)?;
    Ok(match config.family {
        Family::Gpt2 => Box::new(Gpt2::new(config.clone(), parameters)?),
        Family::Llama => Box::new(Llama::new(config.clone(), parameters)?),
        Family::Bert => Box::new(Bert::new(config.clone(), parameters)?),
    })
}
