//! What the agent says of itself over HTTP.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use evenkeel_process::http;

/// The loop goes round at least once a second; one that has not for so long will not by itself.
const STUCK: Duration = Duration::from_secs(60);
/// Metrics are kept fresh for so long after somebody has asked for them.
const INTEREST: Duration = Duration::from_secs(120);

/// The last look at the agent. Clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Vitals(Arc<Mutex<Look>>);

#[derive(Debug, Default)]
struct Look {
    at: Option<Instant>,
    not_ready: Option<String>,
    metrics: String,
    asked: Option<Instant>,
}

impl Vitals {
    /// Notes how the agent is. Its metrics are made only if somebody reads them.
    pub(crate) fn refresh(&self, ready: &Result<(), String>, metrics: impl FnOnce() -> String) {
        let mut look = self.look();
        if look.metrics.is_empty() || look.asked.is_some_and(|asked| asked.elapsed() < INTEREST) {
            look.metrics = metrics();
        }
        look.at = Some(Instant::now());
        look.not_ready = ready.as_ref().err().cloned();
    }

    fn look(&self) -> MutexGuard<'_, Look> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl http::Vitals for Vitals {
    /// Nothing but its own loop counts: the API may be away, and what it carries may be incomplete.
    fn alive(&self) -> Result<(), String> {
        match self.look().at {
            Some(at) if at.elapsed() > STUCK => Err(format!("stuck for {} s", at.elapsed().as_secs())),
            _ => Ok(()),
        }
    }

    fn ready(&self) -> Result<(), String> {
        let look = self.look();
        match (&look.not_ready, look.at) {
            (Some(reason), _) => Err(reason.clone()),
            (None, Some(_)) => Ok(()),
            (None, None) => Err("starting".to_owned()),
        }
    }

    fn metrics(&self) -> String {
        let mut look = self.look();
        look.asked = Some(Instant::now());
        look.metrics.clone()
    }
}
