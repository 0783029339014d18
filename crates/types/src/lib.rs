//! Ids, quantities and the words every part of Muster shares. `ARCHITECTURE.md` fixes the words.

mod digest;
mod id;
mod quantity;
mod slots;
mod state;
mod time;

pub use digest::{Digest, DigestParseError};
pub use id::{JobId, JobIdParseError, NodeName, WorkerId};
pub use quantity::{Generation, Position, Rank, Seed, Step, WorldSize};
pub use slots::{BatchSlots, Segment};
pub use state::StateId;
pub use time::{Monotonic, Now, Timestamp};
