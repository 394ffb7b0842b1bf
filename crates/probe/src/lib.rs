//! Open-loop availability prober and the server it is pointed at.
//!
//! [`Prober`] starts every request at its intended time, whatever became of the earlier ones, and measures latency
//! from that time, so a stalled server cannot hide its stall by slowing the prober down (coordinated omission). It
//! also measures how late it was itself: a run whose own scheduling lag is over the bound is declared invalid rather
//! than blamed on the network.
//!
//! [`Server`] is the matching target: it names itself in every answer and loses nothing when it is told to stop.
//!
//! A run is the work of one thread, with a state machine for every connection: a task for each request would cost more
//! than the request. What it measures is a [`Measurement`], from which a [`Report`] is made; single results can be had
//! while the run goes on from [`Prober::results`].
//!
//! The prober's thread is started by the one that drives [`Prober::run`], and the server's sockets are made by the one
//! that calls [`Server::bind`], so that both work from a thread that has entered another network namespace.

mod cause;
mod config;
mod datagram;
mod engine;
#[doc(hidden)]
pub mod fuzz;
mod http1;
mod latency;
pub mod measure;
mod pattern;
mod prober;
mod record;
pub mod report;
mod results;
mod sequence;
mod server;
mod sys;
mod windows;

pub use cause::Cause;
pub use config::{Close, Config, ConfigError, Lane, LaneKind, LaneOptions, Rate, Target, TargetError, TlsVerify};
pub use engine::TlsError;
use evenkeel_dns as dns;
pub use evenkeel_dns::QuestionError;
pub use latency::Latency;
pub use measure::{InvalidReason, LaneMeasurement, Measurement};
pub use prober::Prober;
pub use record::{LaneSnapshot, Progress};
pub use report::{LaneReport, Quantiles, Report, Verdict};
pub use results::Results;
pub use server::{BindError, NameError, ServeConfig, ServeSummary, Server, ServerName};
