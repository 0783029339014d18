//! Llama: "LLaMA: Open and Efficient Foundation Language Models", Touvron et al. 2023, §2.2, with the grouped queries of
//! Ainslie et al. 2023. A stack of blocks, each adding attention and then an MLP to the residual stream, both behind an
//! RMSNorm; an RMSNorm after the last block; positions turn queries and keys; the MLP is gated.
//!
//! Beside the crate's legend: K is the number of heads of keys and values, F the width of the MLP's hidden layer.

use muster_arch::ModelConfig;
use muster_ops::Interrupt;
use tch::{TchError, Tensor};

use crate::{
    BuildError, Model, Parameters, Pass,
    attention::{Sight, attend, split_heads},
    dropout::Dropout,
    linear::Linear,
    model::{first_gate, gate},
    rms_norm::RmsNorm,
    rope::Rope,
};

/// Causal self-attention in which several heads of queries share one of keys and values.
#[derive(Debug)]
struct Attention {
    query: Linear,  // C -> H D
    key: Linear,    // C -> K D
    value: Linear,  // C -> K D
    output: Linear, // H D -> C
    /// Over D, where the model has them.
    query_norm: Option<RmsNorm>,
    key_norm: Option<RmsNorm>,
    heads: i64,
    key_value_heads: i64,
    dropout: Dropout,
}

impl Attention {
    fn new(parameters: &Parameters, name: &str, config: &ModelConfig) -> Result<Self, BuildError> {
        let linear = |part: &str| Linear::new(parameters, &format!("{name}.{part}_proj"));
        let norm = |part: &str| {
            let make = || {
                RmsNorm::new(
                    parameters,
                    &format!("{name}.{part}_norm"),
                    config.norm_epsilon,
                )
            };
            config.qk_norm.then(make).transpose()
        };
        Ok(Self {
            query: linear("q")?,
            key: linear("k")?,
            value: linear("v")?,
            output: linear("o")?,
            query_norm: norm("q")?,
            key_norm: norm("k")?,
            heads: config.heads.into(),
            key_value_heads: config.key_value_heads().into(),
            dropout: Dropout::new(config.dropout),
        })
    }

    /// [B, T, C] to [B, T, C].
    fn forward(&self, x: &Tensor, rope: &Rope, pass: Pass) -> Result<Tensor, TchError> {
        let normed = |x: Tensor, norm: &Option<RmsNorm>| match norm {
            Some(norm) => norm.forward(&x),
            None => Ok(x),
        };
        let q = split_heads(&self.query.forward(x)?, self.heads)?; // [B, H, T, D]
        let k = split_heads(&self.key.forward(x)?, self.key_value_heads)?; // [B, K, T, D]
        let v = split_heads(&self.value.forward(x)?, self.key_value_heads)?; // [B, K, T, D]
        let q = rope.turn(&normed(q, &self.query_norm)?)?;
        let k = rope.turn(&normed(k, &self.key_norm)?)?;
        let (k, v) = (self.spread(&k)?, self.spread(&v)?);
        let mixed = attend([&q, &k, &v], Sight::Causal, self.dropout, pass)?; // [B, T, H D]
        self.dropout.apply(self.output.forward(&mixed)?, pass)
    }

    /// [B, K, T, D] to [B, H, T, D]: each head of keys or values for the heads of queries that share it. The fused kernels want
    /// as many of one as of the other.
    fn spread(&self, x: &Tensor) -> Result<Tensor, TchError> {
        let (b, k, t, d) = x.size4()?;
        if k == self.heads {
            return Ok(x.shallow_clone());
        }
        x.f_unsqueeze(2)?
            .f_expand([b, k, self.heads / k, t, d], false)?
            .f_reshape([b, self.heads, t, d])
    }
}

/// SwiGLU (Shazeer 2020): one widened copy, through SiLU, gates the other.
#[derive(Debug)]
struct GatedMlp {
    gate: Linear, // C -> F
    up: Linear,   // C -> F
    down: Linear, // F -> C
    dropout: Dropout,
}

