use std::{collections::BTreeMap, ops::Deref, sync::Arc};

use muster_types::WorkerId;

/// Workers in rank order, each of which is found without a search through all. Copies share what they hold: jobs are copied
/// with each decision, and have thousands of workers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ranks {
    order: Arc<[WorkerId]>,
    ranks: Arc<BTreeMap<WorkerId, usize>>,
}

impl Ranks {
    /// The rank of a worker, if it has one.
    pub fn rank_of(&self, worker: &WorkerId) -> Option<usize> {
        self.ranks.get(worker).copied()
    }

    /// Whether a worker has a rank.
    pub fn contains(&self, worker: &WorkerId) -> bool {
        self.ranks.contains_key(worker)
    }
}

impl FromIterator<WorkerId> for Ranks {
    fn from_iter<I: IntoIterator<Item = WorkerId>>(workers: I) -> Self {
        let order: Arc<[WorkerId]> = workers.into_iter().collect();
        let ranks = order.iter().cloned().zip(0..).collect();
        Self {
            order,
            ranks: Arc::new(ranks),
        }
    }
}

impl Deref for Ranks {
    type Target = [WorkerId];

    fn deref(&self) -> &[WorkerId] {
        &self.order
    }
}

impl PartialEq for Ranks {
    fn eq(&self, other: &Self) -> bool {
        self.order == other.order
    }
}

impl<const N: usize> PartialEq<[WorkerId; N]> for Ranks {
    fn eq(&self, other: &[WorkerId; N]) -> bool {
        **self == *other
    }
}
