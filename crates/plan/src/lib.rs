//! The data order and its assignment: pure functions of seed, step and membership.
//!
//! A step trains consecutive positions ([`positions`]), cut into micro-batch slots ([`slot_positions`]) that are dealt to
//! ranks ([`deal`]). A position names a sample ([`SampleOrder`]). What a rank fed is proved by [`evidence`]. Gradients may be
//! summed along one tree over the slots ([`TreeSum`]), the same for every world size.

mod deal;
mod error;
mod evidence;
mod order;
mod permutation;
mod segments;
mod tree;

pub use deal::deal;
pub use error::PlanError;
pub use evidence::{combine, evidence};
pub use order::{SampleOrder, SampleRef};
pub use segments::{positions, slot_positions};
pub use tree::{Node, TreeSum, tree_nodes};
