//! One file a command.

pub mod agent;
pub mod audit;
pub mod certs;
pub mod checkpoint;
pub mod config;
pub mod coordinator;
pub mod cordon;
pub mod data;
pub mod events;
pub mod generate;
pub mod health;
pub mod jobs;
pub mod journal;
pub mod logs;
pub mod nodes;
pub mod resume;
pub mod run;
pub mod shim;
pub mod status;
pub mod stop;
pub mod submit;
pub mod token;
pub mod uncordon;
pub mod wait;
