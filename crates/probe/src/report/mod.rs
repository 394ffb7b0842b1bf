//! What a run found, for people and for programs, in every format there is.

mod build;
mod compare;
mod document;
mod events;
mod html;
mod judge;
mod junit;
mod markup;
mod objective;
mod prometheus;
mod quantity;
#[cfg(test)]
mod sample;
mod stream;
#[cfg(test)]
mod tests;
mod text;

pub use build::Context;
pub use compare::{Basis, Comparison, Difference, Interval, LaneComparison, ParseError, Worse};
pub use document::{
    Blame, CommandEnd, CommandResult, Event, Intervals, LaneReport, ObjectiveResult, Quantiles, Report, Slice,
    SlowSuccesses, Timeline, VERSION, Verdict, Window,
};
pub use events::{EventError, EventLog, Happening, MAX_EVENTS, MAX_LINE, parse_line};
pub use objective::{Bound, Metric, Objective, ObjectiveError, Objectives, Unit};
pub use quantity::Ratio;
pub use stream::{ResultLines, write_hdr_log};
