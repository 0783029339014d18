//! The node agent: offers slots, starts, watches and ends workers.
