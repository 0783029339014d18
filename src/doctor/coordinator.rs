use super::Finding;

const COORDINATOR: &str = "coordinator";
const CLOCK: &str = "clock";
/// Beyond this, times of different machines are hard to put side by side.
const CLOCKS_APART_MS: i64 = 2_000;

/// What a coordinator says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CoordinatorReading {
    /// Its version.
    pub version: String,
    /// The protocol that it speaks.
    pub protocol: String,
    /// How far its wall clock is ahead of ours, in milliseconds.
    pub ahead_ms: i64,
}

/// Whether the coordinator answers, and is of this version.
pub fn judge_coordinator(
    url: &str,
    reading: &Result<CoordinatorReading, String>,
    own_version: &str,
    own_protocol: &str,
) -> Finding {
    match reading {
        Err(reason) => Finding::fail(
            COORDINATOR,
            format!("{url}: {reason}"),
            "see that it runs, that its --listen is an address that this machine reaches, and that no firewall is between",
        ),
        Ok(it) if it.protocol != own_protocol => Finding::fail(
            COORDINATOR,
            format!(
                "{url} speaks {}, muster here speaks {own_protocol}",
                it.protocol
            ),
            "install the same version on both",
        ),
        Ok(it) if it.version != own_version => Finding::warn(
            COORDINATOR,
            format!(
                "{url} is version {}, muster here is {own_version}",
                it.version
            ),
            "install the same version on both",
        ),
        Ok(it) => Finding::ok(
            COORDINATOR,
            format!("{url} answers, version {}", it.version),
        ),
    }
}

/// Whether the coordinator's wall clock shows about the same. Nothing is decided by it.
pub fn judge_clock(reading: &CoordinatorReading) -> Finding {
    let ms = reading.ahead_ms;
    let seconds = ms.unsigned_abs() as f64 / 1_000.0;
    if ms.abs() <= CLOCKS_APART_MS {
        return Finding::ok(CLOCK, format!("within {seconds:.3} s of the coordinator's"));
    }
    let side = if ms > 0 { "behind" } else { "ahead of" };
    Finding::warn(
        CLOCK,
        format!(
            "{seconds:.1} s {side} the coordinator's: times in logs and events do not match; nothing is decided by them"
        ),
        "synchronise the clocks, for example with chrony",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Verdict;

    fn reading(version: &str, protocol: &str, ahead_ms: i64) -> CoordinatorReading {
        CoordinatorReading {
            version: version.into(),
            protocol: protocol.into(),
            ahead_ms,
        }
    }

    #[test]
    fn a_coordinator_of_another_protocol_will_not_do() {
        let judge = |reading| judge_coordinator("http://c:1", &reading, "0.1.0", "muster.v1");
        let verdict = |reading| judge(reading).verdict;
        assert_eq!(verdict(Ok(reading("0.1.0", "muster.v1", 0))), Verdict::Ok);
        assert_eq!(verdict(Ok(reading("0.2.0", "muster.v1", 0))), Verdict::Warn);
        assert_eq!(verdict(Ok(reading("0.2.0", "muster.v2", 0))), Verdict::Fail);
        let away = judge(Err("refused".into()));
        assert_eq!(
            (away.verdict, away.found.as_str()),
            (Verdict::Fail, "http://c:1: refused")
        );
    }

    #[test]
    fn clocks_may_be_some_way_apart() {
        let judge = |ms| judge_clock(&reading("0.1.0", "muster.v1", ms));
        assert_eq!(judge(-2_000).verdict, Verdict::Ok);
        let behind = judge(61_000);
        assert_eq!(behind.verdict, Verdict::Warn);
        assert!(behind.found.starts_with("61.0 s behind"), "{behind:?}");
        assert!(judge(-61_000).found.starts_with("61.0 s ahead of"));
    }
}
