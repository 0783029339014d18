use std::ops::Range;

use muster_types::{Digest, JobId, StateId, Step};

use super::rng::mixed;

/// The bits of a model and its optimizer, as far as it matters which they are: a hash over everything that made them.
pub type Content = u64;

/// What a job starts from.
pub fn initial(job: JobId) -> Content {
    mixed(&[1, number_of(job)])
}

/// What a step makes of a state. World size and order of the sum change the bits, so the generation is in it.
pub fn trained(before: Content, state: StateId, evidence: u64) -> Content {
    mixed(&[
        2,
        before,
        state.generation.get(),
        state.step.get(),
        evidence,
    ])
}

/// What is left of a state that was overwritten in part.
pub fn half(before: Content, by: Content) -> Content {
    mixed(&[3, before, by])
}

/// What a collective leaves that an aborted peer let complete.
pub fn garbage(before: Content, state: StateId) -> Content {
    mixed(&[4, before, state.generation.get(), state.step.get()])
}

/// Evidence that these positions were fed.
pub fn evidence(range: &Range<u64>) -> u64 {
    range
        .clone()
        .fold(0, |sum, position| sum.wrapping_add(mixed(&[5, position])))
}

/// Tokens that count in these positions: they differ, so that a step counted twice or never shows.
pub fn tokens(range: &Range<u64>) -> u64 {
    range.clone().map(|position| 10 + position % 7).sum()
}

/// Spikes are among the samples before this one: a job that skips them comes through.
const LAST_SPIKE: u64 = 600;

/// Whether the batch that begins here is a spike.
pub fn is_spike(seed: u64, one_of: u64, step: Step, start: u64) -> bool {
    one_of > 0
        && start < LAST_SPIKE
        && step > Step(3)
        && mixed(&[6, seed, start]).is_multiple_of(one_of)
}

/// The digest of a part of a checkpoint tells the content that it was made of.
pub fn digest(content: Content, rank: u32, world_size: u32) -> Digest {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&content.to_le_bytes());
    bytes[8..12].copy_from_slice(&rank.to_le_bytes());
    bytes[12..16].copy_from_slice(&world_size.to_le_bytes());
    Digest::new(bytes)
}

/// The content that a part was made of.
pub fn content_of(digest: &Digest) -> Content {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&digest.as_bytes()[..8]);
    Content::from_le_bytes(bytes)
}

fn number_of(job: JobId) -> u64 {
    job.to_string()
        .bytes()
        .fold(7, |all, byte| mixed(&[all, byte.into()]))
}
