use tch::{TchError, Tensor};

use crate::Pass;

/// Zeroes elements with a given probability and scales the rest up (Srivastava et al. 2014).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dropout {
    probability: f64,
}

impl Dropout {
    pub(crate) fn new(probability: f64) -> Self {
        Self { probability }
    }

    /// Starts a forward pass: all its draws follow from the pass's seed. libtorch's default generators are shared by the
    /// process, so one process runs one pass at a time.
    pub(crate) fn begin(self, pass: Pass) {
        if let (Pass::Train { dropout_seed }, true) = (pass, self.probability > 0.0) {
            tch::manual_seed(dropout_seed as i64);
        }
    }

    /// The probability in effect, for operators that draw themselves.
    pub(crate) fn probability(self, pass: Pass) -> f64 {
        match pass {
            Pass::Train { .. } => self.probability,
            Pass::Evaluate => 0.0,
        }
    }

    /// Any shape in, the same shape out.
    pub(crate) fn apply(self, x: Tensor, pass: Pass) -> Result<Tensor, TchError> {
        match self.probability(pass) {
            0.0 => Ok(x),
            probability => x.f_dropout(probability, true),
        }
    }
}