impl GatedMlp {
    fn new(parameters: &Parameters, name: &str, dropout: Dropout) -> Result<Self, BuildError> {
        Ok(Self {
            gate: Linear::new(parameters, &format!("{name}.gate_proj"))?,
            up: Linear::new(parameters, &format!("{name}.up_proj"))?,
            down: Linear::new(parameters, &format!("{name}.down_proj"))?,
            dropout,
        })
    }

    /// [B, T, C] to [B, T, C].
    fn forward(&self, x: &Tensor, pass: Pass) -> Result<Tensor, TchError> {
        let hidden = self
            .gate
            .forward(x)?
            .f_silu()?
            .f_mul(&self.up.forward(x)?)?; // [B, T, F]
        self.dropout.apply(self.down.forward(&hidden)?, pass)
    }
}

/// One block: x + attention(norm(x)), then x + mlp(norm(x)).
#[derive(Debug)]
struct Block {
    norm_1: RmsNorm,
    attention: Attention,
    norm_2: RmsNorm,
    mlp: GatedMlp,
}

impl Block {
    fn new(parameters: &Parameters, name: &str, config: &ModelConfig) -> Result<Self, BuildError> {
        let norm =
            |part: &str| RmsNorm::new(parameters, &format!("{name}.{part}"), config.norm_epsilon);
        let dropout = Dropout::new(config.dropout);
        Ok(Self {
            norm_1: norm("input_layernorm")?,
            attention: Attention::new(parameters, &format!("{name}.self_attn"), config)?,
            norm_2: norm("post_attention_layernorm")?,
            mlp: GatedMlp::new(parameters, &format!("{name}.mlp"), dropout)?,
        })
    }

    /// [B, T, C] to [B, T, C].
    fn forward(&self, x: &Tensor, rope: &Rope, pass: Pass) -> Result<Tensor, TchError> {
        let normed = self.norm_1.forward(x)?;
        let x = x.f_add(&self.attention.forward(&normed, rope, pass)?)?;
        x.f_add(&self.mlp.forward(&self.norm_2.forward(&x)?, pass)?)
    }
}

/// The model.
#[derive(Debug)]
pub(crate) struct Llama {
    config: ModelConfig,
    token_embedding: Tensor, // [V, C]
    output_head: Tensor,     // [V, C], the token embedding where they are tied
    rope: Rope,
    dropout: Dropout,
    blocks: Vec<Block>,
    final_norm: RmsNorm,
    parameters: Parameters,
    interrupt: Interrupt,
}

impl Llama {
    pub(crate) fn new(config: ModelConfig, parameters: Parameters) -> Result<Self, BuildError> {
        let block = |layer| Block::new(&parameters, &format!("model.layers.{layer}"), &config);
        let token_embedding = parameters.get("model.embed_tokens.weight")?;
        let output_head = if config.tie_embeddings {
            token_embedding.shallow_clone()
        } else {
            parameters.get("lm_head.weight")?
        };
        Ok(Self {
            rope: Rope::new(&config, token_embedding.device())?,
            blocks: (0..config.layers).map(block).collect::<Result<_, _>>()?,
            final_norm: RmsNorm::new(&parameters, "model.norm", config.norm_epsilon)?,
            dropout: Dropout::new(config.dropout),
            token_embedding,
            output_head,
            config,
            parameters,
            interrupt: Interrupt::default(),
        })
    }
}

impl Model for Llama {
    fn config(&self) -> &ModelConfig {
        &self.config
    }

    fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    fn interrupt_when(&mut self, interrupt: Interrupt) {
        self.interrupt = interrupt;
    }

    fn interrupt(&self) -> &Interrupt {
        &self.interrupt
    }

    fn features(&self, tokens: &Tensor, pass: Pass) -> Result<Tensor, TchError> {
        self.dropout.begin(pass);
        let mut x = Tensor::f_embedding(&self.token_embedding, tokens, -1, false, false)?; // [B, T, C]
        first_gate(&self.interrupt, &x)?;
        for block in &self.blocks {
            x = block.forward(&x, &self.rope, pass)?;
            gate(&self.interrupt, &x)?;
        }
        self.final_norm.forward(&x)
    }

    fn head(&self, features: &Tensor) -> Result<Tensor, TchError> {
        features.f_linear(&self.output_head, None::<&Tensor>)
    }
}
