//! What sources hand over.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use evenkeel_plan::World;
use tokio::sync::watch;

use crate::catalog::Whereabouts;
use crate::diagnostic::Diagnostic;
use crate::kubernetes::Observed;

/// A new state of a source.
#[derive(Clone, Debug)]
pub struct Update {
    /// The World.
    pub world: Arc<World>,
    /// What was found, by file and line, or by object.
    pub diagnostics: Arc<[Diagnostic]>,
    /// Where its objects stand, for findings about them.
    pub whereabouts: Whereabouts,
    /// What a controller writes to, as far as it was asked for.
    pub observed: Observed,
    /// Whether everything could be read. While it cannot, the World stays as it was; if it never was, it is empty and
    /// says nothing about what should be.
    pub readable: bool,
    /// When its changes were noticed, and those of former states that nobody took.
    pub noticed: Noticed,
}

/// Most changes whose times are kept until somebody takes them; of what comes beyond them, the time is not known.
const MOST: usize = 4096;

/// When changes were noticed, each until somebody takes it. Of several states in quick succession a receiver may see only the
/// last, and that has the changes of all of them: copies share what is in it.
#[derive(Clone, Debug, Default)]
pub struct Noticed(Arc<Mutex<Vec<Instant>>>);

impl Noticed {
    /// Takes them. What changes are in the state with them is certain only while the watch channel is borrowed.
    pub fn take(&self) -> Vec<Instant> {
        std::mem::take(&mut self.times())
    }

    fn add(&self, times: Vec<Instant>) {
        let mut present = self.times();
        let room = MOST.saturating_sub(present.len());
        present.extend(times.into_iter().take(room));
    }

    fn times(&self) -> MutexGuard<'_, Vec<Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sends a new state whose changes were noticed at these times; `false`: nobody wants to know any more.
pub(crate) fn send(sender: &watch::Sender<Update>, update: Update, noticed: Vec<Instant>) -> bool {
    sender.send_modify(|present| {
        present.noticed.add(noticed);
        *present = Update { noticed: present.noticed.clone(), ..update };
    });
    !sender.is_closed()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::Whereabouts;
    use crate::kubernetes::Observed;

    #[test]
    fn changes_of_states_that_nobody_saw_are_not_lost() {
        let update = || Update {
            world: Arc::default(),
            diagnostics: Arc::default(),
            whereabouts: Whereabouts::default(),
            observed: Observed::default(),
            readable: true,
            noticed: Noticed::default(),
        };
        let (sender, mut receiver) = watch::channel(update());
        let times = [(); 3].map(|()| Instant::now());
        assert!(send(&sender, update(), times[..2].to_vec()) && send(&sender, update(), times[2..].to_vec()));
        let seen = receiver.borrow_and_update().clone();
        assert_eq!((seen.noticed.take(), seen.noticed.take()), (times.to_vec(), vec![]));
        assert!(send(&sender, update(), vec![times[0]; MOST + 1]));
        assert_eq!(receiver.borrow_and_update().noticed.take().len(), MOST);
        drop(receiver);
        assert!(!send(&sender, update(), vec![]));
    }
}
