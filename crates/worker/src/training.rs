//! The training thread: gets warm, then lives through one generation after the other without leaving the process.

use std::{
    path::Path,
    sync::{Arc, mpsc::Receiver, mpsc::Sender},
    time::Duration,
};

use muster_access::Connection;
use muster_c10d::{GlooAddress, Group, GroupOptions};
use muster_data::Dataset;
use muster_proto::v1::{self, Activity, worker_message::Kind};
use muster_spec::{Objective, RunSpec};
use muster_store::Location;
use muster_train::Trainer;
use muster_types::{Generation, Seed, StateId, Step};
use tch::Device;
use tokio::runtime::Handle;
use tracing::{info, warn};

use crate::{
    control::{Identity, to_proto},
    error::GenerationError,
    feed::Feed,
    generation::{Departure, Member, Workbench, form_group, phase},
    heal::{Damage, HealError},
    membership::Membership,
    reach,
    rendezvous::RendezvousStore,
    saver::Saver,
    shared::{Directive, Shared},
};

/// Why a worker cannot work at all. Ends the process.
#[derive(Debug, thiserror::Error)]
pub enum Fatal {
    /// What the coordinator sent cannot be used.
    #[error("the coordinator's answer cannot be used: {0}")]
    Protocol(String),
    /// The dataset cannot be read.
    #[error("cannot use the dataset {path}: {source}")]
    Data {
        /// Its directory.
        path: String,
        /// What is wrong.
        source: crate::feed::FeedError,
    },
    /// The model or its state cannot be made.
    #[error("cannot build the training state: {0}")]
    Train(#[from] muster_train::TrainError),
    /// The machine's numerics cannot be set up.
    #[error("cannot set up libtorch: {0}")]
    Numerics(#[from] muster_ops::OpsError),
    /// The device does not compute what it should. Its slot is to blame, and not the job.
    #[error("self-test: {0}")]
    SelfTest(#[from] muster_train::SelfTestError),
    /// A rank that is ill stays out: the coordinator replaces it.
    #[error(transparent)]
    Generation(#[from] GenerationError),
    /// The last checkpoint cannot be written.
    #[error("the final checkpoint could not be written: {0}")]
    FinalSave(String),
    /// The system refused.
    #[error("the system refused: {0}")]
    System(#[from] std::io::Error),
}

impl Fatal {
    /// 2 where trying again cannot help.
    pub fn exit_code(&self) -> i32 {
        match self {
            Self::Protocol(_) | Self::Data { .. } | Self::Train(_) => 2,
            _ => 1,
        }
    }
}

/// Who and where this worker is.
pub struct Surroundings {
    /// Its names.
    pub identity: Identity,
    /// What it trains on.
    pub device: Device,
    /// CPU threads.
    pub threads: u32,
    /// The way to the coordinator.
    pub connection: Connection,
    /// The control thread's runtime.
    pub runtime: Handle,
}

/// Runs until the worker leaves its job. Returns why it left.
///
/// # Errors
/// See [`Fatal`].
pub fn run(
    surroundings: &Surroundings,
    shared: &Arc<Shared>,
    inbox: &Receiver<Directive>,
    to_self: Sender<Directive>,
) -> Result<String, Fatal> {
    let welcome = loop {
        match inbox.recv() {
            Ok(Directive::Start(welcome)) => break welcome,
            Ok(Directive::Leave(reason)) => return Ok(reason),
            Ok(_) => {}
            Err(_) => return Ok("the control thread has ended".into()),
        }
    };
    let mut worker = Worker::warm_up(surroundings, shared, to_self, &welcome)?;
    loop {
        shared.pulse.enter(Activity::Idle);
        let reason = match inbox.recv() {
            Ok(Directive::Form(generation, form)) => match worker.live_through(generation, form)? {
                Some(reason) => reason,
                None => continue,
            },
            Ok(Directive::Acknowledged(state)) if worker.completed == Some(state) => {
                "every step is done".into()
            }
            Ok(Directive::SaveFailed(state, cause)) if worker.completed == Some(state) => {
                return Err(Fatal::FinalSave(cause));
            }
            Ok(Directive::Leave(reason)) => reason,
            Ok(_) => continue,
            Err(_) => return Ok("the control thread has ended".into()),
        };
        // The bound on what comes after `Left` is short; that on saving is the stop's own.
        worker.saver.drain();
        worker.say_left(&reason);
        return Ok(reason);
    }
}

struct Worker<'a> {
    surroundings: &'a Surroundings,
    shared: &'a Arc<Shared>,
    spec: RunSpec,
    trainer: Trainer,
    feed: Feed,
    saver: Saver,
    checkpoints: Location,
    generation: Generation,
    /// The newest step that this rank is known to have reached.
    step: Step,
    /// The last state of the run, once it is reached. The worker leaves when its part of that state's checkpoint is on
    /// record; until then a peer may die, and a new generation be formed that saves it again.
    completed: Option<StateId>,
    /// The collectives of a generation that this rank cannot go on in, until the next one is formed.
    parked: Option<Group>,
}

impl<'a> Worker<'a> {
    /// Everything that needs no peer: libtorch, model, data.
    fn warm_up(
        surroundings: &'a Surroundings,
        shared: &'a Arc<Shared>,
        to_self: Sender<Directive>,
        welcome: &v1::Welcome,
    ) -> Result<Self, Fatal> {
        shared.pulse.enter(Activity::Loading);
        shared.say(Generation(0), phase("loading", Step(0)));
        let spec: RunSpec = serde_json::from_str(&welcome.spec_json)
            .map_err(|error| Fatal::Protocol(error.to_string()))?;
        let checkpoints = Location::parse(&welcome.checkpoint_root)
            .map_err(|error| Fatal::Protocol(error.to_string()))?
            .join(&surroundings.identity.job);
        let fingerprint =
            muster_train::numerics::configure(surroundings.device, surroundings.threads)?;
        muster_train::self_test(surroundings.device)?;
        let wrong = |source| Fatal::Data {
            path: spec.data.path.clone(),
            source,
        };
        let dataset =
            Dataset::open(Path::new(&spec.data.path)).map_err(|error| wrong(error.into()))?;
        let feed =
            Feed::new(dataset, Seed(spec.train.seed), spec.model.context_length).map_err(wrong)?;
        let mut trainer = Trainer::new(&spec, surroundings.device)?;
        if spec.train.objective == Objective::Masked {
            trainer.mask_with(feed.masking(&spec).map_err(wrong)?);
        }
        let saver = Saver::start(shared.clone(), to_self)?;
        info!(fingerprint, "warm");
        let warm = v1::Warm {
            numerics_fingerprint: fingerprint,
            reach_address: reach::listen(
                &surroundings.runtime,
                &surroundings.identity.collective_address,
                &spec.network.interface,
            ),
        };
        shared.say(Generation(0), Kind::Warm(warm));
        Ok(Self {
            surroundings,
            shared,
            spec,
            trainer,
            feed,
            saver,
            checkpoints,
            generation: Generation(0),
            step: Step(0),
            completed: None,
            parked: None,
        })
    }

    /// One generation. Returns a reason where the worker leaves the job with it.
    fn live_through(
        &mut self,
        generation: Generation,
        form: v1::Form,
    ) -> Result<Option<String>, Fatal> {
        // Every candidate has fenced by now.
        self.parked = None;
        let membership = Membership::from_wire(generation, form).map_err(Fatal::Protocol)?;
        (self.generation, self.step, self.completed) = (generation, membership.resume.step, None);
        let departure = self.train(membership);
        // Whatever comes now, this generation's collectives are not used any more.
        self.shared.use_group(None);
        match departure {
            Ok(Departure::Boundary(state)) => {
                self.step = state.step;
                self.shared.say(
                    generation,
                    Kind::AtBoundary(v1::AtBoundary {
                        state: Some(to_proto(state)),
                    }),
                );
                Ok(None)
            }
            Ok(Departure::Job(state)) => {
                self.step = state.step;
                Ok(Some("asked to leave".into()))
            }
            Ok(Departure::Tripped(state)) => {
                self.step = state.step;
                Ok(None)
            }
            Ok(Departure::Complete(state)) => {
                (self.step, self.completed) = (state.step, Some(state));
                self.shared.say(generation, phase("saving", state.step));
                Ok(None)
            }
            Err(error) => self.report(generation, error).map(|()| None),
        }
    }

    fn train(&mut self, membership: Membership) -> Result<Departure, GenerationError> {
        let Surroundings {
            identity,
            device,
            connection,
            runtime,
            ..
        } = self.surroundings;
        let generation = membership.generation;
        self.shared
            .say(generation, phase("building", membership.resume.step));
        let scope = v1::StoreScope {
            job_id: identity.job.clone(),
            generation: generation.get(),
            worker_id: identity.worker.to_string(),
        };
        let store = Arc::new(RendezvousStore::new(
            runtime.clone(),
            connection.clone(),
            scope,
        ));
        let patience = Duration::from_secs(self.spec.workers.collective_timeout_seconds.into());
        let options = GroupOptions {
            device: *device,
            timeout: patience,
            form_timeout: patience,
            address: match self.spec.network.interface.as_str() {
                "" => GlooAddress::Host(identity.collective_address.clone()),
                interface => GlooAddress::Interface(interface.to_owned()),
            },
            ..GroupOptions::new(membership.rank.get(), membership.world_size.get())
        };
        let group = form_group(self.shared, generation, store, &options)?;
        let outcome = self.take_part(membership, group.as_ref());
        if outcome.is_err() {
            // Dropping it would abort it, and nobody aborts before all have fenced.
            self.parked = group;
        }
        outcome
    }

    fn take_part(
        &mut self,
        membership: Membership,
        group: Option<&Group>,
    ) -> Result<Departure, GenerationError> {
        let bench = Workbench {
            spec: &self.spec,
            trainer: &mut self.trainer,
            feed: &self.feed,
            shared: self.shared,
            saver: &self.saver,
            checkpoints: &self.checkpoints,
            runtime: &self.surroundings.runtime,
        };
        Member::join(bench, membership, group)?.train()
    }

    /// Says why this rank cannot go on in the generation. A rank whose peers failed waits for the next generation with what
    /// it holds; one that is itself ill ends, and is replaced.
    fn report(&mut self, generation: Generation, error: GenerationError) -> Result<(), Fatal> {
        let class = error.class();
        if let Err(clearing) = self.trainer.drop_step() {
            return Err(GenerationError::from(clearing).into());
        }
        if matches!(error, GenerationError::Superseded(_)) || self.shared.fence.is_over(generation)
        {
            info!(%generation, %error, "the step in flight is dropped");
            return Ok(());
        }
        warn!(%generation, class, %error, "cannot go on in this generation");
        if let GenerationError::Heal(HealError::Checkpoint {
            uri,
            state,
            damage,
            cause,
        }) = error
        {
            let corrupt = damage == Damage::Corrupt;
            let unreadable = v1::Unreadable {
                uri,
                state: Some(to_proto(state)),
                cause,
                corrupt,
            };
            self.shared.say(generation, Kind::Unreadable(unreadable));
            return Ok(());
        }
        if let GenerationError::Diverged { step, mine, .. } = error {
            let diverged = v1::Diverged {
                step: step.get(),
                state_hash: mine,
            };
            self.shared.say(generation, Kind::Diverged(diverged));
            return Ok(());
        }
        if let GenerationError::Heal(HealError::Diverged { mine, .. }) = error {
            // The coordinator compares the hashes, puts the minority out and forms the next generation.
            let ready = v1::Ready {
                state_hash: mine,
                ..v1::Ready::default()
            };
            self.shared.say(generation, Kind::Ready(ready));
            return Ok(());
        }
        let failed = v1::Failed {
            cause: error.to_string(),
            class: class.into(),
            phase: error.phase().into(),
            step: self.step.get(),
        };
        self.shared.say(generation, Kind::Failed(failed));
        if class == "collective" {
            Ok(())
        } else {
            Err(error.into())
        }
    }

    fn say_left(&self, reason: &str) {
        let left = v1::Left {
            reason: reason.into(),
            step: self.step.get(),
        };
        self.shared.say(self.generation, Kind::Left(left));
    }
}
