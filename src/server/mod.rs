//! The server: gRPC services on the client port, the two ports' limits, admission by bytes, forwarding to the leader.
//!
//! A request passes `listen` (connections, HTTP/2) -> `front` (which service, how long a message) -> `admission`
//! (bytes in flight) -> a service (`kv`, `pipeline`, `cluster`, `maintenance`) -> `validate` -> here or, by `forward`, the leader.

mod admission;
mod call;
mod cluster;
mod context;
mod forward;
mod front;
mod handover;
mod hash;
mod kv;
mod listen;
mod maintenance;
mod peer_port;
mod pipeline;
mod read;
mod scan;
mod validate;
mod write;

pub use context::Context;
pub use front::{ENVELOPE_BYTES, Front};
pub use listen::{PortLimits, port_limits, raise_open_files_limit, serve};
pub use peer_port::{CLIENT_ADDR, NAME, PeerPort};
