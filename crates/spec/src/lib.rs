//! The run spec: layered, validated, with errors that show the line.

mod run_spec;

pub use run_spec::*;
