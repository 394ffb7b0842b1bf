//! What has to be written so that the API says what the Plan says. Pure: what comes out of it, applied, leaves nothing
//! to be written.

mod configuration;
mod pool;
mod service;

#[cfg(test)]
mod properties;

pub use self::configuration::{ConfigurationState, configuration};
pub use self::pool::{Counters, PoolWrite, counters, pool};
pub(crate) use self::service::addresses;
pub use self::service::{Condition, Note, ServiceWrite, service};
