use tch::{Device, TchError, Tensor};

/// Why token ids make no micro-batch.
#[derive(Debug, thiserror::Error)]
pub enum BatchError {
    /// The ids are no whole number of sequences.
    #[error("{ids} token ids are no whole number of sequences of {sequence} (context_length + 1)")]
    Ragged {
        /// Ids given.
        ids: usize,
        /// Ids a sequence takes.
        sequence: usize,
    },
    /// An id has no row in the token embedding.
    #[error(
        "token id {id} is outside the model's vocabulary of {vocabulary}; \
         was the dataset made with another tokenizer?"
    )]
    OutsideVocabulary {
        /// The offending id.
        id: i64,
        /// Rows of the token embedding.
        vocabulary: u32,
    },
    /// libtorch refused.
    #[error("libtorch could not take the micro-batch: {0}")]
    Torch(#[from] TchError),
}

/// A micro-batch on its device.
#[derive(Debug)]
pub struct Batch {
    tokens: Tensor, // [B, T + 1] int64
}

impl Batch {
    /// Takes whole sequences of `context_length + 1` ids, one after the other. Ids are checked here: on a GPU, one
    /// outside the vocabulary would end the process.
    ///
    /// # Errors
    /// See [`BatchError`].
    pub fn new(
        ids: &[i64],
        context_length: u32,
        vocabulary: u32,
        device: Device,
    ) -> Result<Self, BatchError> {
        let sequence = context_length as usize + 1;
        if ids.is_empty() || !ids.len().is_multiple_of(sequence) {
            return Err(BatchError::Ragged {
                ids: ids.len(),
                sequence,
            });
        }
        if let Some(&id) = ids
            .iter()
            .find(|id| !(0..i64::from(vocabulary)).contains(*id))
        {
            return Err(BatchError::OutsideVocabulary { id, vocabulary });
        }
        let tokens = Tensor::f_from_slice(ids)?
            .f_view([-1, sequence as i64])?
            .f_to_device(device)?;
        Ok(Self { tokens })
    }

    /// What the model sees: \[B, T\] int64.
    pub(crate) fn inputs(&self) -> Result<Tensor, TchError> {
        self.tokens.f_narrow(1, 0, self.context_length())
    }

    /// What it has to predict: \[B, T\] int64.
    pub(crate) fn targets(&self) -> Result<Tensor, TchError> {
        self.tokens.f_narrow(1, 1, self.context_length())
    }

    /// Tokens to predict: B · T.
    pub fn target_tokens(&self) -> u64 {
        (self.tokens.size()[0] * self.context_length()) as u64
    }

    fn context_length(&self) -> i64 {
        self.tokens.size()[1] - 1
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn batch(ids: &[i64]) -> Result<Batch, BatchError> {
        Batch::new(ids, 2, 10, Device::Cpu)
    }

    #[test]
    fn targets_are_the_inputs_one_token_later() {
        let batch = batch(&[1, 2, 3, 7, 8, 9]).unwrap();
        let ids = |tensor: Tensor| Vec::<i64>::try_from(tensor.reshape([-1])).unwrap();
        assert_eq!(ids(batch.inputs().unwrap()), [1, 2, 7, 8]);
        assert_eq!(ids(batch.targets().unwrap()), [2, 3, 8, 9]);
        assert_eq!(batch.target_tokens(), 4);
    }

    #[test]
    fn ragged_and_foreign_ids_are_refused() {
        assert!(matches!(
            batch(&[]),
            Err(BatchError::Ragged {
                ids: 0,
                sequence: 3
            })
        ));
        assert!(matches!(
            batch(&[1, 2, 3, 4]),
            Err(BatchError::Ragged { ids: 4, .. })
        ));
        assert!(matches!(
            batch(&[1, 2, 10]),
            Err(BatchError::OutsideVocabulary { id: 10, .. })
        ));
        assert!(matches!(
            batch(&[1, -1, 3]),
            Err(BatchError::OutsideVocabulary { id: -1, .. })
        ));
    }
}
