//! What has happened so far: told by the demo, read by the display.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use evenkeel_lab::deployment::Step;
use evenkeel_probe::Progress;
use serde::Serialize;

/// The state of the demo, shared between the threads that tell and show it.
#[derive(Debug)]
pub(crate) struct Story {
    backends: usize,
    progress: OnceLock<Arc<Progress>>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    phase: String,
    /// One sentence each, in order.
    events: Vec<String>,
    servers: BTreeMap<String, ServerState>,
    replaced: usize,
}

/// Where a server is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ServerState {
    Starting,
    Ready,
    Draining,
    Stopping,
}

impl ServerState {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Draining => "draining",
            Self::Stopping => "stopping",
        }
    }
}

/// The story at one moment.
#[derive(Debug, Clone)]
pub(crate) struct Scene {
    pub(crate) phase: String,
    pub(crate) servers: BTreeMap<String, ServerState>,
}

impl Story {
    pub(crate) fn new(backends: usize) -> Self {
        Self { backends, progress: OnceLock::new(), state: Mutex::default() }
    }

    /// A new part begins.
    pub(crate) fn phase(&self, phase: impl Into<String>) {
        let phase = phase.into();
        let mut state = self.lock();
        state.events.push(phase.clone());
        state.phase = phase;
    }

    pub(crate) fn server_ready(&self, name: &str) {
        self.lock().servers.insert(name.to_owned(), ServerState::Ready);
    }

    pub(crate) fn load_started(&self, progress: Arc<Progress>) {
        // Called once.
        let _ = self.progress.set(progress);
    }

    /// What became of the requests so far, once there are some.
    pub(crate) fn progress(&self) -> Option<&Progress> {
        self.progress.get().map(Arc::as_ref)
    }

    /// Time since the first request.
    pub(crate) fn elapsed(&self) -> Duration {
        self.progress().map_or(Duration::ZERO, Progress::elapsed)
    }

    /// A replacement has come a step further.
    pub(crate) fn step(&self, step: &Step) {
        let backends = self.backends;
        let mut state = self.lock();
        let number = state.replaced + 1;
        let sentence = match step {
            Step::Starting { new } => {
                state.servers.insert(new.clone(), ServerState::Starting);
                format!("replacement {number} of {backends}: {new} is starting")
            }
            Step::Added { new } => {
                state.servers.insert(new.clone(), ServerState::Ready);
                format!("replacement {number} of {backends}: {new} is ready")
            }
            Step::Draining { old } => {
                state.servers.insert(old.clone(), ServerState::Draining);
                format!("replacement {number} of {backends}: {old} is terminating, its requests in flight finish")
            }
            Step::Stopping { old } => {
                state.servers.insert(old.clone(), ServerState::Stopping);
                format!("replacement {number} of {backends}: {old} gets SIGTERM")
            }
            Step::Removed { old, .. } => {
                state.servers.remove(old);
                state.replaced = number;
                format!("replacement {number} of {backends}: {old} is gone")
            }
        };
        state.events.push(sentence.clone());
        state.phase = sentence;
    }

    pub(crate) fn scene(&self) -> Scene {
        let State { phase, servers, .. } = &*self.lock();
        Scene { phase: phase.clone(), servers: servers.clone() }
    }

    /// The events from number `from` on.
    pub(crate) fn events(&self, from: usize) -> Vec<String> {
        self.lock().events.get(from..).unwrap_or_default().to_vec()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// When the steps of one replacement were reached, in milliseconds since the first request.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Replacement {
    pub(crate) old: String,
    pub(crate) new: String,
    pub(crate) starting_ms: u64,
    pub(crate) added_ms: u64,
    pub(crate) draining_ms: u64,
    pub(crate) stopping_ms: u64,
    pub(crate) removed_ms: u64,
    /// Whether the old server ended by itself and with success, rather than being killed.
    pub(crate) orderly: bool,
}

impl Replacement {
    pub(crate) fn new(old: &str) -> Self {
        Self {
            old: old.to_owned(),
            new: String::new(),
            starting_ms: 0,
            added_ms: 0,
            draining_ms: 0,
            stopping_ms: 0,
            removed_ms: 0,
            orderly: false,
        }
    }

    pub(crate) fn note(&mut self, step: &Step, at: Duration) {
        let ms = u64::try_from(at.as_millis()).unwrap_or(u64::MAX);
        match step {
            Step::Starting { new } => {
                self.new.clone_from(new);
                self.starting_ms = ms;
            }
            Step::Added { .. } => self.added_ms = ms,
            Step::Draining { .. } => self.draining_ms = ms,
            Step::Stopping { .. } => self.stopping_ms = ms,
            Step::Removed { status, .. } => {
                self.removed_ms = ms;
                self.orderly = status.success();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::process::ExitStatusExt, process::ExitStatus};

    use super::*;

    fn steps() -> [Step; 5] {
        let (old, new) = ("backend-1".to_owned(), "backend-5".to_owned());
        [
            Step::Starting { new: new.clone() },
            Step::Added { new },
            Step::Draining { old: old.clone() },
            Step::Stopping { old: old.clone() },
            Step::Removed { old, status: ExitStatus::from_raw(0) },
        ]
    }

    #[test]
    fn servers_come_and_go_with_the_steps() {
        let story = Story::new(4);
        story.server_ready("backend-1");
        let seen: Vec<_> = steps()
            .iter()
            .map(|step| {
                story.step(step);
                let scene = story.scene();
                (scene.servers.get("backend-1").copied(), scene.servers.get("backend-5").copied())
            })
            .collect();
        use ServerState::{Draining, Ready, Starting, Stopping};
        assert_eq!(
            seen,
            [
                (Some(Ready), Some(Starting)),
                (Some(Ready), Some(Ready)),
                (Some(Draining), Some(Ready)),
                (Some(Stopping), Some(Ready)),
                (None, Some(Ready)),
            ]
        );
        assert_eq!(story.events(4), ["replacement 1 of 4: backend-1 is gone"]);
        assert!(story.events(5).is_empty() && story.events(6).is_empty());
    }

    #[test]
    fn a_replacement_notes_when_its_steps_were_reached() {
        let mut replacement = Replacement::new("backend-1");
        for (ms, step) in (1_u64..).zip(&steps()) {
            replacement.note(step, Duration::from_millis(ms));
        }
        let Replacement { starting_ms, added_ms, draining_ms, stopping_ms, removed_ms, orderly, .. } = replacement;
        assert_eq!([starting_ms, added_ms, draining_ms, stopping_ms, removed_ms], [1, 2, 3, 4, 5]);
        assert_eq!(replacement.new, "backend-5");
        assert!(orderly);
    }
}
