//! Who comes in: the listener knows callers by their certificates, the guard by their tokens, and says who may call what.

mod caller;
mod guard;
mod listener;
mod preface;
mod table;

pub(crate) use caller::Caller;
pub(crate) use guard::{Guard, GuardLayer};
pub(crate) use listener::Listener;
