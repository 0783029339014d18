use serde::Serialize;

/// All that was measured.
#[derive(Debug, Serialize)]
pub struct Figures {
    pub workers: usize,
    pub nodes: usize,
    /// HTTP/2 connections, and how many workers' streams share one.
    pub connections: usize,
    pub streams: usize,
    /// From the nodes' being there to the last worker's welcome; the submit is in it.
    pub attaching_s: f64,
    /// From the last worker's word that it is warm to the last worker's being told of the generation.
    pub forming_s: f64,
    pub forming_messages: u64,
    /// As `forming_s`, to the last worker's word that it is ready.
    pub training_s: f64,
    /// How long training was measured, and what it brought.
    pub seconds: u64,
    pub messages_per_second: f64,
    /// CPU of the coordinator, and of this process.
    pub cores: f64,
    pub own_cores: f64,
    pub memory_mib: f64,
    pub largest_mib: f64,
    pub journal_bytes_per_second: f64,
    pub summaries: usize,
    pub summary_median_ms: f64,
    pub summary_p99_ms: f64,
    pub summary_largest_ms: f64,
    /// Of the status with each worker in it; the median.
    pub full_status_ms: f64,
    pub lost: Vec<Lost>,
}

/// What a worker's death cost: seconds from then on.
#[derive(Debug, Serialize)]
pub struct Lost {
    /// To the last survivor's being told of the generation without it.
    pub survivors_formed_s: f64,
    /// To the last worker's being told of the generation with its replacement.
    pub all_formed_s: f64,
    /// To the last worker's word that it is ready in it.
    pub all_training_s: f64,
}

/// Of sorted values: the least that the share of them does not exceed.
pub fn percentile(sorted: &[f64], share: f64) -> f64 {
    let rank = (share * sorted.len() as f64).ceil() as usize;
    let at = rank.clamp(1, sorted.len().max(1)) - 1;
    sorted.get(at).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_one_of_the_values() {
        let values: Vec<f64> = (1..=200).map(f64::from).collect();
        assert_eq!(percentile(&values, 0.5), 100.0);
        assert_eq!(percentile(&values, 0.99), 198.0);
        assert_eq!(percentile(&values, 1.0), 200.0);
        assert_eq!(percentile(&[3.0], 0.99), 3.0);
        assert!(percentile(&[], 0.5).is_nan());
    }
}
