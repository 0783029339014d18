//! BERT: "BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding", Devlin et al. 2019, §3. The
//! encoder of Vaswani et al. 2017: a stack of blocks in which every place sees every other, with a LayerNorm after each sum of
//! the residual stream and what is added to it; learned embeddings of tokens, places and token types. Over it an output head
//! that names masked tokens, tied to the token embedding, and, where asked for, a pooler.
//!
//! Beside the crate's legend: F is the width of the MLP's hidden layer.

use muster_arch::ModelConfig;
use muster_ops::Interrupt;
use tch::{TchError, Tensor};

use crate::{
    BuildError, Model, Parameters, Pass,
    attention::{Sight, attend, split_heads},
    dropout::Dropout,
    layer_norm::LayerNorm,
    linear::Linear,
    model::{first_gate, gate},
};

/// Multi-head self-attention.
#[derive(Debug)]
struct SelfAttention {
    query: Linear,  // C -> C
    key: Linear,    // C -> C
    value: Linear,  // C -> C
    output: Linear, // C -> C
    heads: i64,
    dropout: Dropout,
}

impl SelfAttention {
    fn new(parameters: &Parameters, name: &str, config: &ModelConfig) -> Result<Self, BuildError> {
        let linear = |part: &str| Linear::new(parameters, &format!("{name}.{part}"));
        Ok(Self {
            query: linear("self.query")?,
            key: linear("self.key")?,
            value: linear("self.value")?,
            output: linear("output.dense")?,
            heads: config.heads.into(),
            dropout: Dropout::new(config.dropout),
        })
    }

    /// [B, T, C] to [B, T, C].
    fn forward(&self, x: &Tensor, pass: Pass) -> Result<Tensor, TchError> {
        let heads = |linear: &Linear| split_heads(&linear.forward(x)?, self.heads); // [B, H, T, D]
        let (q, k, v) = (heads(&self.query)?, heads(&self.key)?, heads(&self.value)?);
        let mixed = attend([&q, &k, &v], Sight::Full, self.dropout, pass)?; // [B, T, C]
        self.dropout.apply(self.output.forward(&mixed)?, pass)
    }
}

/// One block: norm(x + attention(x)), then norm(x + mlp(x)).
#[derive(Debug)]
struct Block {
    attention: SelfAttention,
    norm_1: LayerNorm,
    widen: Linear,  // C -> F
    narrow: Linear, // F -> C
    norm_2: LayerNorm,
    dropout: Dropout,
}

impl Block {
    fn new(parameters: &Parameters, name: &str, config: &ModelConfig) -> Result<Self, BuildError> {
        let linear = |part: &str| Linear::new(parameters, &format!("{name}.{part}"));
        let norm =
            |part: &str| LayerNorm::new(parameters, &format!("{name}.{part}"), config.norm_epsilon);
        Ok(Self {
            attention: SelfAttention::new(parameters, &format!("{name}.attention"), config)?,
            norm_1: norm("attention.output.LayerNorm")?,
            widen: linear("intermediate.dense")?,
            narrow: linear("output.dense")?,
            norm_2: norm("output.LayerNorm")?,
            dropout: Dropout::new(config.dropout),
        })
    }

    /// [B, T, C] to [B, T, C].
    fn forward(&self, x: &Tensor, pass: Pass) -> Result<Tensor, TchError> {
        let x = self
            .norm_1
            .forward(&x.f_add(&self.attention.forward(x, pass)?)?)?;
        let hidden = self.widen.forward(&x)?.f_gelu("none")?; // [B, T, F]
        let mlp = self.dropout.apply(self.narrow.forward(&hidden)?, pass)?;
        self.norm_2.forward(&x.f_add(&mlp)?)
    }
}

/// Names tokens: a layer of its own, then the token embedding, then a bias.
#[derive(Debug)]
struct MaskedHead {
    transform: Linear, // C -> C
    norm: LayerNorm,
    bias: Tensor, // [V]
}

impl MaskedHead {
    fn new(parameters: &Parameters, epsilon: f64) -> Result<Self, BuildError> {
        let name = "cls.predictions.transform";
        Ok(Self {
            transform: Linear::new(parameters, &format!("{name}.dense"))?,
            norm: LayerNorm::new(parameters, &format!("{name}.LayerNorm"), epsilon)?,
            bias: parameters.get("cls.predictions.bias")?,
        })
    }
}

/// The model.
#[derive(Debug)]
pub(crate) struct Bert {
    config: ModelConfig,
    token_embedding: Tensor,    // [V, C]
    position_embedding: Tensor, // [context, C]
    type_embedding: Tensor,     // [types, C]
    embedding_norm: LayerNorm,
    dropout: Dropout,
    blocks: Vec<Block>,
    pooler: Option<Linear>, // C -> C
    head: Option<MaskedHead>,
    parameters: Parameters,
    interrupt: Interrupt,
}

impl Bert {
    pub(crate) fn new(config: ModelConfig, parameters: Parameters) -> Result<Self, BuildError> {
        let epsilon = config.norm_epsilon;
        let embedding =
            |part: &str| parameters.get(&format!("bert.embeddings.{part}_embeddings.weight"));
        let block =
            |layer| Block::new(&parameters, &format!("bert.encoder.layer.{layer}"), &config);
        let pooler = || Linear::new(&parameters, "bert.pooler.dense");
        let head = || MaskedHead::new(&parameters, epsilon);
        Ok(Self {
            token_embedding: embedding("word")?,
            position_embedding: embedding("position")?,
            type_embedding: embedding("token_type")?,
            embedding_norm: LayerNorm::new(&parameters, "bert.embeddings.LayerNorm", epsilon)?,
            dropout: Dropout::new(config.dropout),
            blocks: (0..config.layers).map(block).collect::<Result<_, _>>()?,
            pooler: config.pooler.then(pooler).transpose()?,
            head: config.mlm_head.then(head).transpose()?,
            config,
            parameters,
            interrupt: Interrupt::default(),
        })
    }
}

impl Model for Bert {
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
        let kind = self.type_embedding.f_narrow(0, 0, 1)?; // [1, C]: all tokens are of type 0
        let sum = meaning.f_add(&kind)?.f_add(&place)?;
        let mut x = self
            .dropout
            .apply(self.embedding_norm.forward(&sum)?, pass)?;
        first_gate(&self.interrupt, &x)?;
        for block in &self.blocks {
            x = block.forward(&x, pass)?;
            gate(&self.interrupt, &x)?;
        }
        Ok(x)
    }

    fn head(&self, features: &Tensor) -> Result<Tensor, TchError> {
        let Some(head) = &self.head else {
            let cause = "the model has no output head (model.mlm_head is false)";
            return Err(TchError::Torch(cause.into()));
        };
        let named = head.transform.forward(features)?.f_gelu("none")?;
        head.norm
            .forward(&named)?
            .f_linear(&self.token_embedding, Some(&head.bias))
    }

    fn pooled(&self, features: &Tensor) -> Result<Option<Tensor>, TchError> {
        let Some(pooler) = &self.pooler else {
            return Ok(None);
        };
        let first = features.f_select(1, 0)?; // [B, C]
        pooler.forward(&first)?.f_tanh().map(Some)
    }
}
