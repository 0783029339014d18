//! The run spec: layered, validated, with errors that show the line.
//!
//! A spec is made of layers, each over the one before: defaults, the file (TOML, YAML or JSON), environment variables
//! `MUSTER__SECTION__KEY`, and overrides (`--set section.key=value`). [`load`] takes them all and says everything that is
//! wrong at once; [`RunSpec::validate`] checks a spec that came from elsewhere.
//!
//! ```
//! use muster_spec::{Format, load};
//!
//! let text = "data.path = \"data/shakespeare\"\n[train]\nsteps = 200\n";
//! let overrides = [("train.seed".to_string(), "7".to_string())];
//! let spec = load(text, "quick.toml", Format::Toml, [], &overrides).unwrap();
//! assert_eq!((spec.train.steps, spec.train.seed), (200, 7));
//!
//! let wrong = load("[train]\nstepz = 200\n", "quick.toml", Format::Toml, [], &[]).unwrap_err();
//! assert_eq!(wrong.message, "unknown key `train.stepz`");
//! assert_eq!(wrong.fix, "did you mean `steps`?");
//! ```

mod check;
mod document;
mod error;
mod keys;
mod load;
mod run_spec;
mod suggest;
mod validate;
mod write;

pub use document::Format;
pub use error::{SpecError, SpecErrors};
pub use keys::schema;
pub use load::load;
pub use run_spec::*;
pub use write::to_toml;
