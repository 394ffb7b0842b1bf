//! Process scaffolding: logging, signals, admin HTTP, health and metrics.

pub mod admin;
pub mod http;
pub mod logging;
pub mod shutdown;
