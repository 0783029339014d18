use crate::counter;

/// Sets sampling apart from the other uses of a seed.
const PURPOSE: u64 = 0x7361_6d70;

/// How the next token is chosen.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplerOptions {
    /// Divides the logits; 0: always the likeliest token.
    pub temperature: f64,
    /// Only so many of the likeliest tokens are considered; 0: all.
    pub top_k: usize,
    /// Ids from here on are never chosen: the embedding may have more rows than the tokenizer has tokens.
    pub vocabulary: usize,
    /// What draws are derived from.
    pub seed: u64,
}

/// Chooses tokens. A draw is a function of the seed and the token's index alone.
#[derive(Clone, Debug)]
pub struct Sampler {
    options: SamplerOptions,
    key: u64,
}

impl Sampler {
    /// A sampler for one text.
    pub fn new(options: SamplerOptions) -> Self {
        let key = counter::key(&[PURPOSE, options.seed]);
        Self { options, key }
    }

    /// Chooses the `index`-th token of a text from its logits, \[V\]. `None` if no logit is a finite number. Of equal
    /// logits the lower id goes first.
    pub fn choose(&self, logits: &[f32], index: u64) -> Option<usize> {
        let mut ranked: Vec<(usize, f64)> = logits
            .iter()
            .take(self.options.vocabulary)
            .enumerate()
            .filter(|(_, logit)| logit.is_finite())
            .map(|(id, &logit)| (id, f64::from(logit)))
            .collect();
        ranked.sort_by(|(id_a, a), (id_b, b)| b.total_cmp(a).then(id_a.cmp(id_b)));
        let &(likeliest, best) = ranked.first()?;
        if self.options.temperature == 0.0 {
            return Some(likeliest);
        }
        if self.options.top_k > 0 {
            ranked.truncate(self.options.top_k);
        }
        // Subtracting the largest keeps the exponentials within range.
        let weights: Vec<f64> = ranked
            .iter()
            .map(|(_, logit)| ((logit - best) / self.options.temperature).exp())
            .collect();
        let mut rest = counter::uniform(self.key, index) * weights.iter().sum::<f64>();
        for (&(id, _), weight) in ranked.iter().zip(&weights) {
            rest -= weight;
            if rest < 0.0 {
                return Some(id);
            }
        }
        Some(likeliest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampler(temperature: f64, top_k: usize, vocabulary: usize) -> Sampler {
        Sampler::new(SamplerOptions {
            temperature,
            top_k,
            vocabulary,
            seed: 5,
        })
    }

    #[test]
    fn without_temperature_the_likeliest_known_token_is_chosen_and_ties_go_to_the_lower_id() {
        let logits = [0.5, 2.0, 2.0, f32::NAN, 9.0];
        assert_eq!(sampler(0.0, 0, 4).choose(&logits, 0), Some(1));
        assert_eq!(sampler(0.0, 0, 5).choose(&logits, 0), Some(4));
    }

    #[test]
    fn nothing_is_chosen_from_nothing_finite() {
        assert_eq!(
            sampler(1.0, 0, 2).choose(&[f32::NAN, f32::INFINITY], 0),
            None
        );
    }

    #[test]
    fn frequencies_follow_the_softmax_of_the_top_k() {
        let logits = [0.0, 1.0_f32.ln(), 3.0_f32.ln(), -1.0];
        let sampler = sampler(1.0, 3, 4);
        let mut counts = [0; 4];
        for index in 0..50_000 {
            counts[sampler.choose(&logits, index).unwrap_or(3)] += 1;
        }
        assert_eq!(counts[3], 0);
        for (count, share) in counts.iter().zip([0.2, 0.2, 0.6]) {
            assert!(
                (f64::from(*count) / 50_000.0 - share).abs() < 0.015,
                "{counts:?}"
            );
        }
    }
}
