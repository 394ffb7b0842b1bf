//! What the process says of itself.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::metrics::Metrics;

/// A loop that has not come round for so long will not any more.
const STUCK: Duration = Duration::from_secs(120);
/// Without a look at the lease for so long, nobody can say that this replica would take over.
const STALE: Duration = Duration::from_secs(30);

/// Health and metrics.
pub(crate) struct Vitals {
    pub(crate) metrics: Arc<Metrics>,
    state: Mutex<State>,
}

struct State {
    /// The last turn of the election, and the last one that succeeded.
    turned: Instant,
    looked: Option<Instant>,
    leader: bool,
    /// Why a leader does not write.
    waits: Option<String>,
}

impl Vitals {
    pub(crate) fn new(metrics: Metrics) -> Self {
        let state = State { turned: Instant::now(), looked: None, leader: false, waits: None };
        Self { metrics: Arc::new(metrics), state: Mutex::new(state) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// There was a look at the lease.
    pub(crate) fn lease_looked(&self, successful: bool) {
        let mut state = self.state();
        state.turned = Instant::now();
        if successful {
            state.looked = Some(state.turned);
        }
    }

    pub(crate) fn set_leader(&self, leader: bool) {
        self.state().leader = leader;
        self.metrics.leader.set(leader.into());
    }

    /// Why the leader does not write, if it does not.
    pub(crate) fn set_waits(&self, why: Option<String>) {
        self.state().waits = why;
    }
}

impl evenkeel_process::http::Vitals for Vitals {
    fn alive(&self) -> Result<(), String> {
        let state = self.state();
        match state.turned.elapsed() {
            since if since > STUCK => Err(format!("the election has not come round for {since:?}")),
            _ => Ok(()),
        }
    }

    fn ready(&self) -> Result<(), String> {
        let state = self.state();
        if state.looked.is_none_or(|looked| looked.elapsed() >= STALE) {
            return Err("the lease cannot be read".to_owned());
        }
        match &state.waits {
            Some(why) if state.leader => Err(why.clone()),
            _ => Ok(()),
        }
    }

    async fn metrics(&self) -> Result<String, String> {
        Ok(self.metrics.encode())
    }
}
