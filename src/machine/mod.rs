//! What a node uses of its machine besides files: threads, network, the end of the process.
//!
//! The default is the real one. A simulation brings its own: then it decides when work is done, what the network does and
//! what the end of a process means, and everything happens on one thread.

mod network;
mod threads;

pub use network::{Accept, Accepted, Io, Listener, Net, Ports, Socket};
pub use threads::{Lost, SimulatedThreads, Threads, Work};

/// A machine. Cheap to clone.
#[derive(Clone, Default)]
pub struct Machine {
    /// Threads beside the async workers.
    pub threads: Threads,
    /// Connections.
    pub network: Net,
}
