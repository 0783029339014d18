use std::fmt;

use serde::{Deserialize, Serialize};

/// Which part of a dataset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    /// What is trained on.
    Train,
    /// What is held out, to measure the loss on.
    Validation,
}

impl Split {
    /// Both, in the order of the index.
    pub const ALL: [Self; 2] = [Self::Train, Self::Validation];
}

impl fmt::Display for Split {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Train => "train",
            Self::Validation => "validation",
        })
    }
}

/// A document's own coin tosses: two words of the blake3 hash of its text. They depend on nothing else, so a document keeps
/// its split whatever other documents, file names or input order there are.
pub(crate) struct DocumentHash {
    split: u64,
    sample: u64,
}

impl DocumentHash {
    pub(crate) fn of(text: &str) -> Self {
        let hash = blake3::hash(text.as_bytes());
        let word = |at: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&hash.as_bytes()[at..at + 8]);
            u64::from_le_bytes(word)
        };
        Self {
            split: word(0),
            sample: word(8),
        }
    }

    /// The split that the document belongs to when this share of all documents is held out.
    pub(crate) fn split(&self, validation_fraction: f64) -> Split {
        if self.split < share_of_words(validation_fraction) {
            Split::Validation
        } else {
            Split::Train
        }
    }

    /// Whether the document is in a random sample of this share of all documents, independent of its split.
    pub(crate) fn sampled(&self, fraction: f64) -> bool {
        fraction >= 1.0 || self.sample < share_of_words(fraction)
    }
}

/// `fraction` of 2^64.
fn share_of_words(fraction: f64) -> u64 {
    (fraction * 2f64.powi(64)) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_keeps_its_split() {
        // Known answers: they must never change, or held-out text would leak into training.
        let held_out: Vec<u32> = (0..200)
            .filter(|n| DocumentHash::of(&format!("document {n}")).split(0.05) == Split::Validation)
            .collect();
        assert_eq!(held_out, [0, 33, 39, 137, 154, 171, 175, 177]);
    }

    #[test]
    fn shares_are_about_right_and_nested() {
        let hashes: Vec<_> = (0..20_000)
            .map(|n| DocumentHash::of(&format!("text {n}")))
            .collect();
        let held = |fraction: f64| {
            hashes
                .iter()
                .filter(|hash| hash.split(fraction) == Split::Validation)
                .count()
        };
        assert_eq!(held(0.0), 0);
        assert!((800..1200).contains(&held(0.05)), "{}", held(0.05));
        assert!(
            hashes.iter().all(
                |hash| hash.split(0.05) == Split::Train || hash.split(0.1) == Split::Validation
            )
        );
        let sampled = |fraction: f64| hashes.iter().filter(|hash| hash.sampled(fraction)).count();
        assert_eq!(sampled(1.0), hashes.len());
        assert!((4700..5300).contains(&sampled(0.25)), "{}", sampled(0.25));
    }
}
