//! Who owns each address, across the nodes of a cluster.
//!
//! ```text
//! records, agents' leases (API) ─┐                 ┌─> Take, Declare, Renew, Forget   (compare-and-swap writes)
//! elections (plan) ──────────────┼─> Ownership ────┼─> Read                   (a record, afresh)
//! answers to probes (wire) ──────┤  now: parameter ├─> Probe                  (ARP, neighbour solicitations)
//! claims by others (data path) ──┘                 └─> Resume                 (answer again, announce again)
//! ```
//!
//! Sans-IO: whoever drives [`Ownership`] owns the clock, the connection to the API and the sockets.
//!
//! Three facts decide, and each has one place:
//!
//! - **Who owns** an address is in its [`Record`], which only changes when the owner does. It is taken by compare-and-swap,
//!   and every change of hands is a new epoch: however stale a node's view is, no two ever own an address in the same
//!   epoch. While the API is away nobody can take anything, and owners go on.
//! - **Who should own** it is the election's business, the same pure function of the same facts on every node. Present owners
//!   stay elected while they can.
//! - **Who is dead** is found out on the wire, because the data path answers for its addresses with or without an agent. A
//!   node that keeps silent is declared dead in its own agent's lease by one of its watchers ([`Output::Declare`]), once for
//!   all its addresses, so that everybody elects with the same fact. The lease is the witness: its renewal in between makes
//!   the declaration fail, and its lapse alone moves nothing.
//!
//! Detection has one seam: [`Finding`]. Here it is [`Prober`]'s probes; a faster detector says the same.

mod agents;
mod node;
mod probe;
mod record;

use std::sync::Arc;

pub use agents::{AgentLease, Life, Standing, watchers};
pub use node::{Elections, Input, Output, Ownership, Timing, Watched, Written};
pub use probe::{Finding, Prober};
pub use record::{Record, Records, Version};

/// A node's name.
pub type Node = Arc<str>;
