use crate::{Family, ModelConfig, ParameterTable};

/// Bytes of a single-precision element.
const FP32_BYTES: u64 = 4;

/// Floating-point operations to train on one token of a full-length sequence, forward and backward, as model FLOPs
/// utilisation counts them: `6 N + 12 · layers · hidden · context` (Chowdhery et al. 2022, PaLM, appendix B).
/// N leaves out embeddings that are looked up and never multiplied: those of positions and token types, and a token embedding
/// that is not also the output head. `hidden` is the width of all heads together. The attention term is of full, not causal,
/// attention, as is the custom. BERT's output head counts for all tokens, though masked training asks it for some only.
pub fn flops_per_token(config: &ModelConfig) -> u64 {
    let [c, t, v] = [config.hidden_size, config.context_length, config.vocab_size].map(u64::from);
    let looked_up = match config.family {
        Family::Gpt2 => t * c,
        Family::Llama if config.tie_embeddings => 0,
        Family::Llama => v * c,
        Family::Bert => (t + u64::from(config.token_types)) * c,
    };
    let multiplied = ParameterTable::new(config).elements() - looked_up;
    6 * multiplied + 12 * u64::from(config.layers) * heads_width(config) * t
}

/// Width of all heads of queries together.
fn heads_width(config: &ModelConfig) -> u64 {
    u64::from(config.heads) * u64::from(config.head_width())
}

/// What training holds in a worker's memory, in bytes. Replicated state: every worker holds all of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryEstimate {
    /// Parameters, fp32.
    pub parameter_bytes: u64,
    /// Gradients, fp32.
    pub gradient_bytes: u64,
    /// AdamW's two moments, fp32.
    pub optimizer_bytes: u64,
    /// What one micro-batch keeps for its backward pass, in fp32. An estimate: allocators round up, kernels need
    /// workspace, and bf16 autocast needs about half.
    pub activation_bytes: u64,
}

impl MemoryEstimate {
    /// All of it.
    pub fn total_bytes(&self) -> u64 {
        self.parameter_bytes + self.gradient_bytes + self.optimizer_bytes + self.activation_bytes
    }
}

/// What training `config` with `micro_batch` full-length sequences a forward pass needs.
///
/// Activations, in elements a token, counted from what backward reads: a block keeps its two norms' inputs and outputs
/// (4 C), q, k and v (3 C), the heads' output twice (2 C: as attention made it and joined for the projection), and the
/// MLP's hidden layer before and after GELU (8 C). A Llama keeps q and k before and after they are turned, keys and values
/// as they are spread over the heads, and four hidden layers of its gated MLP. Attention is the memory-efficient kind and keeps
/// no T × T matrix. The head keeps logits, log-probabilities and their gradient (3 V).
pub fn memory_estimate(config: &ModelConfig, micro_batch: u32) -> MemoryEstimate {
    let (c, v) = (u64::from(config.hidden_size), u64::from(config.vocab_size));
    let parameter_bytes = FP32_BYTES * ParameterTable::new(config).elements();
    let tokens = u64::from(micro_batch) * u64::from(config.context_length);
    let (f, heads) = (config.mlp_width(), heads_width(config));
    let block = match config.family {
        Family::Gpt2 | Family::Bert => 9 * c + 2 * f,
        Family::Llama => 4 * c + 7 * heads + 4 * f,
    };
    let per_token = u64::from(config.layers) * block + 2 * c + 3 * v;
    MemoryEstimate {
        parameter_bytes,
        gradient_bytes: parameter_bytes,
        optimizer_bytes: 2 * parameter_bytes,
        activation_bytes: FP32_BYTES * tokens * per_token,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gpt2_124m() -> ModelConfig {
        ModelConfig {
            layers: 12,
            heads: 12,
            hidden_size: 768,
            context_length: 1024,
            vocab_size: 50_257,
            ..ModelConfig::default()
        }
    }

    #[test]
    fn gpt2_small_has_the_published_number_of_parameters() {
        assert_eq!(ParameterTable::new(&gpt2_124m()).elements(), 124_439_808);
    }

    #[test]
    fn flops_follow_the_formula() {
        let n = 124_439_808 - 1024 * 768;
        assert_eq!(flops_per_token(&gpt2_124m()), 6 * n + 12 * 12 * 768 * 1024);
    }

    #[test]
    fn state_takes_sixteen_bytes_a_parameter_and_activations_grow_with_the_micro_batch() {
        let (one, four) = (
            memory_estimate(&gpt2_124m(), 1),
            memory_estimate(&gpt2_124m(), 4),
        );
        assert_eq!(one.total_bytes() - one.activation_bytes, 16 * 124_439_808);
        assert_eq!(4 * one.activation_bytes, four.activation_bytes);
        assert_eq!(one.parameter_bytes, four.parameter_bytes);
    }
}
