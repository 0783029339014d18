use std::f64::consts::TAU;

use muster_arch::{ModelConfig, RopeScaling};
use tch::{Device, TchError, Tensor};

/// Rotary positions (Su et al. 2021): pairs of a head's dimensions are turned by angles that grow with the place, so that a
/// product of query and key depends on how far apart they are. Dimension i is paired with i + D/2, as in Hugging Face's Llama.
#[derive(Debug)]
pub(crate) struct Rope {
    cos: Tensor, // [context, D]
    sin: Tensor, // [context, D]
}

impl Rope {
    /// The angles of all places of the context.
    pub(crate) fn new(config: &ModelConfig, device: Device) -> Result<Self, TchError> {
        let frequencies = frequencies(config);
        let sharpness = sharpness(config);
        let mut tables = [Vec::new(), Vec::new()];
        for place in 0..config.context_length {
            // Both halves of a head turn alike.
            for frequency in frequencies.iter().chain(&frequencies) {
                let angle = f64::from(place as f32 * *frequency as f32);
                tables[0].push((libm::cos(angle) * sharpness) as f32);
                tables[1].push((libm::sin(angle) * sharpness) as f32);
            }
        }
        let shape = [config.context_length.into(), config.head_width().into()];
        let [cos, sin] = tables.map(|table| -> Result<Tensor, TchError> {
            Tensor::f_from_slice(&table)?
                .f_view(shape)?
                .f_to_device(device)
        });
        Ok(Self {
            cos: cos?,
            sin: sin?,
        })
    }

    /// Turns queries or keys. [B, H, T, D] to [B, H, T, D].
    pub(crate) fn turn(&self, x: &Tensor) -> Result<Tensor, TchError> {
        let (_, _, t, d) = x.size4()?;
        let (first, second) = (x.f_narrow(3, 0, d / 2)?, x.f_narrow(3, d / 2, d / 2)?);
        let quarter_turned = Tensor::f_cat(&[second.f_neg()?, first], 3)?;
        let (cos, sin) = (self.cos.f_narrow(0, 0, t)?, self.sin.f_narrow(0, 0, t)?);
        // Tables are fp32; under autocast x is not, and stays what it is.
        let turned = x.f_mul(&cos)?.f_add(&quarter_turned.f_mul(&sin)?)?;
        turned.f_to_kind(x.kind())
    }
}

/// Radians a place, for each of the D/2 pairs.
fn frequencies(config: &ModelConfig) -> Vec<f64> {
    let d = f64::from(config.head_width());
    let pairs = config.head_width() / 2;
    let plain = |pair: u32| 1.0 / libm::pow(config.rope_theta, f64::from(2 * pair) / d);
    let stretch = |pair: u32| -> f64 {
        match config.rope_scaling {
            RopeScaling::None => 0.0,
            RopeScaling::Linear => 1.0,
            RopeScaling::Llama3 => llama3_stretch(config, plain(pair)),
            RopeScaling::Yarn => yarn_stretch(config, pair),
        }
    };
    let frequency = |pair| {
        let (plain, stretch) = (plain(pair), stretch(pair));
        plain * (1.0 - stretch) + plain / config.rope_factor * stretch
    };
    (0..pairs).map(frequency).collect()
}

/// Llama 3.1's rule: 0 where wavelengths are short beside the original context, 1 where they are long, a line in the
/// frequency between.
fn llama3_stretch(config: &ModelConfig, frequency: f64) -> f64 {
    let turns = f64::from(config.rope_original_context) * frequency / TAU;
    let (low, high) = (config.rope_low_freq_factor, config.rope_high_freq_factor);
    1.0 - ((turns - low) / (high - low)).clamp(0.0, 1.0)
}

/// Peng et al. 2023 (YaRN) §3.2: a line over the pairs, from the one that makes `rope_beta_fast` turns over the original context
/// to the one that makes `rope_beta_slow`. Both are rounded outwards to whole pairs, as in the paper's code.
fn yarn_stretch(config: &ModelConfig, pair: u32) -> f64 {
    let d = f64::from(config.head_width());
    let pair_of = |turns: f64| {
        let wavelengths = f64::from(config.rope_original_context) / (turns * TAU);
        d * libm::log(wavelengths) / (2.0 * libm::log(config.rope_theta))
    };
    let low = pair_of(config.rope_beta_fast).floor().max(0.0);
    let high = pair_of(config.rope_beta_slow).ceil().min(d - 1.0);
    // Kept from a division by zero, as there.
    let span = if low == high { 0.001 } else { high - low };
    ((f64::from(pair) - low) / span).clamp(0.0, 1.0)
}

/// What queries and keys are multiplied by (YaRN §3.4).
fn sharpness(config: &ModelConfig) -> f64 {
    match (config.rope_scaling, config.rope_attention_factor) {
        (RopeScaling::Yarn, 0.0) => 0.1 * libm::log(config.rope_factor) + 1.0,
        (RopeScaling::Yarn, given) => given,
        _ => 1.0,
    }
}

#[cfg(test)]
mod tests {
    use muster_arch::Family;

    use super::*;

    fn config(scaling: RopeScaling) -> ModelConfig {
        ModelConfig {
            family: Family::Llama,
            heads: 1,
            head_size: 64,
            rope_scaling: scaling,
            rope_factor: 8.0,
            rope_original_context: 128,
            ..ModelConfig::default()
        }
    }

    #[test]
    fn low_frequencies_are_stretched_and_high_ones_stay() {
        let plain = frequencies(&config(RopeScaling::None));
        assert_eq!((plain.len(), plain[0]), (32, 1.0));
        for scaling in [RopeScaling::Llama3, RopeScaling::Yarn] {
            let scaled = frequencies(&config(scaling));
            assert_eq!(scaled[0], plain[0], "{scaling:?}");
            assert!((scaled[31] * 8.0 / plain[31] - 1.0).abs() < 1e-12);
            let ratios: Vec<_> = scaled.iter().zip(&plain).map(|(s, p)| s / p).collect();
            assert!(
                ratios.is_sorted_by(|a, b| a >= b),
                "{scaling:?}: {ratios:?}"
            );
        }
        let linear = frequencies(&config(RopeScaling::Linear));
        assert!(linear.iter().zip(&plain).all(|(l, p)| l * 8.0 == *p));
    }

    #[test]
    fn only_yarn_sharpens() {
        assert_eq!(sharpness(&config(RopeScaling::Llama3)), 1.0);
        let yarn = config(RopeScaling::Yarn);
        assert!((sharpness(&yarn) - (1.0 + 0.1 * 8_f64.ln())).abs() < 1e-12);
        let given = ModelConfig {
            rope_attention_factor: 1.5,
            ..yarn
        };
        assert_eq!(sharpness(&given), 1.5);
    }
}
