//! What the agent says of itself over HTTP.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use evenkeel_process::http;
use tokio::sync::{mpsc, oneshot};

use crate::node::Ask;

/// The loop goes round at least once a second; one that has not for so long will not by itself.
const STUCK: Duration = Duration::from_secs(60);

/// The last look at the agent, and a way to ask it. Clones share the look.
#[derive(Clone, Debug)]
pub(crate) struct Vitals {
    look: Arc<Mutex<Look>>,
    asks: mpsc::Sender<Ask>,
}

#[derive(Debug, Default)]
struct Look {
    at: Option<Instant>,
    not_ready: Option<String>,
}

impl Vitals {
    /// Of an agent that has not begun, and hears this way what it is asked.
    pub(crate) fn new(asks: mpsc::Sender<Ask>) -> Self {
        Self { look: Arc::default(), asks }
    }

    /// Notes how the agent is.
    pub(crate) fn refresh(&self, ready: &Result<(), String>) {
        let mut look = self.look();
        look.at = Some(Instant::now());
        look.not_ready = ready.as_ref().err().cloned();
    }

    fn look(&self) -> MutexGuard<'_, Look> {
        self.look.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// As they are when somebody asks: nobody's asking costs an agent nothing.
    async fn metrics(&self) -> Result<String, String> {
        let (reply, metrics) = oneshot::channel();
        let ending = || "the agent is ending".to_owned();
        self.asks.send(Ask::Metrics(reply)).await.map_err(|_| ending())?;
        metrics.await.map_err(|_| ending())
    }
}
