use muster_arch::Init;
use muster_types::Seed;
use tch::{TchError, Tensor, no_grad};

use crate::counter;

/// Sets initialisation apart from the other uses of a run's seed.
const PURPOSE: u64 = 0x696e_6974;

/// Fewer elements than this are not worth a thread.
const ELEMENTS_PER_THREAD: usize = 1 << 16;

/// Overwrites a parameter with its initial values. `index`: its place in the table.
pub(crate) fn fill(tensor: &Tensor, init: Init, seed: Seed, index: u64) -> Result<(), TchError> {
    let values = match init {
        Init::Zeros => Tensor::f_zeros_like(tensor)?,
        Init::Ones => Tensor::f_ones_like(tensor)?,
        Init::Normal { std } => {
            let key = counter::key(&[PURPOSE, seed.get(), index]);
            Tensor::f_from_slice(&normal(key, tensor.numel(), std))?.f_view_as(tensor)?
        }
    };
    no_grad(|| tensor.shallow_clone().f_copy_(&values))
}

/// `count` normal draws of a key, made on as many threads as the machine has; which thread makes a draw does not show.
fn normal(key: u64, count: usize, std: f64) -> Vec<f32> {
    let mut values = vec![0.0; count];
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    let chunk = count
        .div_ceil(threads)
        .max(ELEMENTS_PER_THREAD)
        .next_multiple_of(2);
    std::thread::scope(|scope| {
        for (place, chunk_values) in values.chunks_mut(chunk).enumerate() {
            scope.spawn(move || {
                let first_pair = (place * chunk / 2) as u64;
                for (pair, two) in (first_pair..).zip(chunk_values.chunks_mut(2)) {
                    let (a, b) = counter::normal_pair(key, pair);
                    two[0] = (a * std) as f32;
                    if let Some(second) = two.get_mut(1) {
                        *second = (b * std) as f32;
                    }
                }
            });
        }
    });
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_draw_depends_on_its_index_alone() {
        let long = normal(3, 3 * ELEMENTS_PER_THREAD + 5, 0.02);
        let short = normal(3, 1001, 0.02);
        assert_eq!(long[..1001], short[..]);
        let (a, b) = counter::normal_pair(3, ELEMENTS_PER_THREAD as u64);
        assert_eq!(
            long[2 * ELEMENTS_PER_THREAD..][..2],
            [(a * 0.02) as f32, (b * 0.02) as f32]
        );
    }
}
