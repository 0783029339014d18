//! Writes this rank's parts of checkpoints while training goes on.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        mpsc::{Sender, SyncSender, sync_channel},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use muster_checkpoint::FileEntry;
use muster_proto::v1::{self, worker_message::Kind};
use muster_train::Snapshot;
use muster_types::{Generation, Rank, StateId, WorldSize};
use tracing::{info, warn};

use crate::{
    control::to_proto,
    shared::{Directive, Shared},
};

/// Between two tries.
const PAUSE: Duration = Duration::from_secs(2);

/// One part to be written.
pub struct Save {
    /// The copied tensors.
    pub snapshot: Snapshot,
    /// The checkpoint's directory.
    pub directory: PathBuf,
    /// Whose state it is.
    pub state: StateId,
    /// This rank in the generation that saves.
    pub rank: Rank,
    /// Parts in all.
    pub world_size: WorldSize,
    /// The generation that saves.
    pub generation: Generation,
    /// How often it is tried.
    pub tries: u32,
}

/// A thread that writes one part after the other and reports each. Dropping the saver waits until what was handed to it
/// is written. A failed write is reported and costs nothing else.
pub struct Saver {
    queue: Option<SyncSender<Save>>,
    thread: Option<JoinHandle<()>>,
}

impl Saver {
    /// Starts the thread. `training` hears of parts that could not be written.
    ///
    /// # Errors
    /// Where the system gives no thread.
    pub fn start(shared: Arc<Shared>, training: Sender<Directive>) -> std::io::Result<Self> {
        // One part waits while another is written: a third would cost memory, so it holds training up instead.
        let (queue, saves) = sync_channel::<Save>(1);
        let thread = std::thread::Builder::new()
            .name("saver".into())
            .spawn(move || {
                for save in saves {
                    write(&shared, &training, save);
                }
            })?;
        Ok(Self {
            queue: Some(queue),
            thread: Some(thread),
        })
    }

    /// Hands a part over.
    pub fn save(&self, save: Save) {
        if let Some(queue) = &self.queue {
            // The thread ends only with the saver.
            let _ = queue.send(save);
        }
    }

    /// Returns when every part that was handed over is written, or has failed for good. Nothing is taken after that.
    pub fn drain(&mut self) {
        self.queue = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Saver {
    fn drop(&mut self) {
        self.drain();
    }
}

fn write(shared: &Shared, training: &Sender<Directive>, save: Save) {
    let start = Instant::now();
    let Save {
        snapshot,
        directory,
        state,
        rank,
        world_size,
        generation,
        tries,
    } = save;
    let mut written = snapshot.write(&directory);
    for _ in 1..tries {
        if written.is_ok() {
            break;
        }
        std::thread::sleep(PAUSE);
        written = snapshot.write(&directory);
    }
    let write_ms = start.elapsed().as_millis() as u32;
    match written {
        Ok(entry) => {
            info!(step = %state.step, file = entry.file, bytes = entry.bytes, write_ms, "checkpoint part written");
            shared.say(
                generation,
                Kind::PartWritten(part(state, rank, world_size, entry, write_ms)),
            );
        }
        Err(error) => {
            warn!(step = %state.step, %error, "checkpoint part not written; training goes on");
            let cause = error.to_string();
            shared.say(
                generation,
                Kind::PartFailed(v1::PartFailed {
                    state: Some(to_proto(state)),
                    rank: rank.get(),
                    cause: cause.clone(),
                }),
            );
            let _ = training.send(Directive::SaveFailed(state, cause));
        }
    }
}

fn part(
    state: StateId,
    rank: Rank,
    world_size: WorldSize,
    entry: FileEntry,
    write_ms: u32,
) -> v1::PartWritten {
    let tensors = entry.tensors.into_iter().map(|tensor| v1::TensorDigest {
        name: tensor.name,
        dtype: tensor.dtype,
        shape: tensor.shape,
        digest: tensor.digest.to_string(),
    });
    v1::PartWritten {
        state: Some(to_proto(state)),
        rank: rank.get(),
        world_size: world_size.get(),
        file: entry.file,
        bytes: entry.bytes,
        digest: entry.digest.to_string(),
        tensors: tensors.collect(),
        write_ms,
    }
}
