//! GPT-2: "Language Models are Unsupervised Multitask Learners", Radford et al. 2019, §2.3. A stack of blocks, each
//! adding attention and then an MLP to the residual stream, both behind a LayerNorm; a LayerNorm after the last block;
//! positions are learned; the token embedding is also the output head.

use muster_arch::ModelConfig;
use muster_ops::Interrupt;
use tch::{TchError, Tensor};

use crate::{
    BuildError, Model, Parameters, Pass,
    attention::{Sight, attend, split_heads},
    conv1d::Conv1d,
    dropout::Dropout,
    layer_norm::LayerNorm,
    mlp::Mlp,
    model::{first_gate, gate},
};

/// Causal multi-head self-attention, its three projections in one matrix.
#[derive(Debug)]
struct CausalSelfAttention {
    qkv: Conv1d,    // C -> 3 C
    output: Conv1d, // C -> C
    heads: i64,
    dropout: Dropout,
}

impl CausalSelfAttention {
    fn new(parameters: &Parameters, name: &str, config: &ModelConfig) -> Result<Self, BuildError> {
        Ok(Self {
            qkv: Conv1d::new(parameters, &format!("{name}.c_attn"))?,
            output: Conv1d::new(parameters, &format!("{name}.c_proj"))?,
            heads: config.heads.into(),
            dropout: Dropout::new(config.dropout),
        })
    }

    /// [B, T, C] to [B, T, C].
    fn forward(&self, x: &Tensor, pass: Pass) -> Result<Tensor, TchError> {
        let (_b, _t, c) = x.size3()?;
        let qkv = self.qkv.forward(x)?; // [B, T, 3 C]
        let heads = |index: i64| split_heads(&qkv.f_narrow(2, index * c, c)?, self.heads); // [B, H, T, D]
        let (q, k, v) = (heads(0)?, heads(1)?, heads(2)?);
        let joined = attend([&q, &k, &v], Sight::Causal, self.dropout, pass)?; // [B, T, C]
        self.dropout.apply(self.output.forward(&joined)?, pass)
    }
}

/// One block: x + attention(norm(x)), then x + mlp(norm(x)).
#[derive(Debug)]
struct Block {
    norm_1: LayerNorm,
    attention: CausalSelfAttention,
    norm_2: LayerNorm,
    mlp: Mlp,
}

impl Block {
    fn new(parameters: &Parameters, name: &str, config: &ModelConfig) -> Result<Self, BuildError> {
        let norm =
            |part: &str| LayerNorm::new(parameters, &format!("{name}.{part}"), config.norm_epsilon);
        let dropout = Dropout::new(config.dropout);
        Ok(Self {
            norm_1: norm("ln_1")?,
            attention: CausalSelfAttention::new(parameters, &format!("{name}.attn"), config)?,
            norm_2: norm("ln_2")?,
            mlp: Mlp::new(parameters, &format!("{name}.mlp"), dropout)?,
        })
    }

    /// [B, T, C] to [B, T, C].
    fn forward(&self, x: &Tensor, pass: Pass) -> Result<Tensor, TchError> {
        let x = x.f_add(&self.attention.forward(&self.norm_1.forward(x)?, pass)?)?;
        x.f_add(&self.mlp.forward(&self.norm_2.forward(&x)?, pass)?)
    }
}

/// The model.
#[derive(Debug)]
pub(crate) struct Gpt2 {
    config: ModelConfig,
    token_embedding: Tensor,    // [V, C]
    position_embedding: Tensor, // [context, C]
    dropout: Dropout,
    blocks: Vec<Block>,
    final_norm: LayerNorm,
    parameters: Parameters,
    interrupt: Interrupt,
}

impl Gpt2 {
    pub(crate) fn new(config: ModelConfig, parameters: Parameters) -> Result<Self, BuildError> {
        let block = |layer| Block::new(&parameters, &format!("transformer.h.{layer}"), &config);
        Ok(Self {
            token_embedding: parameters.get("transformer.wte.weight")?,
            position_embedding: parameters.get("transformer.wpe.weight")?,
            dropout: Dropout::new(config.dropout),
            blocks: (0..config.layers).map(block).collect::<Result<_, _>>()?,
            final_norm: LayerNorm::new(&parameters, "transformer.ln_f", config.norm_epsilon)?,
            config,
            parameters,
            interrupt: Interrupt::default(),
        })
    }
}

impl Model for Gpt2 {
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
        let (_b, t) = tokens.size2()?;
        let meaning = Tensor::f_embedding(&self.token_embedding, tokens, -1, false, false)?; // [B, T, C]
        let place = self.position_embedding.f_narrow(0, 0, t)?; // [T, C]
        let mut x = self.dropout.apply(meaning.f_add(&place)?, pass)?;
        first_gate(&self.interrupt, &x)?;
        for block in &self.blocks {
            x = block.forward(&x, pass)?;
            gate(&self.interrupt, &x)?;
        }
        self.final_norm.forward(&x)
    }

    fn head(&self, features: &Tensor) -> Result<Tensor, TchError> {
        features.f_linear(&self.token_embedding, None::<&Tensor>)
    }
}
