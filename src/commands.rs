//! One file a command.

pub mod agent;
pub mod cancel;
pub mod checkpoint;
pub mod completions;
pub mod config;
pub mod coordinator;
pub mod cordon;
pub mod data;
pub mod doctor;
pub mod events;
pub mod generate;
pub mod jobs;
pub mod journal;
pub mod logs;
pub mod man;
pub mod nodes;
pub mod resume;
pub mod run;
pub mod shim;
pub mod status;
pub mod stop;
pub mod submit;
pub mod uncordon;
pub mod wait;
