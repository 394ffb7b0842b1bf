//! Who runs on which processors.
//!
//! Clients and servers are other machines' in reality, and a node's packets are its interrupts': neither waits while the kernel
//! loads an agent's programs, which it does for milliseconds without a pause where it is not preemptible. In the lab all of
//! them share one machine, so that clients and servers get processors of their own, and the agent another one. A server that ends
//! moves over to the agent's: the work of ending is its own machine's, of which neither clients nor other servers know.

use std::{fs, process::Command, sync::LazyLock};

use anyhow::{Context as _, Result};
use evenkeel_lab::find_program;
use rustix::{
    io::Errno,
    process::Pid,
    thread::{CpuSet, sched_getaffinity, sched_setaffinity},
};

/// Those that the first who asks may run on, which is before anyone is kept to a part of them.
static PRESENT: LazyLock<Result<Vec<usize>, Errno>> = LazyLock::new(|| {
    let present = sched_getaffinity(None)?;
    Ok((0..CpuSet::MAX_CPU).filter(|number| present.is_set(*number)).collect())
});

/// A part of the processors, where there are several.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// Clients and servers: all but the last.
    Others,
    /// An agent, whatever makes faults happen, and servers that end: the last.
    Agent,
}

/// Ends with the thread being where it was.
pub(crate) struct Kept {
    before: CpuSet,
}

impl Drop for Kept {
    fn drop(&mut self) {
        // It was there before.
        let _ = sched_setaffinity(None, &self.before);
    }
}

impl Side {
    /// `None`: there is one processor for all.
    fn processors(self) -> Result<Option<Vec<usize>>> {
        let mut all = PRESENT.as_ref().map_err(|error| *error)?.clone();
        let last = all.split_off(all.len().saturating_sub(1));
        if all.is_empty() {
            return Ok(None);
        }
        Ok(Some(if self == Self::Agent { last } else { all }))
    }

    /// Keeps the calling thread on this side, and what it starts meanwhile.
    pub(crate) fn keep_thread(self) -> Result<Kept> {
        let kept = Kept { before: sched_getaffinity(None)? };
        if let Some(set) = self.set()? {
            sched_setaffinity(None, &set)?;
        }
        Ok(kept)
    }

    /// Moves a process here, with all threads that it has.
    pub(crate) fn take_process(self, pid: u32) -> Result<()> {
        let Some(set) = self.set()? else { return Ok(()) };
        for entry in fs::read_dir(format!("/proc/{pid}/task"))? {
            let thread = entry?.file_name().to_string_lossy().parse().ok().and_then(Pid::from_raw);
            match sched_setaffinity(Some(thread.context("a thread without a number")?), &set) {
                // It has ended meanwhile.
                Ok(()) | Err(Errno::SRCH) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn set(self) -> Result<Option<CpuSet>> {
        Ok(self.processors()?.map(|processors| {
            let mut set = CpuSet::new();
            processors.into_iter().for_each(|number| set.set(number));
            set
        }))
    }

    /// The same command, kept on this side.
    pub(crate) fn command(self, command: &Command) -> Result<Command> {
        let Some(processors) = self.processors()? else {
            let mut same = Command::new(command.get_program());
            same.args(command.get_args());
            return Ok(same);
        };
        let list: Vec<String> = processors.iter().map(ToString::to_string).collect();
        let mut kept = Command::new(find_program("taskset", "util-linux")?);
        kept.args(["-c", &list.join(",")]).arg(command.get_program()).args(command.get_args());
        Ok(kept)
    }
}
