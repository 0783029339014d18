use std::{collections::BTreeMap, time::Duration};

/// Bounds and pauses of the cluster. All spans are of the monotonic clock.
#[derive(Clone, Debug, PartialEq)]
pub struct ClusterOptions {
    /// A candidate answers `Supersede` within this, or it is expelled: its control thread has nothing else to do.
    pub fence_bound: Duration,
    /// From the order to start a worker to its attach.
    pub start_bound: Duration,
    /// From a worker's attach to its being warm: libtorch, device, model, data.
    pub warm_bound: Duration,
    /// From `Form` to `Ready`: group construction and heal.
    pub ready_bound: Duration,
    /// From `Reconfigure` to all members having left at a boundary.
    pub boundary_bound: Duration,
    /// A worker whose stream is broken is out after this, unless steps are committed meanwhile. So is one that does not attach
    /// again after a restart of the coordinator.
    pub silence_bound: Duration,
    /// As `silence_bound`, where the worker's agent is out of reach too while others of the job are within: its node is cut
    /// off or dead, and nobody is left there who could tell.
    pub node_silence_bound: Duration,
    /// In training, no step and no change of phase for so long means that someone hangs.
    pub stall_bound: Duration,
    /// Where it is not known yet how long things take: after so long without a move, all are asked what they are at.
    pub patience: Duration,
    /// The least that nothing may move before anyone is asked, however fast the steps are.
    pub least_patience: Duration,
    /// Anyone is asked after so many times the longest of the last durations.
    pub patience_factor: u32,
    /// From one probe to the next.
    pub probe_interval: Duration,
    /// Whoever leaves so many probes in a row unanswered while others answer is silent.
    pub deaf_probes: u64,
    /// As `deaf_probes`, for one whose stream is broken: it may be about to attach again.
    pub lost_probes: u64,
    /// As `deaf_probes`, where nobody else answers either but the worker's agent is within reach.
    pub lone_probes: u64,
    /// Whoever is warm and waits to be needed is asked this often whether it is there.
    pub watch_interval: Duration,
    /// A newcomer that does not answer within this is left out of the generation that is being agreed on.
    pub newcomer_bound: Duration,
    /// A rank that computes, or waits for its peers, is taken to hang after so long without a sign of life.
    pub hang_bound: Duration,
    /// As `hang_bound`, for one that waits for storage.
    pub storage_hang_bound: Duration,
    /// Nobody is taken to hang within so many times the longest quiet that it lately came out of.
    pub hang_factor: u32,
    /// From `Left` to the end of the process.
    pub exit_bound: Duration,
    /// Once enough workers are warm, how long the others are waited for.
    pub gather_grace: Duration,
    /// Pause before the second attempt in a row; it doubles with each further one. The first comes at once.
    pub backoff_first: Duration,
    /// The longest pause.
    pub backoff_max: Duration,
    /// Attempts in a row without a newly committed step, after which the job fails.
    pub max_failures: u32,
    /// Attempts in a row that never got beyond the furthest step, after which the job fails: something on the way is
    /// deadly.
    pub max_failures_without_advance: u32,
    /// So many workers that failed by themselves in one place, with no step committed there in between, and it is cordoned.
    pub max_place_failures: u32,
    /// Failures before that are forgotten.
    pub fault_window: Duration,
    /// How long members may take to say whom of each other they reach.
    pub reach_bound: Duration,
    /// A rank is slow whose own work takes more than so many hundredths of the median of all ranks.
    pub slow_percent: u32,
    /// How often the committed history's extent is journaled while steps are committed.
    pub watermark_interval: Duration,
    /// How often a manifest is tried before its checkpoint is given up.
    pub manifest_attempts: u32,
    /// After a start of the coordinator, or the loss of an agent's stream, nodes may take this long to be (back) here before
    /// anybody loses a slot for want of theirs, or is passed over because the cluster is too small.
    pub flux_bound: Duration,
    /// How many slots a user's jobs may hold.
    pub user_quotas: UserQuotas,
}

/// How many slots a user's jobs may hold at a time, all together; 0: any number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserQuotas {
    /// For whoever is not named.
    pub everyone: u32,
    /// For users by name.
    pub named: BTreeMap<String, u32>,
}

impl UserQuotas {
    /// The user's quota; `None` where there is none.
    pub fn of(&self, user: &str) -> Option<u32> {
        let quota = self.named.get(user).copied().unwrap_or(self.everyone);
        (quota > 0).then_some(quota)
    }
}

impl Default for ClusterOptions {
    fn default() -> Self {
        Self {
            fence_bound: Duration::from_secs(10),
            start_bound: Duration::from_secs(60),
            warm_bound: Duration::from_secs(300),
            ready_bound: Duration::from_secs(300),
            boundary_bound: Duration::from_secs(120),
            silence_bound: Duration::from_secs(30),
            node_silence_bound: Duration::from_secs(3),
            stall_bound: Duration::from_secs(600),
            patience: Duration::from_secs(5),
            least_patience: Duration::from_millis(1500),
            patience_factor: 5,
            probe_interval: Duration::from_millis(400),
            deaf_probes: 3,
            lost_probes: 5,
            lone_probes: 25,
            watch_interval: Duration::from_secs(1),
            newcomer_bound: Duration::from_secs(1),
            hang_bound: Duration::from_secs(10),
            storage_hang_bound: Duration::from_secs(60),
            hang_factor: 20,
            exit_bound: Duration::from_secs(30),
            gather_grace: Duration::from_secs(5),
            backoff_first: Duration::from_secs(1),
            backoff_max: Duration::from_secs(30),
            max_failures: 5,
            max_failures_without_advance: 20,
            max_place_failures: 3,
            fault_window: Duration::from_secs(600),
            reach_bound: Duration::from_secs(4),
            slow_percent: 150,
            watermark_interval: Duration::from_secs(5),
            manifest_attempts: 3,
            flux_bound: Duration::from_secs(10),
            user_quotas: UserQuotas::default(),
        }
    }
}

impl ClusterOptions {
    /// The pause before attempt `failures + 1`: none before the second attempt, then doubling.
    pub(crate) fn backoff(&self, failures: u32) -> Duration {
        match failures {
            0 | 1 => Duration::ZERO,
            _ => self
                .backoff_first
                .saturating_mul(1 << (failures - 2).min(16))
                .min(self.backoff_max),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_recovery_is_immediate_and_the_pauses_are_bounded() {
        let options = ClusterOptions::default();
        let pauses: Vec<_> = (1..=8)
            .map(|failures| options.backoff(failures).as_secs())
            .collect();
        assert_eq!(pauses, [0, 1, 2, 4, 8, 16, 30, 30]);
        assert_eq!(options.backoff(u32::MAX), options.backoff_max);
    }

    #[test]
    fn a_named_quota_stands_over_everyones_and_zero_is_none() {
        let quotas = UserQuotas {
            everyone: 4,
            named: BTreeMap::from([("anna".into(), 8), ("root".into(), 0)]),
        };
        assert_eq!(quotas.of("anna"), Some(8));
        assert_eq!(quotas.of("root"), None);
        assert_eq!(quotas.of("eve"), Some(4));
        assert_eq!(UserQuotas::default().of("eve"), None);
    }
}
