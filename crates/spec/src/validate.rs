use crate::{Objective, RunSpec, ScheduleKind, SpecError, SpecErrors, check};

impl RunSpec {
    /// Whether this can be trained, as far as the spec alone tells: every value within its range, and all of them
    /// together. Whether the dataset exists and fits is for those to say who can read it.
    ///
    /// # Errors
    /// Everything that is wrong, at once.
    pub fn validate(&self) -> Result<(), SpecErrors> {
        let mut errors = check::values(self);
        errors.extend(
            self.contradictions()
                .into_iter()
                .map(|contradiction| contradiction.error),
        );
        SpecErrors::check(errors)
    }

    /// What is wrong between keys whose values are each within their range.
    pub(crate) fn contradictions(&self) -> Vec<Contradiction> {
        let mut found = Vec::new();
        self.check_model(&mut found);
        self.check_objective(&mut found);
        self.check_paths(&mut found);
        self.check_batch_and_workers(&mut found);
        self.check_schedule(&mut found);
        self.check_queue(&mut found);
        self.check_network(&mut found);
        found
    }

    fn check_model(&self, found: &mut Vec<Contradiction>) {
        if let Err(error) = self.model.validate() {
            let (message, fix) = error.to_string().split_once("; ").map_or_else(
                || (error.to_string(), String::new()),
                |(message, fix)| (message.to_owned(), fix.to_owned()),
            );
            let key = format!("model.{}", error.key());
            found.push(Contradiction {
                error: SpecError::new(&key, message, fix),
                keys: vec![key],
            });
        }
    }

    fn check_objective(&self, found: &mut Vec<Contradiction>) {
        let (model, keys) = (&self.model, ["train.objective", "model.family"]);
        let family = model.family.name();
        let masked = self.train.objective == Objective::Masked;
        if masked && model.family.is_causal() {
            let message = format!(
                "`train.objective` is \"masked\", but places of the family {family:?} do not see what follows them"
            );
            let fix = "set model.family to \"bert\", or leave train.objective out";
            found.push(contradiction(&keys, message, fix.into()));
        } else if !masked && !model.family.is_causal() {
            let message = format!(
                "`train.objective` is \"causal\", but places of the family {family:?} see the tokens that they would have to predict"
            );
            let fix = "set train.objective to \"masked\"";
            found.push(contradiction(&keys, message, fix.into()));
        } else if masked && !model.mlm_head {
            let message = "`model.mlm_head` is false, but it is what names masked tokens".into();
            found.push(contradiction(
                &["model.mlm_head"],
                message,
                "leave it out".into(),
            ));
        } else if masked && model.pooler {
            let message = "`model.pooler` is true, but nothing that masked tokens teach reaches it";
            let fix = "leave it out; a checkpoint that has one can still be started from";
            found.push(contradiction(&["model.pooler"], message.into(), fix.into()));
        }
    }

    fn check_paths(&self, found: &mut Vec<Contradiction>) {
        if self.name.trim().is_empty() || self.name.contains(['/', '\0', '\n']) {
            let message = format!(
                "`name` is {:?}, but it becomes part of directory names",
                self.name
            );
            found.push(contradiction(
                &["name"],
                message,
                "give the run a short name without slashes".into(),
            ));
        }
        if self.data.path.trim().is_empty() {
            let fix = "set it to a directory that `muster data prepare` has made, such as `path = \"data/shakespeare\"` in [data]";
            found.push(contradiction(
                &["data.path"],
                "`data.path` is not set".into(),
                fix.into(),
            ));
        }
        let fix = "name a directory that every node reaches, or leave the key out: they then lie below the run's own directory";
        check_uri("checkpoint.uri", &self.checkpoint.uri, fix, found);
        let fix = "name a checkpoint's directory that every node reaches, or leave the key out to draw weights from train.seed";
        check_uri("init.from", &self.init.from, fix, found);
    }

    fn check_batch_and_workers(&self, found: &mut Vec<Contradiction>) {
        let (batch, micro) = (self.train.global_batch, self.train.micro_batch);
        if batch == 0 || micro == 0 {
            return;
        }
        if !batch.is_multiple_of(micro) {
            let above = batch.div_ceil(micro).checked_mul(micro);
            let below = batch / micro * micro;
            let near = match (below, above) {
                (0, Some(above)) => above.to_string(),
                (below, Some(above)) => format!("{below} or {above}"),
                (below, None) => below.to_string(),
            };
            let message = format!(
                "`train.global_batch` ({batch}) is not a multiple of `train.micro_batch` ({micro})"
            );
            let fix = format!(
                "set train.global_batch to {near}, or choose a micro-batch that divides {batch}"
            );
            found.push(contradiction(
                &["train.global_batch", "train.micro_batch"],
                message,
                fix,
            ));
            return;
        }
        let (min, max, slots) = (self.workers.min, self.workers.max, self.batch_slots());
        if min > max {
            let message = format!("`workers.min` ({min}) is above `workers.max` ({max})");
            let fix = "raise workers.max or lower workers.min".to_owned();
            found.push(contradiction(&["workers.min", "workers.max"], message, fix));
        }
        if max > slots {
            let message = format!(
                "`workers.max` ({max}) is above the slots of the batch ({slots} = train.global_batch {batch} / train.micro_batch {micro})"
            );
            let fix = format!(
                "every worker trains at least one micro-batch a step: set workers.max to {slots} or less, raise train.global_batch, or lower train.micro_batch"
            );
            found.push(contradiction(
                &["workers.max", "train.global_batch", "train.micro_batch"],
                message,
                fix,
            ));
        }
    }

