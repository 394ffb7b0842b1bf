//! Logging to stderr, so that stdout stays free for what a command was asked for.

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;

/// The environment variable that replaces the default filter, such as `info,evenkeel_agent=debug`.
pub const ENVIRONMENT: &str = "EVENKEEL_LOG";

/// Logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The filter in [`ENVIRONMENT`] does not parse.
    #[error("{ENVIRONMENT}=`{filter}`: {source}")]
    Filter {
        /// The filter as given.
        filter: String,
        /// What is wrong with it.
        source: tracing_subscriber::filter::ParseError,
    },
    /// The variable [`ENVIRONMENT`] is not UTF-8.
    #[error("{ENVIRONMENT} is not UTF-8")]
    NotUtf8,
    /// Logging was set up before.
    #[error("logging is set up already")]
    Twice,
}

/// Logs to stderr what `default` lets through, such as `info`, unless [`ENVIRONMENT`] says otherwise; in colour on a
/// terminal only, and not if `NO_COLOR` is set.
///
/// # Errors
///
/// The filter does not parse, or logging was set up before.
pub fn init(default: &str) -> Result<(), Error> {
    let filter = match std::env::var(ENVIRONMENT) {
        Ok(filter) => filter,
        Err(std::env::VarError::NotPresent) => default.to_owned(),
        Err(std::env::VarError::NotUnicode(_)) => return Err(Error::NotUtf8),
    };
    let colour = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    tracing_subscriber::fmt()
        .with_env_filter(parse(&filter)?)
        .with_writer(io::stderr)
        .with_ansi(colour)
        .try_init()
        .map_err(|_| Error::Twice)
}

fn parse(filter: &str) -> Result<EnvFilter, Error> {
    EnvFilter::builder().parse(filter).map_err(|source| Error::Filter { filter: filter.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_filter_is_named() {
        assert!(parse("info,evenkeel_agent=debug").is_ok());
        let error = parse("evenkeel_agent=loud").unwrap_err().to_string();
        assert!(error.contains("EVENKEEL_LOG=`evenkeel_agent=loud`"), "{error}");
    }
}
