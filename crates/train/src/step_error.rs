use muster_c10d::CollectiveError;
use muster_ops::OpsError;
use muster_types::Step;
use tch::TchError;

/// Why a step could not be made. Unless it says otherwise, the state is as before the step: drop the step and go on.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// The sum over ranks failed: a peer is lost or silent, or the group was aborted. The reducer is of no more use.
    #[error("gradients could not be summed over the ranks: {0}")]
    Collective(#[from] CollectiveError),
    /// libtorch refused, in forward or backward.
    #[error("libtorch failed in {phase}: {source}")]
    Torch {
        /// What was under way.
        phase: &'static str,
        /// libtorch's message.
        source: TchError,
    },
    /// A fused operator refused before it changed anything.
    #[error(transparent)]
    Ops(#[from] OpsError),
    /// The step has no gradients: no slot was trained since it began.
    #[error("step {step} has no gradients; train its slots before applying it")]
    NoGradients {
        /// The step, 0-based.
        step: Step,
    },
    /// The global batch has no tokens to divide by.
    #[error("step {step} trained on no tokens")]
    NoTokens {
        /// The step, 0-based.
        step: Step,
    },
    /// The sum of the gradients is not finite; applying it would spoil every parameter.
    #[error(
        "the gradient of step {step} is not finite (norm {norm}); lower the learning rate or skip its data"
    )]
    NotFinite {
        /// The step, 0-based.
        step: Step,
        /// The norm of the summed gradient.
        norm: f64,
    },
    /// The update failed midway. The state is partly updated and must not be used: heal it.
    #[error("the update of step {step} failed midway, so this worker's state is invalid: {cause}")]
    StateInvalid {
        /// The step, 0-based.
        step: Step,
        /// What failed.
        cause: String,
    },
}

impl StepError {
    /// Wraps libtorch's error of a phase.
    pub(crate) fn torch(phase: &'static str) -> impl FnOnce(TchError) -> Self {
        move |source| Self::Torch { phase, source }
    }
}
