//! Labs of network namespaces on one machine, for the demo, the tests and the benchmarks.
//!
//! [`Sandbox::enter`] makes everything a process does here private to it, [`Lab`] builds namespaces and the wires
//! between them, [`Namespace`] runs processes and closures inside, and [`topology::Standard`] is the lab most scenarios
//! use: a client, a switch, a node, and backends behind the node. [`deployment::Deployment`] runs servers there and
//! replaces them the way Kubernetes does, with [`manifests`] as the only thing the load balancer sees of it;
//! [`Balancer`] runs that load balancer, and [`Load`] probes it from the client.
//!
//! ```no_run
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use std::{process::Command, time::Duration};
//! use evenkeel_lab::{Sandbox, topology::Standard};
//!
//! let sandbox = Sandbox::enter()?;
//! let mut lab = Standard::build(&sandbox)?;
//! let backend = lab.add_backend()?;
//! let server = backend.namespace.spawn(Command::new("my-server"))?;
//! server.wait_for_line("ready", Duration::from_secs(5))?;
//! let greeting = lab.client.enter(|| std::net::TcpStream::connect((backend.address, 9000)))?;
//! # Ok(()) }
//! ```

mod balancer;
pub mod deployment;
mod error;
mod lab;
mod load;
pub mod manifests;
mod namespace;
mod output;
mod process;
mod sandbox;
mod starter;
mod sys;
mod tool;
pub mod topology;

pub use balancer::Balancer;
pub use error::Error;
pub use lab::Lab;
pub use load::Load;
pub use namespace::Namespace;
pub use process::Child;
pub use sandbox::Sandbox;
pub use tool::find_program;
