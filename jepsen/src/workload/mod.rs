//! What clients do: workloads over the API, and how each operation is sent, classified and written down.
//!
//! A workload owns the keys below `<name>/`, so that any number of them run in one cluster. A new feature joins with a file
//! of its own and a line in [`all`].

mod churn;
pub mod classify;
mod client;
pub mod connection;
mod counter;
mod large;
pub mod probe;
mod recorder;
mod register;
mod rotation;
mod scan;
mod set;
pub mod value;

use std::sync::Arc;

use futures::future::BoxFuture;

pub use client::{Client, Collector, Parts};
pub use recorder::{Counts, Recorder};
pub use scan::Scan;

/// One kind of load.
pub trait Workload: Send + Sync {
    /// Its name, which is also the directory of its keys.
    fn name(&self) -> &'static str;

    /// What it does, for people.
    fn about(&self) -> &'static str;

    /// How many of 20 clients it gets in a mixed run.
    fn share(&self) -> usize;

    /// What one client does until [`Client::turn`] ends it.
    fn run<'a>(&'a self, client: &'a mut Client) -> BoxFuture<'a, ()>;

    /// Ranges that every member is asked for at the end: together all of its keys.
    fn final_ranges(&self) -> Vec<(String, String)> {
        let start = format!("{}/", self.name());
        // The byte after '/'.
        let end = format!("{}0", self.name());
        vec![(start, end)]
    }
}

/// Every workload, new.
pub fn all() -> Vec<Arc<dyn Workload>> {
    vec![
        Arc::new(register::Register::default()),
        Arc::new(set::Set::default()),
        Arc::new(counter::Counter::default()),
        Arc::new(scan::Scan::default()),
        Arc::new(large::Large::default()),
        Arc::new(churn::Churn::default()),
    ]
}

/// The name for all together.
pub const MIXED: &str = "mixed";

/// The workloads that `names` asks for, separated by commas.
///
/// Errors: a name that is none.
pub fn named(names: &str) -> Result<Vec<Arc<dyn Workload>>, String> {
    if names == MIXED {
        return Ok(all());
    }
    let mut chosen: Vec<Arc<dyn Workload>> = Vec::new();
    for name in names.split(',').map(str::trim) {
        let known = all();
        let Some(found) = known.iter().find(|workload| workload.name() == name) else {
            let known: Vec<&str> = known.iter().map(|workload| workload.name()).collect();
            return Err(format!(
                "no workload {name:?}; there are {} and {MIXED}",
                known.join(", ")
            ));
        };
        if chosen.iter().all(|workload| workload.name() != name) {
            chosen.push(found.clone());
        }
    }
    Ok(chosen)
}

/// Which workload each of `clients` clients gets: every workload one, then every one a second, its rival, and the rest
/// by their shares.
pub fn assign(workloads: &[Arc<dyn Workload>], clients: usize) -> Vec<usize> {
    let twice = (0..workloads.len()).chain(0..workloads.len());
    let mut assigned: Vec<usize> = twice.take(clients.max(workloads.len())).collect();
    let deck: Vec<usize> = workloads
        .iter()
        .enumerate()
        .flat_map(|(position, workload)| std::iter::repeat_n(position, workload.share()))
        .collect();
    // Spread, so that any number of clients gets a fair part of the deck.
    let spread = (0..).map(|turn: usize| deck[turn * 7 % deck.len()]);
    let missing = clients.saturating_sub(assigned.len());
    assigned.extend(spread.take(missing));
    assigned
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_and_errors_say_which_there_are() {
        assert_eq!(named(MIXED).unwrap().len(), all().len());
        let two = named("set, register,set").unwrap();
        assert_eq!(
            two.iter().map(|w| w.name()).collect::<Vec<_>>(),
            ["set", "register"]
        );
        let error = named("set,registr").err().unwrap();
        assert!(
            error.contains("\"registr\"") && error.contains("register"),
            "{error}"
        );
    }

    #[test]
    fn every_workload_gets_clients_by_its_share() {
        let workloads = all();
        assert!(workloads.iter().all(|workload| workload.share() > 0));
        let assigned = assign(&workloads, 40);
        assert_eq!(assigned.len(), 40);
        for (position, workload) in workloads.iter().enumerate() {
            let got = assigned.iter().filter(|at| **at == position).count();
            assert!(got >= workload.share(), "{}: {got}", workload.name());
        }
        assert_eq!(assign(&workloads, 1).len(), workloads.len());
        // Nobody works alone where there are enough: what is wrong shows between two.
        let few = assign(&workloads, 2 * workloads.len());
        assert!((0..workloads.len()).all(|position| few.iter().filter(|at| **at == position).count() == 2));
    }

    #[test]
    fn ranges_hold_the_keys_of_their_workload_alone() {
        let (start, end) = all()[0].final_ranges()[0].clone();
        assert!(("register/00.1".."register0").contains(&"register/99"));
        assert_eq!((start.as_str(), end.as_str()), ("register/", "register0"));
    }
}
