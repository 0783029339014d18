//! What can go wrong in a group, sorted by what the caller does next.
use crate::cuda::CudaUnavailable;

/// Why a collective, or a backward pass that runs some, failed.
///
/// Whatever the variant, the step in flight is lost and the group with it; the process, its model and its optimizer
/// are not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CollectiveError {
    /// This process ended it, through [`Abort`](crate::Abort) or by dropping the group.
    #[error("{operation} aborted: {reason}")]
    Aborted {
        /// What was under way.
        operation: String,
        /// The reason given to the abort.
        reason: String,
    },
    /// A peer is silent: frozen, unreachable or busy.
    #[error("{operation} timed out: {cause}")]
    TimedOut {
        /// What was under way.
        operation: String,
        /// The first line of libtorch's message.
        cause: String,
    },
    /// A peer closed its connection: it has died or has left the group.
    #[error("{operation} lost a peer: {cause}")]
    PeerLost {
        /// What was under way.
        operation: String,
        /// The first line of libtorch's message.
        cause: String,
    },
    /// Anything else, such as a tensor that does not fit.
    #[error("{operation} failed: {cause}")]
    Other {
        /// What was under way.
        operation: String,
        /// The first line of libtorch's message.
        cause: String,
    },
}

impl CollectiveError {
    /// The reason of the abort, or the first line of libtorch's message.
    pub fn cause(&self) -> &str {
        match self {
            Self::Aborted { reason, .. } => reason,
            Self::TimedOut { cause, .. }
            | Self::PeerLost { cause, .. }
            | Self::Other { cause, .. } => cause,
        }
    }

    /// Sorts libtorch's `message`. An abort explains every error that comes after it.
    pub(crate) fn sort(operation: &str, message: &str, abort_reason: Option<String>) -> Self {
        let operation = operation.to_owned();
        match (abort_reason, Sort::of(message)) {
            (Some(reason), _) => Self::Aborted { operation, reason },
            (None, Sort::Aborted) => Self::Aborted {
                operation,
                reason: first_line(message),
            },
            (None, Sort::TimedOut) => Self::TimedOut {
                operation,
                cause: first_line(message),
            },
            (None, Sort::PeerLost) => Self::PeerLost {
                operation,
                cause: first_line(message),
            },
            (None, Sort::Other) => Self::Other {
                operation,
                cause: first_line(message),
            },
        }
    }
}

/// Why a group did not form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GroupError {
    /// The generation is over: [`Abort`](crate::Abort), or the store said so.
    #[error("forming the group was aborted: {reason}")]
    Aborted {
        /// The reason given.
        reason: String,
    },
    /// A peer did not come, or does not answer.
    #[error("the group did not form in time: {cause}")]
    TimedOut {
        /// What was waited for.
        cause: String,
    },
    /// A peer closed its connection while the group formed.
    #[error("a peer was lost while the group formed: {cause}")]
    PeerLost {
        /// The first line of libtorch's message.
        cause: String,
    },
    /// The options contradict each other.
    #[error("no group can form with {cause}")]
    InvalidOptions {
        /// What is wrong.
        cause: String,
    },
    /// A GPU was asked for.
    #[error(transparent)]
    Cuda(#[from] CudaUnavailable),
    /// Anything else, such as an address that cannot be bound or a store that cannot be reached.
    #[error("the group could not form: {cause}")]
    Failed {
        /// The first line of the message.
        cause: String,
    },
}

impl GroupError {
    /// Whether this rank could form no group with any peers: the fault lies with its own device or options.
    pub fn is_own_fault(&self) -> bool {
        matches!(self, Self::InvalidOptions { .. } | Self::Cuda(_))
    }

    /// Sorts libtorch's `message`, as [`CollectiveError::sort`] does.
    pub(crate) fn sort(message: &str, abort_reason: Option<String>) -> Self {
        match (abort_reason, Sort::of(message)) {
            (Some(reason), _) => Self::Aborted { reason },
            (None, Sort::Aborted) => Self::Aborted {
                reason: first_line(message),
            },
            (None, Sort::TimedOut) => Self::TimedOut {
                cause: first_line(message),
            },
            (None, Sort::PeerLost) => Self::PeerLost {
                cause: first_line(message),
            },
            (None, Sort::Other) => Self::Failed {
                cause: first_line(message),
            },
        }
    }
}

/// libtorch, Gloo and NCCL say what happened in words alone.
enum Sort {
    Aborted,
    TimedOut,
    PeerLost,
    Other,
}

const ABORTED: [&str; 4] = [
    "aborted by this process",
    "store wait cancelled",
    "communicator was aborted",
    "ncclcommabort",
];
const PEER_LOST: [&str; 8] = [
    "connection closed by",
    "connection reset by peer",
    "connection refused",
    "broken pipe",
    "remote process exited",
    "ncclremoteerror",
    "socket closed",
    "no route to host",
];
const TIMED_OUT: [&str; 3] = ["timed out", "timeout", "did not come within"];

impl Sort {
    fn of(message: &str) -> Self {
        let message = message.to_lowercase();
        let says = |words: &[&str]| words.iter().any(|word| message.contains(word));
        if says(&ABORTED) {
            Self::Aborted
        } else if says(&PEER_LOST) {
            Self::PeerLost
        } else if says(&TIMED_OUT) {
            Self::TimedOut
        } else {
            Self::Other
        }
    }
}

fn first_line(message: &str) -> String {
    message
        .lines()
        .map(str::trim)
        .find(|line| !line.is_empty())
        .unwrap_or_default()
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sorted(message: &str) -> CollectiveError {
        CollectiveError::sort("all-reduce", message, None)
    }

    #[test]
    fn messages_are_sorted_by_their_words() {
        let lost = "[gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:4711";
        assert!(matches!(sorted(lost), CollectiveError::PeerLost { .. }));
        let late = "[gloo/transport/tcp/unbound_buffer.cc:78] Timed out waiting 1500ms for recv operation to complete";
        assert!(matches!(sorted(late), CollectiveError::TimedOut { .. }));
        assert!(matches!(
            sorted("[pair.cc:586] aborted by this process"),
            CollectiveError::Aborted { .. }
        ));
        let nccl = "NCCL error in: x.cpp:1, remote process exited or there was a network error";
        assert!(matches!(sorted(nccl), CollectiveError::PeerLost { .. }));
        assert!(matches!(
            sorted("Invalid scalar type"),
            CollectiveError::Other { .. }
        ));
    }

    #[test]
    fn an_abort_explains_whatever_follows() {
        let error =
            CollectiveError::sort("backward", "Connection closed by peer", Some("why".into()));
        assert_eq!(error.to_string(), "backward aborted: why");
        assert_eq!(
            GroupError::sort("anything", Some("why".into())),
            GroupError::Aborted {
                reason: "why".into()
            }
        );
    }

    #[test]
    fn the_first_line_is_kept_whole() {
        let error = sorted("\n  Expected 4 elements, got 5  \nException raised from x");
        assert_eq!(
            error.to_string(),
            "all-reduce failed: Expected 4 elements, got 5"
        );
        assert_eq!(error.cause(), "Expected 4 elements, got 5");
    }

    #[test]
    fn a_store_that_cancels_ends_the_forming() {
        let message = crate::StoreError::Cancelled("generation 3 is over".into()).to_string();
        assert!(matches!(
            GroupError::sort(&message, None),
            GroupError::Aborted { .. }
        ));
        let message = crate::StoreError::TimedOut(std::time::Duration::from_secs(1)).to_string();
        assert!(matches!(
            GroupError::sort(&message, None),
            GroupError::TimedOut { .. }
        ));
    }
}
