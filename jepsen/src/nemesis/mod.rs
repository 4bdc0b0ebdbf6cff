//! What is done to a cluster, and when: kinds of faults, schedules drawn from a seed, and their execution.
//!
//! A schedule says what is planned; who is hit is found out when a fault begins, and written down in the history. Rules
//! keep faults from destroying what no store could keep: at most one disk is lost at a time, and its data is on a majority
//! of the others before the next one goes.

mod begin;
mod display;
mod executor;
mod exits;
mod kind;
mod links;
mod members;
mod real;
mod schedule;
mod undo;
mod victim;

pub use begin::OF_THE_LEADER;
pub use executor::{Executor, Told};
pub use kind::{Group, Kind};
pub use real::{Calls as ApiCalls, Elsewhere, Own};
pub use schedule::{Behind, Blow, Calls, Cut, Force, Parameters, Planned, Schedule, Shape, Target};
pub use victim::{Api, Exit, Side, Victim};

#[cfg(test)]
mod executor_test;
