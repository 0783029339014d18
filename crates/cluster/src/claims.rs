use std::collections::BTreeSet;

use muster_types::JobId;

use crate::{
    contender::Contender,
    queue::{Plan, Planner},
    reshape::Recall,
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
        let Contender { id, class, .. } = self.contenders[index];
        let pool = self.pools.entry(class).or_default();
        let at_hand = pool.free.len() + pool.coming;
        let deficit = need.saturating_sub(at_hand);
        let lent: usize = self
            .contenders
            .iter()
            .filter(|other| other.id != id && other.class == class)
            .map(Contender::lent)
            .sum();
        let mut given = 0;
        if lent < deficit {
            match self.displace(index, need, deficit - lent, may_displace) {
                Some(slots) => given = slots,
                None => return false,
            }
        }
        let recalled = deficit.saturating_sub(given);
        let slots = counted(need, &format!("{} slot", class.as_str()));
        let why = format!("{} waits for {slots}", self.words(index));
        self.recall(index, recalled, None, &why);
        let pool = self.pools.entry(class).or_default();
        pool.coming += given + recalled;
        pool.set_aside(need);
        true
    }

    /// Preempts jobs that a job may displace, to get `lacking` slots beside all that is lent. As many are spared as can be,
    /// from the first in the queue on. Returns how many slots they hold in all; `None` where that would not be enough.
    fn displace(
        &mut self,
        index: usize,
        need: usize,
        lacking: usize,
        may_displace: impl Fn(&Contender<'_>) -> bool,
    ) -> Option<usize> {
        let Contender { id, class, .. } = self.contenders[index];
        let words = self.words(index);
        let slots = counted(need, &format!("{} slot", class.as_str()));
        let owed = |other: &Contender<'_>| other.held() - other.lent();
        let mut displaced: Vec<&mut Contender<'_>> = self
            .contenders
            .iter_mut()
            .filter(|other| other.id != id && other.class == class && other.held() > 0)
            .filter(|other| may_displace(other))
            .collect();
        let mut total: usize = displaced.iter().map(|other| owed(other)).sum();
        if total < lacking {
            return None;
        }
        displaced.retain(|other| {
            let is_spared = total - owed(other) >= lacking;
            if is_spared {
                total -= owed(other);
            }
            !is_spared
        });
        let mut given = 0;
        for other in displaced {
            given += other.held();
            other.leaving = true;
            let mut reason = format!("gives way to {words}, which needs {slots}");
            if other.kept < other.gang {
                reason.push_str(": it waits for more workers itself");
            }
            self.plan.preemptions.push((other.id, Some(id), reason));
            let other = other.id;
            self.plan.placements.retain(|(job, ..)| *job != other);
        }
        Some(given)
    }

    /// Has others, or only those of a user, give back what is lent to them: spares first, and the last in the queue first.
    pub fn recall(&mut self, index: usize, mut count: usize, user: Option<&str>, why: &str) {
        let class = self.contenders[index].class;
        // Spares train nothing: all of them go before anyone shrinks.
        let of_all = [Contender::spare, Contender::lent];
        let last_first = (0..self.contenders.len()).rev();
        for (lent, other) in of_all
            .into_iter()
            .flat_map(|lent| last_first.clone().map(move |other| (lent, other)))
        {
            let contender = &mut self.contenders[other];
            let of_user = user.map_or(contender.class == class, |user| contender.user == user);
            if other == index || !of_user {
                continue;
            }
            let giving = lent(contender).min(count);
            count -= giving;
            let recalled = contender
                .usable
                .iter()
                .skip(contender.recalled)
                .take(giving);
            let recalled: Vec<_> = recalled
                .map(|worker| ((*worker).clone(), Recall::at_once(why)))
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
