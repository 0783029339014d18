use crate::ModelConfig;

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
            Self::Zero { key } | Self::TooLarge { key, .. } => key,
            Self::UnevenHeads { .. } => "heads",
            Self::Dropout { .. } => "dropout",
            Self::InitStd { .. } => "init_std",
        }
    }
}

/// Far above any model in use, and low enough that no count of elements or FLOPs overflows 64 bits.
const LIMITS: [(&str, u32); 5] = [
    ("layers", 1 << 14),
    ("heads", 1 << 12),
    ("hidden_size", 1 << 17),
    ("context_length", 1 << 21),
    ("vocab_size", 1 << 24),
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
        ];
        for ((key, limit), value) in LIMITS.into_iter().zip(sizes) {
            if value == 0 && key != "vocab_size" {
                return Err(ConfigError::Zero { key });
            }
            if value > limit {
                return Err(ConfigError::TooLarge { key, value, limit });
            }
        }
        if !self.hidden_size.is_multiple_of(self.heads) {
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
        Ok(())
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
