//! One rank of a job.
fn main() {}
