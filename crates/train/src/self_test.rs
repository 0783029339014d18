//! Whether a device computes what it should: a matrix product with a known result.

use tch::{Device, Kind, Tensor};

/// Large enough to keep many cores of a GPU busy, and small enough to take milliseconds on a CPU.
const SIZE: i64 = 256;
/// A fault may come and go.
const ROUNDS: usize = 3;

/// The device cannot be trusted with a model.
#[derive(Debug, thiserror::Error)]
pub enum SelfTestError {
    /// libtorch refused.
    #[error("libtorch refused: {0}")]
    Torch(#[from] tch::TchError),
    /// It computed something else.
    #[error(
        "{device} computes wrongly: {wrong} of {all} elements of a product of small whole numbers differ, the first at \
         ({row}, {column}): {found} instead of {expected}"
    )]
    Wrong {
        /// `Cpu`, or `Cuda(INDEX)`.
        device: String,
        /// How many elements differ.
        wrong: usize,
        /// Of so many.
        all: usize,
        /// Where the first one is.
        row: usize,
        /// Where the first one is.
        column: usize,
        /// What the device says.
        found: f32,
        /// What it is.
        expected: f32,
    },
}

/// Multiplies matrices of small whole numbers, whose product is exact in every precision that a device may use, and compares
/// each element with what integers give. It takes some milliseconds.
///
/// # Errors
/// When libtorch refuses, or an element differs.
pub fn self_test(device: Device) -> Result<(), SelfTestError> {
    let (left, right): (Vec<i64>, Vec<i64>) = (0..SIZE * SIZE)
        .map(|at| {
            (
                left_of(at / SIZE, at % SIZE),
                right_of(at / SIZE, at % SIZE),
            )
        })
        .unzip();
    let expected = product(&left, &right);
    let matrix = |values: &[i64]| -> Result<Tensor, tch::TchError> {
        Tensor::f_from_slice(values)?
            .f_reshape([SIZE, SIZE])?
            .f_to_kind(Kind::Float)?
            .f_to_device(device)
    };
    let (left, right) = (matrix(&left)?, matrix(&right)?);
    for _ in 0..ROUNDS {
        let found = left.f_matmul(&right)?.f_reshape([SIZE * SIZE])?;
        let mut values = vec![0f32; expected.len()];
        found
            .f_to_device(Device::Cpu)?
            .f_copy_data(&mut values, expected.len())?;
        compare(device, &values, &expected)?;
    }
    Ok(())
}

fn left_of(row: i64, column: i64) -> i64 {
    (row * 7 + column * 3) % 13 - 6
}

fn right_of(row: i64, column: i64) -> i64 {
    (row * 5 + column * 11) % 17 - 8
}

/// At most 256 x 6 x 8, which bfloat16 sums in single precision hold exactly.
fn product(left: &[i64], right: &[i64]) -> Vec<f32> {
    let size = SIZE as usize;
    let mut sums = vec![0i64; size * size];
    for (left, sums) in left.chunks(size).zip(sums.chunks_mut(size)) {
        for (factor, right) in left.iter().zip(right.chunks(size)) {
            for (sum, right) in sums.iter_mut().zip(right) {
                *sum += factor * right;
            }
        }
    }
    sums.into_iter().map(|sum| sum as f32).collect()
}

fn compare(device: Device, found: &[f32], expected: &[f32]) -> Result<(), SelfTestError> {
    // NaN differs from everything.
    let differs = |at: &usize| found[*at] != expected[*at];
    let wrong: Vec<usize> = (0..expected.len()).filter(differs).collect();
    let Some(first) = wrong.first().copied() else {
        return Ok(());
    };
    Err(SelfTestError::Wrong {
        device: format!("{device:?}"),
        wrong: wrong.len(),
        all: expected.len(),
        row: first / SIZE as usize,
        column: first % SIZE as usize,
        found: found[first],
        expected: expected[first],
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn this_machine_computes_rightly_and_soon() {
        let since = std::time::Instant::now();
        self_test(Device::Cpu).unwrap();
        // Under 100 ms where nothing else wants the cores.
        assert!(since.elapsed().as_secs() < 5, "{:?}", since.elapsed());
    }

    #[test]
    fn one_wrong_element_is_found_and_named() {
        let expected = vec![4.0f32; 600];
        let mut found = expected.clone();
        (found[257], found[300]) = (4.5, f32::NAN);
        let error = compare(Device::Cpu, &found, &expected).unwrap_err();
        assert_eq!(
            error.to_string(),
            "Cpu computes wrongly: 2 of 600 elements of a product of small whole numbers differ, the first at (1, 1): 4.5 \
             instead of 4"
        );
        assert!(compare(Device::Cpu, &expected, &expected).is_ok());
    }
}