    fn check_queue(&self, found: &mut Vec<Contradiction>) {
        let user = &self.queue.user;
        if user.contains(char::is_control) || user.trim() != user {
            let message = format!("`queue.user` is {user:?}, but it is shown in lists");
            let fix = "give a name without control characters, and without spaces around it";
            found.push(contradiction(&["queue.user"], message, fix.into()));
        }
    }

    fn check_network(&self, found: &mut Vec<Contradiction>) {
        /// What Linux takes (`IFNAMSIZ`, without the zero at the end).
        const LONGEST: usize = 15;
        let interface = &self.network.interface;
        let fits = |c: char| c.is_ascii_graphic() && !matches!(c, '/' | ':' | ',' | '^' | '=');
        if interface.len() > LONGEST || !interface.chars().all(fits) {
            let message =
                format!("`network.interface` is {interface:?}, but no interface has such a name");
            let fix = "give one that `ip link` lists on every node, or leave it empty";
            found.push(contradiction(&["network.interface"], message, fix.into()));
        }
    }

    fn check_schedule(&self, found: &mut Vec<Contradiction>) {
        let (steps, schedule) = (self.train.steps, &self.schedule);
        let (warmup, decay) = (schedule.warmup_steps, schedule.decay_steps);
        if warmup > steps {
            let message =
                format!("`schedule.warmup_steps` ({warmup}) is above `train.steps` ({steps})");
            let fix =
                "the learning rate would never reach its peak: lower the warm-up, or train longer"
                    .to_owned();
            found.push(contradiction(
                &["schedule.warmup_steps", "train.steps"],
                message,
                fix,
            ));
        } else if schedule.kind == ScheduleKind::Wsd && decay == 0 {
            let message = "`schedule.decay_steps` is 0, but a \"wsd\" schedule decays".to_owned();
            let fix = "set it to the length of the decay, often a tenth of train.steps".to_owned();
            found.push(contradiction(
                &["schedule.decay_steps", "schedule.kind"],
                message,
                fix,
            ));
        } else if schedule.kind == ScheduleKind::Wsd && decay > steps - warmup {
            let message = format!(
                "`schedule.decay_steps` ({decay}) is above the {} steps that warm-up ({warmup}) leaves of `train.steps` ({steps})",
                steps - warmup
            );
            let keys = [
                "schedule.decay_steps",
                "schedule.warmup_steps",
                "train.steps",
            ];
            found.push(contradiction(
                &keys,
                message,
                "shorten the warm-up or the decay, or train longer".into(),
            ));
        } else if schedule.kind != ScheduleKind::Wsd && decay != 0 {
            let message = format!(
                "`schedule.decay_steps` is {decay}, but only a \"wsd\" schedule has a decay of its own"
            );
            let fix = "set `kind = \"wsd\"` in [schedule], or leave decay_steps out".to_owned();
            found.push(contradiction(
                &["schedule.decay_steps", "schedule.kind"],
                message,
                fix,
            ));
        }
    }
}

fn check_uri(key: &str, uri: &str, fix: &str, found: &mut Vec<Contradiction>) {
    let supported = match uri.split_once("://") {
        None => true,
        Some((scheme, rest)) => scheme == "file" && rest.starts_with('/'),
    };
    if !supported {
        let message = format!(
            "`{key}` is {uri:?}, but this version keeps checkpoints in directories only: a path or file:///absolute/path"
        );
        found.push(contradiction(&[key], message, fix.into()));
    }
}

/// Values that do not go together.
pub(crate) struct Contradiction {
    pub error: SpecError,
    /// The keys that take part, the one to change first.
    pub keys: Vec<String>,
}

fn contradiction(keys: &[&str], message: String, fix: String) -> Contradiction {
    let first = keys.first().copied().unwrap_or_default();
    Contradiction {
        error: SpecError::new(first, message, fix),
        keys: keys.iter().map(|&key| key.to_owned()).collect(),
    }
}
