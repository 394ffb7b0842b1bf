//! The prober and its server against each other and against servers that misbehave, on loopback.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod causes;
mod common;
mod lanes;
mod open_loop;
mod report;
mod server;
