//! Open-loop availability prober and the server it is pointed at.
//!
//! [`Prober`] starts every request at its intended time, whatever became of the earlier ones, and measures latency
//! from that time, so a stalled server cannot hide its stall by slowing the prober down (coordinated omission). It
//! also measures how late it was itself: a run whose own scheduling lag is over the bound is declared invalid rather
//! than blamed on the network.
//!
//! [`Server`] is the matching target: it names itself in every answer and loses nothing when it is told to stop.
//!
//! Every socket is made on the thread that drives [`Prober::run`] or calls [`Server::bind`], so both work on a
//! `current_thread` runtime whose thread has entered another network namespace.

mod cause;
mod config;
mod exchange;
mod pattern;
mod prober;
mod record;
mod report;
mod server;
mod timer;
mod windows;

pub use cause::Cause;
pub use config::{Close, Config, ConfigError, Lane, LaneKind, Target, TargetError};
pub use prober::Prober;
pub use record::{LaneSnapshot, Progress};
pub use report::{InvalidReason, LaneReport, Quantiles, Report, Verdict, Window};
pub use server::{BindError, NameError, ServeConfig, ServeSummary, Server, ServerName};
