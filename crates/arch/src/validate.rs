use crate::{Family, ModelConfig, RopeScaling};

/// Why a configuration describes no model.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ConfigError {
    /// A size is 0.
    #[error("model.{key} is 0; set it to at least 1")]
    Zero {
        /// The key below `model`.
        key: &'static str,
    },
    /// A size is beyond what is supported.
    #[error("model.{key} is {value}; set it to at most {limit}")]
    TooLarge {
        /// The key below `model`.
        key: &'static str,
        /// What it was set to.
        value: u32,
        /// The largest accepted value.
        limit: u32,
    },
    /// A head would have a fractional width.
    #[error(
        "model.heads ({heads}) does not divide model.hidden_size ({hidden_size}); \
         choose a hidden size that is a multiple of the heads"
    )]
    UnevenHeads {
        /// What `model.heads` was set to.
        heads: u32,
        /// What `model.hidden_size` was set to.
        hidden_size: u32,
    },
    /// Dropout is no probability below 1.
    #[error("model.dropout is {value}; set it to at least 0 and below 1")]
    Dropout {
        /// What it was set to.
        value: f64,
    },
    /// A value has no meaning where it stands.
    #[error("model.{key} is {value}; {fix}")]
    OutOfRange {
        /// The key below `model`.
        key: &'static str,
        /// What it was set to.
        value: String,
        /// What to do about it.
        fix: &'static str,
    },
    /// A key of another family was set.
    #[error("model.{key} is set, but means nothing to the family {family:?}; leave it out")]
    OtherFamily {
        /// The key below `model`.
        key: &'static str,
        /// The word for the family.
        family: &'static str,
    },
    /// Weights cannot be drawn with this deviation.
    #[error("model.init_std is {value}; set it to a positive number, such as 0.02")]
    InitStd {
        /// What it was set to.
        value: f64,
    },
}

impl ConfigError {
    /// The key below `model` that must change.
    pub fn key(&self) -> &'static str {
        match self {
            Self::Zero { key }
            | Self::TooLarge { key, .. }
            | Self::OutOfRange { key, .. }
            | Self::OtherFamily { key, .. } => key,
            Self::UnevenHeads { .. } => "heads",
            Self::Dropout { .. } => "dropout",
            Self::InitStd { .. } => "init_std",
        }
    }
}

/// Far above any model in use, and low enough that no count of elements or FLOPs overflows 64 bits.
const LIMITS: [(&str, u32); 10] = [
    ("layers", 1 << 14),
    ("heads", 1 << 12),
    ("hidden_size", 1 << 17),
    ("context_length", 1 << 21),
    ("vocab_size", 1 << 24),
    ("kv_heads", 1 << 12),
    ("head_size", 1 << 12),
    ("mlp_size", 1 << 19),
    ("rope_original_context", 1 << 21),
    ("token_types", 1 << 12),
];

/// Sizes whose 0 stands for what follows from others.
const DERIVED: [&str; 5] = [
    "vocab_size",
    "kv_heads",
    "head_size",
    "mlp_size",
    "rope_original_context",
];

