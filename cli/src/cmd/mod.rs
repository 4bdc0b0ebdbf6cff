//! One file or folder per command.

pub mod bench;
pub mod check;
pub mod del;
pub mod gc;
pub mod get;
pub mod health;
pub mod leader;
pub mod member;
pub mod purge;
pub mod put;
pub mod scan;
pub mod status;
