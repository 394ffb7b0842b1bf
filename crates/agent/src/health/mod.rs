//! The driver of health checks: it asks backends, and says what share of new flows each takes.
//!
//! ```text
//! Checker::set ──> Monitor::poll ──> probe::check, many at once ──> Monitor::result ──> Checker::view
//! ```
//!
//! It has a thread of its own, so that an agent busy with a large update does not let answers go stale, and checks go on
//! whatever becomes of the manifests.

mod probe;
#[cfg(test)]
mod tests;

use std::{
    io,
    net::SocketAddr,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use evenkeel_health::{Change, Event, Group, Monitor, Observation, Outcome, Ticket, View};
use evenkeel_plan::frontends::FrontendKey;
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time,
};
use tokio_util::sync::CancellationToken;

/// Most checks under way, each with a descriptor. What is due beyond them waits its turn.
const MOST_AT_ONCE: usize = 256;
/// Shortest time between two views: each makes the agent look through its frontends.
const VIEW_INTERVAL: Duration = Duration::from_millis(100);
/// Most observations kept until they are looked at; more of them say nothing more.
const MOST_OBSERVATIONS: usize = 4096;

/// Checks backends until it is dropped.
#[derive(Debug)]
pub struct Checker {
    groups: watch::Sender<Arc<[Group]>>,
    observations: mpsc::Sender<Observed>,
    view: watch::Receiver<Arc<View>>,
    end: CancellationToken,
}

/// What was seen of a client's flow to a backend.
#[derive(Clone, Copy, Debug)]
struct Observed {
    frontend: FrontendKey,
    backend: SocketAddr,
    observation: Observation,
}

impl Checker {
    /// Starts, with nothing to check. It works in the network namespace of the thread that calls this.
    ///
    /// # Errors
    /// No thread, or no descriptors.
    pub fn start() -> io::Result<Self> {
        let (groups, to_check) = watch::channel(Arc::default());
        let (observations, observed) = mpsc::channel(MOST_OBSERVATIONS);
        let (publish, view) = watch::channel(Arc::default());
        let end = CancellationToken::new();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let driver = Driver { monitor: Monitor::default(), running: JoinSet::new(), publish, published: (0, None) };
        let ended = end.clone();
        thread::Builder::new().name("health".to_owned()).spawn(move || {
            runtime.block_on(ended.run_until_cancelled(driver.run(to_check, observed)));
        })?;
        Ok(Self { groups, observations, view, end })
    }

    /// Checks these frontends' backends and no others. What stays keeps its state.
    pub fn set(&self, groups: Vec<Group>) {
        self.groups.send_if_modified(|present| {
            let differs = **present != *groups;
            if differs {
                *present = groups.into();
            }
            differs
        });
    }

    /// Takes in what was seen of a client's flow to a backend. When there is too much of it, some is left out.
    pub fn observe(&self, frontend: FrontendKey, backend: SocketAddr, observation: Observation) {
        let _ = self.observations.try_send(Observed { frontend, backend, observation });
    }

    /// The health of all backends, as it changes.
    pub fn view(&self) -> watch::Receiver<Arc<View>> {
        self.view.clone()
    }
}

impl Drop for Checker {
    fn drop(&mut self) {
        self.end.cancel();
    }
}

struct Driver {
    monitor: Monitor,
    running: JoinSet<(Ticket, Outcome)>,
    publish: watch::Sender<Arc<View>>,
    /// The version of the view last published, and when that was.
    published: (u64, Option<Instant>),
}

impl Driver {
    async fn run(mut self, mut groups: watch::Receiver<Arc<[Group]>>, mut observed: mpsc::Receiver<Observed>) {
        loop {
            let now = Instant::now();
            let room = MOST_AT_ONCE.saturating_sub(self.running.len());
            let (due, changes) = self.monitor.poll(now, room);
            changes.iter().for_each(tell);
            for due in due {
                self.running.spawn(async move { (due.ticket, probe::check(due.address, &due.check).await) });
            }
            let wake = self.wake(now);
            tokio::select! {
                changed = groups.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let groups = Arc::clone(&groups.borrow_and_update());
                    self.monitor.set(groups.iter().cloned(), Instant::now());
                }
                Some(ended) = self.running.join_next() => {
                    // One that came to no end is made again when the monitor gives it up.
                    if let Ok((ticket, outcome)) = ended {
                        self.monitor.result(ticket, outcome, Instant::now()).iter().for_each(tell);
                    }
                }
                Some(Observed { frontend, backend, observation }) = observed.recv() => {
                    self.monitor.observe(&frontend, backend, observation, Instant::now());
                }
                () = time::sleep_until(wake.into()) => {}
            }
        }
    }

    /// Publishes the view if it has changed and it is time; when there is something to do next.
    fn wake(&mut self, now: Instant) -> Instant {
        let soon = now + VIEW_INTERVAL;
        let (version, at) = self.published;
        let mut wake = self.monitor.next_due().unwrap_or(now + Duration::from_secs(60));
        if self.running.len() >= MOST_AT_ONCE {
            // Whatever is due can only begin when another check has ended.
            wake = wake.max(soon);
        }
        if version == self.monitor.version() {
            return wake;
        }
        let next = at.map_or(now, |at| at + VIEW_INTERVAL);
        if next > now {
            return wake.min(next);
        }
        self.published = (self.monitor.version(), Some(now));
        let view = self.monitor.view(now);
        self.publish.send_if_modified(|present| {
            let differs = **present != view;
            if differs {
                *present = view.into();
            }
            differs
        });
        wake
    }
}

fn tell(change: &Change) {
    let Change { service, address, event } = change;
    let service = service.to_string();
    match event {
        Event::Down { failure, ejected: false } => {
            tracing::warn!(service, backend = %address, reason = failure.reason.name(), "down: {}", failure.detail);
        }
        Event::Down { failure, ejected: true } => {
            let reason = failure.reason.name();
            tracing::warn!(service, backend = %address, reason, "down, as clients found too: {}", failure.detail);
        }
        Event::NotEjected { failure } => {
            let reason = failure.reason.name();
            tracing::warn!(
                service, backend = %address, reason,
                "clients fail and so does a check, but too many others are down: {}", failure.detail
            );
        }
        Event::NotChecked { because } => tracing::warn!(service, backend = %address, "cannot be checked: {because}"),
        Event::Warming => tracing::info!(service, backend = %address, "healthy again, takes new flows slowly"),
        Event::Active => tracing::info!(service, backend = %address, "takes its full share of new flows"),
    }
}
