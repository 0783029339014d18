use std::ops::ControlFlow;

use tch::{Kind, TchError, Tensor, no_grad};

use crate::{Model, Pass, Sampler, SamplerOptions};

/// How long a text may become and how its tokens are chosen.
#[derive(Clone, Debug, PartialEq)]
pub struct GenerateOptions {
    /// Most tokens to add to the prompt.
    pub max_tokens: usize,
    /// How each is chosen.
    pub sampler: SamplerOptions,
}

/// Why a text could not be continued.
#[derive(Debug, thiserror::Error)]
pub enum GenerateError {
    /// There is nothing to continue.
    #[error("the prompt has no tokens; give it at least one")]
    EmptyPrompt,
    /// The prompt belongs to another tokenizer.
    #[error(
        "token id {id} of the prompt is outside the model's vocabulary of {vocabulary}; was another tokenizer used?"
    )]
    OutsideVocabulary {
        /// The offending id.
        id: i64,
        /// Rows of the token embedding.
        vocabulary: u32,
    },
    /// The model computes no numbers.
    #[error(
        "the model's logits are not finite after {tokens} tokens; its weights are damaged or training diverged"
    )]
    NotFinite {
        /// Tokens before the failure, the prompt included.
        tokens: usize,
    },
    /// libtorch refused.
    #[error("libtorch could not run the model: {0}")]
    Torch(#[from] TchError),
}

/// Continues a prompt token by token, handing each new id to `on_token`, which may end the text. A text longer than the
/// context sees its last `context_length` tokens. Returns the new ids.
///
/// # Errors
/// See [`GenerateError`].
pub fn generate(
    model: &dyn Model,
    prompt: &[i64],
    options: &GenerateOptions,
    mut on_token: impl FnMut(i64) -> ControlFlow<()>,
) -> Result<Vec<i64>, GenerateError> {
    let config = model.config();
    if prompt.is_empty() {
        return Err(GenerateError::EmptyPrompt);
    }
    if let Some(&id) = prompt
        .iter()
        .find(|id| !(0..i64::from(config.vocab_size)).contains(*id))
    {
        return Err(GenerateError::OutsideVocabulary {
            id,
            vocabulary: config.vocab_size,
        });
    }
    let sampler = Sampler::new(options.sampler.clone());
    let mut ids = prompt.to_vec();
    for index in 0..options.max_tokens {
        let window = &ids[ids.len().saturating_sub(config.context_length as usize)..];
        let logits = next_logits(model, window)?;
        let id = sampler
            .choose(&logits, index as u64)
            .ok_or(GenerateError::NotFinite { tokens: ids.len() })? as i64;
        ids.push(id);
        if on_token(id).is_break() {
            break;
        }
    }
    Ok(ids.split_off(prompt.len()))
}

/// Logits [V] of the token that follows the window.
fn next_logits(model: &dyn Model, window: &[i64]) -> Result<Vec<f32>, TchError> {
    let device = model
        .parameters()
        .tensors()
        .first()
        .map_or(tch::Device::Cpu, |p| p.tensor.device());
    no_grad(|| {
        let tokens = Tensor::f_from_slice(window)?
            .f_to_device(device)?
            .f_unsqueeze(0)?; // [1, T]
        let features = model.features(&tokens, Pass::Evaluate)?; // [1, T, C]
        let last = features.f_select(1, window.len() as i64 - 1)?; // [1, C]
        let logits = model.head(&last)?.f_to_kind(Kind::Float)?; // [1, V]
        let mut values = vec![0.0; logits.numel()];
        logits.f_copy_data(&mut values, logits.numel())?;
        Ok(values)
    })
}