impl ModelConfig {
    /// Whether this describes a model. A vocabulary of 0 is accepted: the dataset fills it in later.
    ///
    /// # Errors
    /// The first value that is out of range, in the order of the fields.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let sizes = [
            self.layers,
            self.heads,
            self.hidden_size,
            self.context_length,
            self.vocab_size,
            self.kv_heads,
            self.head_size,
            self.mlp_size,
            self.rope_original_context,
            self.token_types,
        ];
        for ((key, limit), value) in LIMITS.into_iter().zip(sizes) {
            if value == 0 && !DERIVED.contains(&key) {
                return Err(ConfigError::Zero { key });
            }
            if value > limit {
                return Err(ConfigError::TooLarge { key, value, limit });
            }
        }
        if self.head_size == 0 && !self.hidden_size.is_multiple_of(self.heads) {
            return Err(ConfigError::UnevenHeads {
                heads: self.heads,
                hidden_size: self.hidden_size,
            });
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return Err(ConfigError::Dropout {
                value: self.dropout,
            });
        }
        if !(self.init_std.is_finite() && self.init_std > 0.0) {
            return Err(ConfigError::InitStd {
                value: self.init_std,
            });
        }
        positive("norm_epsilon", self.norm_epsilon)?;
        self.check_foreign_keys()?;
        match self.family {
            Family::Llama => self.check_llama(),
            Family::Gpt2 | Family::Bert => Ok(()),
        }
    }

    /// Whether every key of another family is as it is by default.
    fn check_foreign_keys(&self) -> Result<(), ConfigError> {
        let usual = Self::default();
        let of_llama = [
            ("kv_heads", self.kv_heads != usual.kv_heads),
            ("head_size", self.head_size != usual.head_size),
            (
                "tie_embeddings",
                self.tie_embeddings != usual.tie_embeddings,
            ),
            (
                "attention_bias",
                self.attention_bias != usual.attention_bias,
            ),
            ("mlp_bias", self.mlp_bias != usual.mlp_bias),
            ("qk_norm", self.qk_norm != usual.qk_norm),
            ("rope_theta", self.rope_theta != usual.rope_theta),
            ("rope_scaling", self.rope_scaling != usual.rope_scaling),
            ("rope_factor", self.rope_factor != usual.rope_factor),
            (
                "rope_original_context",
                self.rope_original_context != usual.rope_original_context,
            ),
        ];
        let of_bert = [
            ("token_types", self.token_types != usual.token_types),
            ("pooler", self.pooler != usual.pooler),
            ("mlm_head", self.mlm_head != usual.mlm_head),
        ];
        let mlp = [("mlp_size", self.mlp_size != usual.mlp_size)];
        let foreign: &[&[(&'static str, bool)]] = match self.family {
            Family::Gpt2 => &[&of_llama, &mlp, &of_bert],
            Family::Llama => &[&of_bert],
            Family::Bert => &[&of_llama],
        };
        let mut set = foreign.iter().flat_map(|keys| keys.iter());
        match set.find(|(_, is_set)| *is_set) {
            None => Ok(()),
            Some(&(key, _)) => Err(ConfigError::OtherFamily {
                key,
                family: self.family.name(),
            }),
        }
    }

    fn check_llama(&self) -> Result<(), ConfigError> {
        if !self.heads.is_multiple_of(self.key_value_heads()) {
            let fix = "choose a divisor of model.heads, or leave it out";
            return Err(out_of_range("kv_heads", self.kv_heads, fix));
        }
        if !self.head_width().is_multiple_of(2) {
            let fix = "rotary positions turn pairs: choose an even width";
            return Err(out_of_range("head_size", self.head_width(), fix));
        }
        positive("rope_theta", self.rope_theta)?;
        self.check_rope_scaling()
    }

    fn check_rope_scaling(&self) -> Result<(), ConfigError> {
        let factor = self.rope_factor;
        if !(factor.is_finite() && factor >= 1.0) {
            return Err(out_of_range("rope_factor", factor, "set it to at least 1"));
        }
        if self.rope_scaling == RopeScaling::None && factor != 1.0 {
            let fix = "set model.rope_scaling to say how positions are stretched, or leave it out";
            return Err(out_of_range("rope_factor", factor, fix));
        }
        let blends = matches!(self.rope_scaling, RopeScaling::Llama3 | RopeScaling::Yarn);
        if blends != (self.rope_original_context > 0) {
            let fix = if blends {
                "set it to the context that the model was first trained with"
            } else {
                "leave it out: it is for \"llama3\" and \"yarn\" scaling"
            };
            let value = self.rope_original_context;
            return Err(out_of_range("rope_original_context", value, fix));
        }
        positive("rope_low_freq_factor", self.rope_low_freq_factor)?;
        positive("rope_high_freq_factor", self.rope_high_freq_factor)?;
        positive("rope_beta_fast", self.rope_beta_fast)?;
        positive("rope_beta_slow", self.rope_beta_slow)?;
        if self.rope_high_freq_factor <= self.rope_low_freq_factor {
            let fix = "set it above model.rope_low_freq_factor";
            let value = self.rope_high_freq_factor;
            return Err(out_of_range("rope_high_freq_factor", value, fix));
        }
        if self.rope_beta_fast <= self.rope_beta_slow {
            let fix = "set it above model.rope_beta_slow";
            return Err(out_of_range("rope_beta_fast", self.rope_beta_fast, fix));
        }
        let sharpened = self.rope_attention_factor;
        if !(sharpened.is_finite() && sharpened >= 0.0) {
            let fix = "set it to a positive number, or to 0 for the usual one";
            return Err(out_of_range("rope_attention_factor", sharpened, fix));
        }
        Ok(())
    }
}

fn out_of_range(key: &'static str, value: impl ToString, fix: &'static str) -> ConfigError {
    ConfigError::OutOfRange {
        key,
        value: value.to_string(),
        fix,
    }
}

fn positive(key: &'static str, value: f64) -> Result<(), ConfigError> {
    if value.is_finite() && value > 0.0 {
        Ok(())
    } else {
        Err(out_of_range(key, value, "set it to a positive number"))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn with(change: impl FnOnce(&mut ModelConfig)) -> Result<(), ConfigError> {
        let mut config = ModelConfig::default();
        change(&mut config);
        config.validate()
    }

    #[test]
    fn the_default_is_valid_before_and_after_its_vocabulary_is_known() {
        assert_eq!(with(|_| {}), Ok(()));
        assert_eq!(with(|c| c.vocab_size = 50_304), Ok(()));
    }

    #[test]
    fn sizes_of_zero_are_refused_by_key() {
        assert_eq!(
            with(|c| c.layers = 0),
            Err(ConfigError::Zero { key: "layers" })
        );
        assert_eq!(
            with(|c| c.heads = 0),
            Err(ConfigError::Zero { key: "heads" })
        );
        assert_eq!(
            with(|c| c.hidden_size = 0),
            Err(ConfigError::Zero { key: "hidden_size" })
        );
        assert_eq!(
            with(|c| c.context_length = 0),
            Err(ConfigError::Zero {
                key: "context_length"
            })
        );
    }

    #[test]
    fn heads_must_divide_the_hidden_size() {
        let error = with(|c| c.heads = 3).unwrap_err();
        assert_eq!(
            error,
            ConfigError::UnevenHeads {
                heads: 3,
                hidden_size: 256
            }
        );
        assert_eq!(error.key(), "heads");
    }

    #[test]
    fn probabilities_and_deviations_must_be_in_range() {
        for dropout in [-0.1, 1.0, f64::NAN, f64::INFINITY] {
            let error = with(|c| c.dropout = dropout).unwrap_err();
            assert_eq!(error.key(), "dropout", "{dropout}");
        }
        assert_eq!(with(|c| c.dropout = 0.999), Ok(()));
        for std in [0.0, -0.02, f64::NAN, f64::INFINITY] {
            assert_eq!(
                with(|c| c.init_std = std).unwrap_err().key(),
                "init_std",
                "{std}"
            );
        }
    }

    fn llama(change: impl FnOnce(&mut ModelConfig)) -> Result<(), ConfigError> {
        with(|config| {
            config.family = Family::Llama;
            change(config);
        })
    }

    #[test]
    fn keys_of_another_family_are_refused_by_name() {
        let refused = |result: Result<(), ConfigError>| result.unwrap_err().to_string();
        assert_eq!(
            refused(with(|c| c.qk_norm = true)),
            "model.qk_norm is set, but means nothing to the family \"gpt2\"; leave it out"
        );
        assert_eq!(with(|c| c.mlp_size = 8).unwrap_err().key(), "mlp_size");
        assert_eq!(llama(|c| c.pooler = true).unwrap_err().key(), "pooler");
        let bert = with(|c| (c.family, c.tie_embeddings) = (Family::Bert, false));
        assert_eq!(bert.unwrap_err().key(), "tie_embeddings");
    }

    #[test]
    fn a_llama_needs_heads_that_share_evenly_and_turn_in_pairs() {
        assert_eq!(llama(|c| c.kv_heads = 2), Ok(()));
        assert_eq!(llama(|c| c.kv_heads = 3).unwrap_err().key(), "kv_heads");
        assert_eq!(llama(|c| c.kv_heads = 8).unwrap_err().key(), "kv_heads");
        assert_eq!(llama(|c| (c.heads, c.head_size) = (3, 48)), Ok(()));
        assert_eq!(llama(|c| c.head_size = 7).unwrap_err().key(), "head_size");
    }

    #[test]
    fn positions_are_stretched_only_as_asked_for() {
        let key = |change: fn(&mut ModelConfig)| llama(change).unwrap_err().key();
        assert_eq!(key(|c| c.rope_factor = 2.0), "rope_factor");
        assert_eq!(key(|c| c.rope_factor = f64::NAN), "rope_factor");
        assert_eq!(
            key(|c| c.rope_scaling = RopeScaling::Llama3),
            "rope_original_context"
        );
        let scaled = |scaling| {
            llama(|c| {
                (c.rope_scaling, c.rope_factor) = (scaling, 8.0);
                c.rope_original_context = 128;
            })
        };
        assert_eq!(scaled(RopeScaling::Llama3), Ok(()));
        assert_eq!(scaled(RopeScaling::Yarn), Ok(()));
        assert_eq!(
            scaled(RopeScaling::Linear).unwrap_err().key(),
            "rope_original_context"
        );
    }

    #[test]
    fn the_largest_accepted_model_overflows_no_count() {
        let mut config = ModelConfig {
            layers: LIMITS[0].1,
            heads: LIMITS[1].1,
            hidden_size: LIMITS[2].1,
            context_length: LIMITS[3].1,
            vocab_size: LIMITS[4].1,
            ..ModelConfig::default()
        };
        assert_eq!(config.validate(), Ok(()));
        assert!(crate::ParameterTable::new(&config).elements() > 1 << 50);
        assert!(crate::flops_per_token(&config) > 1 << 52);
        assert!(crate::memory_estimate(&config, 1).total_bytes() > 1 << 54);
        config.layers += 1;
        assert_eq!(config.validate().unwrap_err().key(), "layers");
    }
}
