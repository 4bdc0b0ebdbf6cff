//! Checkers against histories: recorded ones whose verdicts are known, made ones that are right, and these with one thing
//! wrong.

mod exhaustive;
mod formats;
mod good;
mod mutants;
mod mutate;
mod mutate_scans;
mod recorded;
mod simulate;
mod speed;
