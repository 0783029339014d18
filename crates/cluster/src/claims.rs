use std::collections::BTreeSet;

use muster_types::JobId;

use crate::{
    contender::Contender,
    queue::{Plan, Planner},
    waiting::{Wait, counted},
};

impl Planner<'_> {
    /// Has others give slots back so that a job gets what it needs: what is lent to them, and where that is not enough, all
    /// that those have which it may displace. Returns whether it was enough; if not, nobody gives anything.
    pub fn claim(
        &mut self,
        index: usize,
        need: usize,
        may_displace: impl Fn(&Contender<'_>) -> bool,
    ) -> bool {
        let class = self.contenders[index].class;
        let pool = self.pools.entry(class).or_default();
        let at_hand = pool.free.len() + pool.coming;
        let mut deficit = need.saturating_sub(at_hand);
        let others: Vec<usize> = (0..self.contenders.len())
            .filter(|other| *other != index && self.contenders[*other].class == class)
            .collect();
        let lent: usize = others
            .iter()
            .map(|other| self.contenders[*other].lent())
            .sum();
        let mut given = 0;
        if lent < deficit {
            // Of those that it may displace, as many are spared as can be, from the first in the queue on.
            let owed = |other: &Contender<'_>| other.held() - other.lent();
            let displaced: Vec<usize> = others
                .iter()
                .copied()
                .filter(|other| may_displace(&self.contenders[*other]))
                .filter(|other| self.contenders[*other].held() > 0)
                .collect();
            let mut total: usize = displaced
                .iter()
                .map(|other| owed(&self.contenders[*other]))
                .sum();
            if lent + total < deficit {
                return false;
            }
            let (id, words) = (self.contenders[index].id, self.words(index));
            let class = class.as_str();
            for other in displaced {
                let spared = owed(&self.contenders[other]);
                if lent + total - spared >= deficit {
                    total -= spared;
                    continue;
                }
                let contender = &mut self.contenders[other];
                given += contender.held();
                contender.leaving = true;
                let slots = counted(need, &format!("{class} slot"));
                let reason = if contender.kept < contender.gang {
                    format!(
                        "gives way to {words}, which needs {slots}: it waits for more workers itself"
                    )
                } else {
                    format!("gives way to {words}, which needs {slots}")
                };
                self.plan.preemptions.push((contender.id, id, reason));
            }
            deficit = deficit.saturating_sub(given);
        }
        let why = format!(
            "{} waits for {}",
            self.words(index),
            counted(need, &format!("{} slot", class.as_str()))
        );
        self.recall(index, deficit, None, &why);
        let pool = self.pools.entry(class).or_default();
        pool.coming += given + deficit;
        pool.set_aside(need);
        true
    }

    /// Has others, or only those of a user, give back what is lent to them: the last in the queue first.
    pub fn recall(&mut self, index: usize, mut count: usize, user: Option<&str>, why: &str) {
        let class = self.contenders[index].class;
        for (other, contender) in self.contenders.iter_mut().enumerate().rev() {
            let of_user = user.map_or(contender.class == class, |user| contender.user == user);
            if other == index || !of_user {
                continue;
            }
            let giving = contender.lent().min(count);
            count -= giving;
            let recalled = contender
                .usable
                .iter()
                .skip(contender.recalled)
                .take(giving);
            let recalled: Vec<_> = recalled
                .map(|worker| ((*worker).clone(), why.to_owned()))
                .collect();
            contender.recalled += giving;
            if giving > 0 {
                let all = self.plan.recalls.entry(contender.id).or_default();
                all.extend(recalled);
            }
        }
    }

    /// Two jobs that each hold what the other lacks would wait for ever: the first in the queue gets it.
    pub fn untie(&mut self) {
        if self.in_flux {
            return;
        }
        let is_held = |plan: &Plan, id: &JobId| {
            plan.waits
                .get(id)
                .is_some_and(|waiting| waiting.why == Wait::Held)
        };
        for index in 0..self.contenders.len() {
            let id = self.contenders[index].id;
            if !is_held(&self.plan, &id) {
                continue;
            }
            let behind: BTreeSet<JobId> = self.contenders[index + 1..]
                .iter()
                .map(|contender| contender.id)
                .filter(|other| is_held(&self.plan, other))
                .collect();
            let need = self.plan.waits.get(&id).map_or(0, |waiting| waiting.need);
            let priority = self.contenders[index].priority;
            let may =
                |other: &Contender<'_>| other.priority < priority || behind.contains(&other.id);
            if self.claim(index, need, may) {
                self.promise(index, need);
                return self.wait(index, need, Wait::Coming);
            }
        }
    }
}
