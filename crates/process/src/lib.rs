//! Process scaffolding: logging, signals, admin HTTP.

pub mod admin;
pub mod logging;
pub mod shutdown;
