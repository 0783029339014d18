use muster_types::{NodeName, WorkerId};

use super::roster::Holders;

/// Which of a job's workers are meant: those of which all holds that is given.
#[derive(Debug, Default)]
pub(super) struct Selection {
    pub(super) worker: Option<String>,
    pub(super) node: Option<String>,
    pub(super) rank: Option<u32>,
}

impl Selection {
    /// `holders` are those of the rank, where one is given.
    pub(super) fn means(
        &self,
        worker: &WorkerId,
        node: &NodeName,
        holders: Option<&Holders>,
    ) -> bool {
        self.worker.as_ref().is_none_or(|it| worker.as_str() == it)
            && self.node.as_ref().is_none_or(|it| node.as_str() == it)
            && holders.is_none_or(|holders| holders.has(worker))
    }

    /// Whether all workers are meant.
    pub(super) fn is_all(&self) -> bool {
        self.worker.is_none() && self.node.is_none() && self.rank.is_none()
    }

    /// What is meant, in words.
    pub(super) fn words(&self) -> String {
        let part = |words: &str, value: Option<String>| value.map(|it| format!(" {words} {it}"));
        let parts = [
            part("named", self.worker.clone()),
            part("on node", self.node.clone()),
            part("of rank", self.rank.map(|it| it.to_string())),
        ];
        format!("worker{}", parts.into_iter().flatten().collect::<String>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_that_is_given_has_to_hold() {
        let (worker, node) = (WorkerId::new("w-1"), NodeName::new("node-a"));
        let means = |it: &Selection| it.means(&worker, &node, None);
        let mut selection = Selection::default();
        assert!(means(&selection));
        assert_eq!(selection.words(), "worker");
        selection.worker = Some("w-1".into());
        assert!(means(&selection));
        selection.node = Some("node-b".into());
        assert!(!means(&selection));
        selection.rank = Some(2);
        assert_eq!(
            selection.words(),
            "worker named w-1 on node node-b of rank 2"
        );
        assert!(!selection.means(&worker, &node, Some(&Holders::default())));
    }
}
