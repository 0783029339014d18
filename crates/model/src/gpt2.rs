//! GPT-2: "Language Models are Unsupervised Multitask Learners", Radford et al. 2019, §2.3. A stack of blocks, each
//! adding attention and then an MLP to the residual stream, both behind a LayerNorm; a LayerNorm after the last block;
//! positions are learned; the token embedding is also the output head.

use muster_arch::ModelConfig;
use muster_ops::Interrupt;
use tch::{TchError, Tensor};

use crate::{
    BuildError, Model, Parameters, Pass,
    attention::CausalSelfAttention,
    dropout::Dropout,
    layer_norm::LayerNorm,
    mlp::Mlp,
    model::{first_gate, gate},
};

/// One block: x + attention(norm(x)), then x + mlp(norm(x)).
#[derive(Debug)]
struct Block {
    norm_1: LayerNorm,
    attention: CausalSelfAttention,
    norm_2: LayerNorm,
    mlp: Mlp,
}

impl Block {
    fn new(
        parameters: &Parameters,
        name: &str,
        heads: u32,
        dropout: Dropout,
    ) -> Result<Self, BuildError> {
        Ok(Self {
            norm_1: LayerNorm::new(parameters, &format!("{name}.ln_1"))?,
            attention: CausalSelfAttention::new(
                parameters,
                &format!("{name}.attn"),
                heads,
                dropout,
            )?,
            norm_2: LayerNorm::new(parameters, &format!("{name}.ln_2"))?,
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
        let dropout = Dropout::new(config.dropout);
        let blocks = (0..config.layers)
            .map(|layer| {
                Block::new(
                    &parameters,
                    &format!("transformer.h.{layer}"),
                    config.heads,
                    dropout,
                )
            })
            .collect::<Result<_, _>>()?;
        Ok(Self {
            token_embedding: parameters.get("transformer.wte.weight")?,
            position_embedding: parameters.get("transformer.wpe.weight")?,
            dropout,
            blocks,
            final_norm: LayerNorm::new(&parameters, "transformer.ln_f")?,
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
