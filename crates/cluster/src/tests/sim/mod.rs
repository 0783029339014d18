//! A simulation of a coordinator, its agents and their workers, over a simulated network, clock and disk.
//!
//! The core is the real one; all around it is made of the same rules as the shells, and of a seed. In the first phase things go
//! wrong as the seed has it; then nothing does any more, and everything has to come to its end. What must always hold is looked
//! at after each event ([`violation::Invariant`]); [`mutations`] shows that a core or a shell that breaks a rule is found.

mod agents;
mod cases;
mod checks;
mod collectives;
mod content;
mod control;
mod coordinator;
mod coverage;
mod faults;
mod joining;
mod mutations;
mod network;
mod oracle;
mod plan;
mod rng;
mod run;
mod sabotage;
mod saver;
mod seeds;
mod storage;
mod trace;
mod training;
mod violation;
mod worker;
mod world;
