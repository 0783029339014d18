//! Which steps look wrong, judged by those before them.
//!
//! The verdict is part of the step that all ranks agree on: it follows from the summed loss, the norm of the summed gradient,
//! and a window of the steps before. The window is part of the training state, so that a resumed or healed run judges alike.

use muster_model::NamedTensor;
use tch::{Device, Kind, TchError, Tensor};

/// Its name in a state.
pub(crate) const GUARD_WINDOW: &str = "guard.window";
/// So many of the last steps are remembered.
const WINDOW: usize = 64;
/// From so many on, there is something to judge by.
const ARMED_FROM: usize = 32;
/// The median absolute deviation of a normal distribution, as a share of its standard deviation.
const NORMAL_DEVIATION: f64 = 0.6745;
/// Deviations below this share of the median are noise: without it, a loss that stands still would make anything a spike.
const LEAST_DEVIATION: f64 = 1e-3;

/// What a step looks like beside those before it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Verdict {
    /// Like them, or there are too few.
    Fine,
    /// Its loss or gradient is not finite.
    NotFinite,
    /// It stands out.
    Spike(Scores),
}

/// Robust z-scores (Iglewicz and Hoaglin 1993): distances above the median, in scaled median absolute deviations.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Scores {
    /// Of the mean loss.
    pub loss: f64,
    /// Of the logarithm of the gradient's norm.
    pub gradient_norm: f64,
}

/// The window of steps that a step is judged by.
pub(crate) struct Guard {
    /// [2 * WINDOW + 1], f64: losses, logarithms of norms, and the count of steps ever noted. On the state's device.
    window: Tensor,
    /// The same, as long as nobody else has written to the tensor.
    known: Option<Vec<f64>>,
}

impl Guard {
    pub(crate) fn new(device: Device) -> Result<Self, TchError> {
        Ok(Self {
            window: Tensor::f_zeros([2 * WINDOW as i64 + 1], (Kind::Double, device))?,
            known: None,
        })
    }

    /// Back to before the first step.
    pub(crate) fn reset(&mut self) -> Result<(), TchError> {
        self.known = None;
        self.window.f_zero_().map(drop)
    }

    /// The tensor may have been written to.
    pub(crate) fn forget(&mut self) {
        self.known = None;
    }

    /// Its state; the tensor is live.
    pub(crate) fn tensor(&self) -> NamedTensor {
        NamedTensor {
            name: GUARD_WINDOW.into(),
            tensor: self.window.shallow_clone(),
        }
    }

    /// Judges a step before it is applied. `loss` is its mean loss, absent where it is not finite.
    pub(crate) fn judge(
        &mut self,
        loss: Option<f64>,
        gradient_norm: f64,
        threshold: f64,
    ) -> Result<Verdict, TchError> {
        let Some(loss) = loss.filter(|loss| loss.is_finite() && gradient_norm.is_finite()) else {
            return Ok(Verdict::NotFinite);
        };
        let known = self.known()?;
        let filled = filled(known);
        if filled < ARMED_FROM {
            return Ok(Verdict::Fine);
        }
        let scores = Scores {
            loss: score(&known[..filled], loss),
            gradient_norm: score(&known[WINDOW..WINDOW + filled], logarithm(gradient_norm)),
        };
        Ok(if scores.loss.max(scores.gradient_norm) > threshold {
            Verdict::Spike(scores)
        } else {
            Verdict::Fine
        })
    }

    /// Remembers a step that was applied.
    pub(crate) fn note(&mut self, loss: f64, gradient_norm: f64) -> Result<(), TchError> {
        let known = self.known()?;
        let seen = known[2 * WINDOW];
        let place = seen as usize % WINDOW;
        let changes = [
            (place, loss),
            (WINDOW + place, logarithm(gradient_norm)),
            (2 * WINDOW, seen + 1.0),
        ];
        for (place, value) in changes {
            known[place] = value;
        }
        for (place, value) in changes {
            self.window
                .f_narrow(0, place as i64, 1)?
                .f_fill_(value)
                .map(drop)?;
        }
        Ok(())
    }

