use tch::{Device, TchError, Tensor};

use crate::{Masking, Origin};

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
pub struct Batch(Content);

/// What a micro-batch asks of the model.
#[derive(Debug)]
pub(crate) enum Content {
    /// Each place's next token.
    Next {
        /// [B, T] int64.
        inputs: Tensor,
        /// [B, T] int64.
        targets: Tensor,
    },
    /// The tokens that were hidden.
    Hidden {
        /// [B, T] int64, with what stands in place of the hidden ones.
        inputs: Tensor,
        /// [M] int64, indices into the B · T places.
        places: Tensor,
        /// [M] int64.
        targets: Tensor,
    },
}

impl Batch {
    /// Takes whole sequences of `context_length + 1` ids, one after the other, each place of which is to predict the next
    /// token. Ids are checked here: on a GPU, one outside the vocabulary would end the process.
    ///
    /// # Errors
    /// See [`BatchError`].
    pub fn new(
        ids: &[i64],
        context_length: u32,
        vocabulary: u32,
        device: Device,
    ) -> Result<Self, BatchError> {
        check(ids, context_length, vocabulary)?;
        let tokens = Tensor::f_from_slice(ids)?
            .f_view([-1, i64::from(context_length) + 1])?
            .f_to_device(device)?;
        Ok(Self(Content::Next {
            inputs: tokens.f_narrow(1, 0, context_length.into())?,
            targets: tokens.f_narrow(1, 1, context_length.into())?,
        }))
    }

    /// Takes the same sequences, of which the model sees the first `context_length` tokens, some of them hidden, and is to name
    /// these. The last token of each is the first of another sequence.
    ///
    /// # Errors
    /// See [`BatchError`].
    pub fn masked(
        ids: &[i64],
        context_length: u32,
        vocabulary: u32,
        device: Device,
        masking: &Masking,
        origin: Origin,
    ) -> Result<Self, BatchError> {
        check(ids, context_length, vocabulary)?;
        let length = context_length as usize;
        let (mut inputs, mut places, mut targets) = (Vec::new(), Vec::new(), Vec::new());
        for (row, sequence) in ids.chunks(length + 1).enumerate() {
            let mut seen = sequence[..length].to_vec();
            for place in masking.hide(&mut seen, origin, row as u64) {
                places.push((row * length + place) as i64);
                targets.push(sequence[place]);
            }
            inputs.extend(seen);
        }
        let tensor = |ids: &[i64]| Tensor::f_from_slice(ids)?.f_to_device(device);
        Ok(Self(Content::Hidden {
            inputs: tensor(&inputs)?.f_view([-1, i64::from(context_length)])?,
            places: tensor(&places)?,
            targets: tensor(&targets)?,
        }))
    }

    pub(crate) fn content(&self) -> &Content {
        &self.0
    }

    /// Tokens to predict.
    pub fn target_tokens(&self) -> u64 {
        let (Content::Next { targets, .. } | Content::Hidden { targets, .. }) = &self.0;
        targets.numel() as u64
    }
}

/// Whether ids are whole sequences of known tokens.
fn check(ids: &[i64], context_length: u32, vocabulary: u32) -> Result<(), BatchError> {
    let sequence = context_length as usize + 1;
    if ids.is_empty() || !ids.len().is_multiple_of(sequence) {
        return Err(BatchError::Ragged {
            ids: ids.len(),
            sequence,
        });
    }
    let known = 0..i64::from(vocabulary);
    match ids.iter().find(|id| !known.contains(*id)) {
        Some(&id) => Err(BatchError::OutsideVocabulary { id, vocabulary }),
        None => Ok(()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::*;

    fn ids_of(tensor: &Tensor) -> Vec<i64> {
        Vec::try_from(tensor.reshape([-1])).unwrap()
    }

    fn batch(ids: &[i64]) -> Result<Batch, BatchError> {
        Batch::new(ids, 2, 10, Device::Cpu)
    }

    #[test]
    fn targets_are_the_inputs_one_token_later() {
        let batch = batch(&[1, 2, 3, 7, 8, 9]).unwrap();
        let Content::Next { inputs, targets } = batch.content() else {
            panic!("{batch:?}");
        };
        assert_eq!(ids_of(inputs), [1, 2, 7, 8]);
        assert_eq!(ids_of(targets), [2, 3, 8, 9]);
        assert_eq!(batch.target_tokens(), 4);
    }

    #[test]
    fn hidden_tokens_are_named_by_place_whatever_batch_they_come_in() {
        let masking = Masking {
            seed: 1,
            fraction: 0.5,
            mask_id: 9,
            vocabulary: 9,
            special: [8].into(),
        };
        let masked = |ids: &[i64], first| {
            let origin = Origin::Training(first);
            let batch = Batch::masked(ids, 4, 10, Device::Cpu, &masking, origin).unwrap();
            let Content::Hidden {
                inputs,
                places,
                targets,
            } = batch.0
            else {
                panic!("no token is hidden");
            };
            [ids_of(&inputs), ids_of(&places), ids_of(&targets)]
        };
        let sequences: [i64; 10] = [1, 2, 3, 4, 5, 5, 6, 7, 0, 1];
        let [inputs, places, targets] = masked(&sequences, 20);
        assert_eq!((inputs.len(), places.len()), (8, 4));
        let whole = [1, 2, 3, 4, 5, 6, 7, 0];
        for (place, target) in places.iter().zip(&targets) {
            assert_eq!(whole[*place as usize], *target);
        }
        let [second_inputs, second_places, _] = masked(&sequences[5..], 21);
        assert_eq!(second_inputs, inputs[4..]);
        let shifted: Vec<i64> = second_places.iter().map(|place| place + 4).collect();
        assert_eq!(shifted, places[2..]);
        // Where nothing may be hidden, there is nothing to predict.
        assert!(masked(&[8; 5], 0)[1].is_empty());
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
