//! Exactly once, by evidence: what a job's history says was fed, against what its data order says should have been.
//!
//! A watermark holds the sum of the evidence of all samples that were really fed up to a state. [`audit`] takes the stretch
//! between two known sums, a window, and compares it with the evidence of that stretch of the data order, which its caller
//! recomputes from the dataset. It shares nothing with the workers but the definition of the data order and of evidence. It
//! also checks that the history itself holds together.

mod audit;
mod flaw;
mod history;
mod line;
mod report;

pub use audit::audit;
pub use flaw::Flaw;
pub use history::{Fact, JobHistory, Standing, StepRecord, Totals};
pub use report::{Difference, Planned, Report, StepDifference, Uncovered, Verdict};
