//! What goes wrong on purpose.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How the server behaves as a whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mood {
    /// It answers.
    #[default]
    Fine,
    /// Nobody listens: connections are refused, those that are open are closed.
    Refuse,
    /// Requests are taken and never answered; watches say nothing.
    Hang,
    /// Every request is answered with this status, such as 503; watches are ended.
    Fail(u16),
}

#[derive(Debug, Default)]
struct Once {
    /// Plural names of kinds whose next lists are empty, and how many.
    empty_lists: BTreeMap<String, u32>,
    /// Plural names of kinds whose next updates conflict, and how many.
    conflicts: BTreeMap<String, u32>,
    /// Plural names of kinds whose next creates, updates, patches and deletes fail with a status, and how many.
    failed_writes: BTreeMap<String, (u16, u32)>,
    latency: Duration,
}

/// The faults in force.
#[derive(Debug)]
pub(crate) struct Faults {
    mood: watch::Sender<Mood>,
    once: Mutex<Once>,
    watches: Mutex<CancellationToken>,
}

impl Faults {
    pub(crate) fn new() -> Self {
        Self { mood: watch::Sender::new(Mood::Fine), once: Mutex::default(), watches: Mutex::default() }
    }

    fn once(&self) -> MutexGuard<'_, Once> {
        self.once.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set_mood(&self, mood: Mood) {
        self.mood.send_replace(mood);
        if !matches!(mood, Mood::Fine | Mood::Hang) {
            self.close_watches();
        }
    }

    pub(crate) fn mood(&self) -> watch::Receiver<Mood> {
        self.mood.subscribe()
    }

    /// Ends all watches that are open.
    pub(crate) fn close_watches(&self) {
        let mut token = self.watches.lock().unwrap_or_else(PoisonError::into_inner);
        token.cancel();
        *token = CancellationToken::new();
    }

    /// Cancelled when the watches opened now are to end.
    pub(crate) fn watch_token(&self) -> CancellationToken {
        self.watches.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set_latency(&self, latency: Duration) {
        self.once().latency = latency;
    }

    pub(crate) fn latency(&self) -> Duration {
        self.once().latency
    }

    pub(crate) fn empty_lists(&self, plural: &str, times: u32) {
        self.once().empty_lists.insert(plural.to_owned(), times);
    }

    pub(crate) fn take_empty_list(&self, plural: &str) -> bool {
        take(&mut self.once().empty_lists, plural)
    }

    pub(crate) fn conflicts(&self, plural: &str, times: u32) {
        self.once().conflicts.insert(plural.to_owned(), times);
    }

    pub(crate) fn take_conflict(&self, plural: &str) -> bool {
        take(&mut self.once().conflicts, plural)
    }

    pub(crate) fn fail_writes(&self, plural: &str, code: u16, times: u32) {
        self.once().failed_writes.insert(plural.to_owned(), (code, times));
    }

    pub(crate) fn take_failed_write(&self, plural: &str) -> Option<u16> {
        let mut once = self.once();
        let (code, left) = once.failed_writes.get_mut(plural).filter(|(_, left)| *left > 0)?;
        *left -= 1;
        Some(*code)
    }
}

fn take(left: &mut BTreeMap<String, u32>, plural: &str) -> bool {
    match left.get_mut(plural).filter(|left| **left > 0) {
        Some(left) => {
            *left -= 1;
            true
        }
        None => false,
    }
}