    fn known(&mut self) -> Result<&mut [f64], TchError> {
        let known = match self.known.take() {
            Some(known) => known,
            None => {
                let mut known = vec![0.0; 2 * WINDOW + 1];
                let length = known.len();
                let here = self.window.f_to_device(Device::Cpu)?;
                here.f_copy_data(&mut known, length)?;
                known
            }
        };
        Ok(self.known.insert(known))
    }
}

fn filled(known: &[f64]) -> usize {
    (known[2 * WINDOW] as usize).min(WINDOW)
}

/// Norms spread over magnitudes; of zero there is no logarithm.
fn logarithm(norm: f64) -> f64 {
    norm.max(f64::MIN_POSITIVE).ln()
}

fn score(window: &[f64], value: f64) -> f64 {
    let middle = median(window.to_vec());
    let deviation = median(window.iter().map(|it| (it - middle).abs()).collect());
    let least = LEAST_DEVIATION * middle.abs().max(1.0);
    NORMAL_DEVIATION * (value - middle) / deviation.max(least)
}

/// The median of at least one number.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let half = values.len() / 2;
    if values.len().is_multiple_of(2) {
        f64::midpoint(values[half - 1], values[half])
    } else {
        values[half]
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn guard(steps: usize) -> Guard {
        let mut guard = Guard::new(Device::Cpu).unwrap();
        for step in 0..steps {
            let (loss, norm) = at(step);
            assert_eq!(guard.judge(Some(loss), norm, 10.0).unwrap(), Verdict::Fine);
            guard.note(loss, norm).unwrap();
        }
        guard
    }

    /// Some noise around a slow descent.
    fn at(step: usize) -> (f64, f64) {
        let noise = ((step * 37) % 11) as f64 / 11.0 - 0.5;
        (4.0 - 0.002 * step as f64 + 0.1 * noise, 1.0 + 0.2 * noise)
    }

    #[test]
    fn a_spike_stands_out_and_ordinary_steps_do_not() {
        let mut guard = guard(300);
        let judged = guard.judge(Some(6.0), 1.0, 10.0).unwrap();
        let Verdict::Spike(scores) = judged else {
            panic!("{judged:?}")
        };
        assert!(
            scores.loss > 20.0 && scores.gradient_norm < 2.0,
            "{scores:?}"
        );
        let judged = guard.judge(Some(3.4), 50.0, 10.0).unwrap();
        assert!(matches!(judged, Verdict::Spike(scores) if scores.gradient_norm > 10.0));
        // Better than ever is no spike.
        assert_eq!(guard.judge(Some(1.0), 0.01, 10.0).unwrap(), Verdict::Fine);
    }

    #[test]
    fn what_is_not_finite_is_seen_from_the_first_step_on() {
        let mut guard = guard(0);
        for (loss, norm) in [
            (None, 1.0),
            (Some(1.0), f64::NAN),
            (Some(1.0), f64::INFINITY),
        ] {
            assert_eq!(guard.judge(loss, norm, 10.0).unwrap(), Verdict::NotFinite);
        }
        assert_eq!(guard.judge(Some(1e9), 1e9, 10.0).unwrap(), Verdict::Fine);
    }

    #[test]
    fn a_loss_that_stands_still_does_not_make_noise_a_spike() {
        let mut guard = guard(0);
        for _ in 0..WINDOW {
            guard.note(2.0, 1.0).unwrap();
        }
        assert_eq!(guard.judge(Some(2.01), 1.0, 10.0).unwrap(), Verdict::Fine);
    }

    #[test]
    fn whoever_takes_the_tensor_over_judges_alike() {
        let mut one = guard(100);
        let mut other = guard(3);
        other.tensor().tensor.copy_(&one.tensor().tensor);
        other.forget();
        for value in [3.7, 3.9, 4.4, 5.0] {
            let verdict = one.judge(Some(value), 1.1, 3.0).unwrap();
            assert_eq!(other.judge(Some(value), 1.1, 3.0).unwrap(), verdict);
        }
        one.reset().unwrap();
        assert_eq!(one.judge(Some(90.0), 1.0, 3.0).unwrap(), Verdict::Fine);
    }
}
