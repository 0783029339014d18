use std::collections::BTreeMap;

use muster_types::{JobId, Monotonic};

use crate::{Cluster, nodes::SlotClass, queue::Plan};

/// Holders that are named one by one.
const NAMED_HOLDERS: usize = 3;

/// A job that does not have the workers it needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Waiting {
    /// So many slots are missing.
    pub need: usize,
    pub class: SlotClass,
    /// It has some workers, but not enough.
    pub has_some: bool,
    pub why: Wait,
}

/// Why a job waits for slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    /// The cluster does not offer so many: beside those that the job has, so many are missing.
    TooSmall { missing: usize },
    /// Its user's jobs hold as many as they may.
    Quota { quota: usize, held: usize },
    /// It pauses after a failure.
    Paused,
    /// This one, which comes before it, waits for jobs that it may not displace.
    Behind(JobId),
    /// Enough slots are free or being given back.
    Coming,
    /// The slots are held by jobs that it may not displace.
    Held,
}

/// What a job holds of a class, and how much of it is on its way out.
#[derive(Clone, Copy, Debug, Default)]
struct Holding {
    priority: i32,
    kept: usize,
    coming: usize,
}

impl Cluster {
    /// Why a job waits for slots, in words; `None` if it doesn't.
    pub(crate) fn why_it_waits(&self, job: JobId, now: Monotonic) -> Option<String> {
        let plan = self.plan(now);
        let waiting = plan.waits.get(&job)?;
        let class = waiting.class.as_str();
        let more = if waiting.has_some { "more " } else { "" };
        let needs = format!(
            "needs {}",
            counted(waiting.need, &format!("{more}{class} slot"))
        );
        Some(match waiting.why {
            Wait::TooSmall { .. } => {
                format!("{needs}, the cluster offers {}", self.offer_words(waiting))
            }
            Wait::Quota { quota, held } => {
                let user = self.user_words(job);
                format!("over quota: {needs}; of at most {quota}, {user} {held}")
            }
            Wait::Paused => format!("{needs}; pauses after a failure"),
            Wait::Behind(other) => {
                let ahead = self.named(other);
                let need = plan.waits.get(&other).map_or(0, |waiting| waiting.need);
                let slots = counted(need, &format!("{class} slot"));
                format!("{needs}; waits behind {ahead}, which needs {slots}")
            }
            Wait::Coming | Wait::Held => {
                format!(
                    "{needs}; {}",
                    self.holder_words(job, waiting.class, &plan, now)
                )
            }
        })
    }

    fn offer_words(&self, waiting: &Waiting) -> String {
        let (mut usable, mut cordoned, mut drained) = (0, 0, 0);
        for (node, slot) in self.nodes.offered(waiting.class) {
            if self.is_draining(node) {
                drained += 1;
            } else if self.is_cordoned(node, slot.index) {
                cordoned += 1;
            } else {
                usable += 1;
            }
        }
        let usable = match usable {
            0 => "none".to_owned(),
            count => count.to_string(),
        };
        let closed = [
            (cordoned, "cordoned"),
            (drained, "on nodes that are drained"),
        ];
        let closed = closed.iter().filter(|(count, _)| *count > 0);
        let closed: Vec<_> = closed
            .map(|(count, how)| format!("{count} {how}"))
            .collect();
        match closed.is_empty() {
            true => usable,
            false => format!("{usable} beside {}", closed.join(" and ")),
        }
    }

    fn user_words(&self, job: JobId) -> String {
        let user = self
            .jobs
            .get(&job)
            .map_or("", |entry| entry.job.submission.spec.queue.user.as_str());
        match user {
            "" => "jobs without a user hold".to_owned(),
            user => format!("user {user:?} holds"),
        }
    }

    fn named(&self, job: JobId) -> String {
        let priority = self
            .jobs
            .get(&job)
            .map_or(0, |entry| entry.job.submission.spec.queue.priority);
        job_words(job, priority)
    }

    /// `of 3, 1 is free, 2 are held by job X of priority 5`.
    fn holder_words(&self, job: JobId, class: SlotClass, plan: &Plan, now: Monotonic) -> String {
        let (contenders, pools) = self.stock(now);
        let (offered, free) = pools
            .get(&class)
            .map_or((0, 0), |pool| (pool.offered, pool.free.len()));
        let mut holdings: BTreeMap<JobId, Holding> = BTreeMap::new();
        for contender in &contenders {
            let recalled = plan.recalls.get(&contender.id).map_or(0, BTreeMap::len);
            let usable = contender.usable_in(class);
            if usable > 0 && contender.id != job {
                let holding = Holding {
                    priority: contender.priority,
                    kept: usable - recalled.min(usable),
                    coming: recalled.min(usable),
                };
                holdings.insert(contender.id, holding);
            }
        }
        let named: usize = holdings
            .values()
            .map(|holding| holding.kept + holding.coming)
            .sum();
        let own = contenders
            .iter()
            .find(|contender| contender.id == job)
            .map_or(0, |contender| contender.usable_in(class));
        let leaving = offered.saturating_sub(free + named + own);
        let mut words = vec![format!("of {offered}, {free} {} free", are(free))];
        if leaving > 0 {
            words.push(format!("{leaving} {} being emptied", are(leaving)));
        }
        let more = holdings.len().saturating_sub(NAMED_HOLDERS);
        for (other, holding) in holdings.into_iter().take(NAMED_HOLDERS) {
            let name = job_words(other, holding.priority);
            if holding.kept > 0 {
                let kept = holding.kept;
                words.push(format!("{kept} {} held by {name}", are(kept)));
            }
            if holding.coming > 0 {
                let coming = holding.coming;
                words.push(format!(
                    "{coming} {} being given back by {name}",
                    are(coming)
                ));
            }
        }
        if more > 0 {
            words.push(format!("the others by {}", counted(more, "more job")));
        }
        words.join(", ")
    }
}

/// A job, for people: its id finds it.
pub(crate) fn job_words(job: JobId, priority: i32) -> String {
    format!("job {job} of priority {priority}")
}

/// `1 slot`, `2 slots`.
pub(crate) fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

const fn are(count: usize) -> &'static str {
    if count == 1 { "is" } else { "are" }
}
