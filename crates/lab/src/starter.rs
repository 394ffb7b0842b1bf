//! Starts processes inside a namespace, from a thread that is there.
//!
//! A process that is to enter a namespace between fork and exec costs whoever starts it a copy of all its page tables, and
//! every other thread a stop: milliseconds where a load is being measured in the same process. A thread that is inside
//! already needs no such step, so that the child borrows the memory until it executes (`vfork(2)`).

use std::{
    io,
    os::unix::process::CommandExt,
    process::{Child, Command},
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread,
};

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::{
    Error,
    sys::Inside,
    tool::{captured, find_program},
};

/// The thread, made when it is needed first, and ended with this. What it has started dies with it, by the kernel's
/// parent-death signal: even a lab killed with SIGKILL leaves no process behind.
#[derive(Debug)]
pub(crate) struct Starter {
    inside: Arc<Inside>,
    thread: Mutex<Option<mpsc::Sender<Job>>>,
}

struct Job {
    command: Command,
    /// Where the caller may run; a process inherits it from who starts it.
    processors: CpuSet,
    started: mpsc::Sender<io::Result<Child>>,
}

impl Starter {
    /// One that has no thread yet.
    pub(crate) fn new(inside: Arc<Inside>) -> Self {
        Self { inside, thread: Mutex::new(None) }
    }

    /// Starts a command that [`confined`] has made, on the processors of the calling thread.
    pub(crate) fn start(&self, command: Command) -> io::Result<Child> {
        let (started, child) = mpsc::channel();
        let job = Job { command, processors: sched_getaffinity(None)?, started };
        self.jobs()?.send(job).map_err(|_| ended())?;
        child.recv().unwrap_or_else(|_| Err(ended()))
    }

    fn jobs(&self) -> io::Result<mpsc::Sender<Job>> {
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(jobs) = thread.as_ref() {
            return Ok(jobs.clone());
        }
        let jobs = thread_inside(Arc::clone(&self.inside))?;
        *thread = Some(jobs.clone());
        Ok(jobs)
    }
}

/// A thread that starts what it is sent.
fn thread_inside(inside: Arc<Inside>) -> io::Result<mpsc::Sender<Job>> {
    let (jobs, work) = mpsc::channel::<Job>();
    let (entered, arrived) = mpsc::channel();
    thread::Builder::new().name("starter".to_owned()).spawn(move || {
        let result = inside.enter();
        let is_inside = result.is_ok();
        // Who asked for this thread waits for it.
        let _ = entered.send(result);
        if is_inside {
            for Job { mut command, processors, started } in work {
                let child =
                    sched_setaffinity(None, &processors).map_err(io::Error::from).and_then(|()| command.spawn());
                let _ = started.send(child);
            }
        }
    })?;
    arrived.recv().unwrap_or_else(|_| Err(ended()))?;
    Ok(jobs)
}

fn ended() -> io::Error {
    io::Error::other("the thread that starts processes in the namespace has ended")
}

/// The same command as one that dies with the thread that starts it: captured, and in a process group of its own.
pub(crate) fn confined(command: &Command) -> Result<Command, Error> {
    let mut wrapped = Command::new(find_program("setpriv", "util-linux")?);
    wrapped.args(["--pdeathsig", "KILL", "--"]).arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => wrapped.env(name, value),
            None => wrapped.env_remove(name),
        };
    }
    if let Some(directory) = command.get_current_dir() {
        wrapped.current_dir(directory);
    }
    captured(&mut wrapped).process_group(0);
    Ok(wrapped)
}
