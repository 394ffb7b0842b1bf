//! `--exec`: a command that runs while the targets are probed.

use std::{
    io::{self, BufRead, BufReader, Read},
    os::unix::process::{CommandExt, ExitStatusExt},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread,
    time::Duration,
};

use anyhow::{Context, anyhow};
use evenkeel_probe::{
    Progress,
    report::{CommandEnd, CommandResult},
};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use tokio_util::sync::CancellationToken;

use super::{display::Printer, events::Events};

/// How long a command may take to end after SIGTERM.
const GRACE: Duration = Duration::from_secs(5);
/// Longest line of a command's output that is shown as one.
const MAX_LINE: u64 = 4096;

/// How often it is looked whether the run has begun.
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// A command to run, or under way.
pub(super) struct Exec {
    command: String,
    /// The process group, from its start until the command's process is gone.
    group: Arc<Mutex<Option<Pid>>>,
    ended: mpsc::Receiver<io::Result<Ended>>,
}

struct Ended {
    status: ExitStatus,
    /// Since the start of the run.
    from: Duration,
    to: Duration,
}

/// What a command's thread works with.
pub(super) struct Surroundings {
    /// How long the run goes on after the command.
    pub(super) tail: Duration,
    /// The run's clock.
    pub(super) progress: Arc<Progress>,
    /// Gets the command's start and end.
    pub(super) events: Events,
    /// Shows the command's output where a live display is in its way.
    pub(super) printer: Option<Printer>,
    /// Ends the run.
    pub(super) stop: CancellationToken,
}

impl Exec {
    /// Runs the command as soon as the run has begun: in a shell, in a process group of its own, without stdin. Its
    /// output goes to stderr. When it has ended and the tail is over, the run is stopped.
    pub(super) fn start(command: &str, around: Surroundings) -> io::Result<Self> {
        let group = Arc::default();
        let (sender, ended) = mpsc::channel();
        let this = Self { command: command.to_owned(), group: Arc::clone(&group), ended };
        let command = command.to_owned();
        thread::Builder::new().name("exec".to_owned()).spawn(move || {
            let Surroundings { tail, stop, .. } = &around;
            let result = run(&command, &around, &group);
            if let Ok(Ended { status, .. }) = &result {
                around.events.add(format!("command {}", end_of(*status)));
            }
            let failed = result.is_err();
            drop(sender.send(result));
            // Whoever stops the run meanwhile does not wait for this thread.
            thread::sleep(if failed { Duration::ZERO } else { *tail });
            stop.cancel();
        })?;
        Ok(this)
    }

    /// What became of the command; it is terminated if it has not ended by now, because of `reason`.
    pub(super) fn finish(self, reason: CommandEnd) -> anyhow::Result<CommandResult> {
        let (ended, reason) = match self.ended.try_recv() {
            Ok(ended) => (ended, None),
            Err(_) => {
                self.signal(Signal::TERM);
                let ended = self.ended.recv_timeout(GRACE).or_else(|_| {
                    self.signal(Signal::KILL);
                    self.ended.recv_timeout(GRACE)
                });
                (ended.map_err(|_| anyhow!("--exec {} does not end", self.command))?, Some(reason))
            }
        };
        let Ended { status, from, to } = ended.with_context(|| format!("cannot run --exec {}", self.command))?;
        let ms = |time: Duration| (time.as_secs_f64() * 1e6).round() / 1e3;
        let end = reason.unwrap_or_else(|| end_of(status));
        Ok(CommandResult { command: self.command, end, started_ms: ms(from), ended_ms: ms(to) })
    }

    fn signal(&self, signal: Signal) {
        if let Some(group) = *self.group.lock().unwrap_or_else(PoisonError::into_inner) {
            // It may have ended a moment ago.
            _ = kill_process_group(group, signal);
        }
    }
}

fn run(command: &str, around: &Surroundings, group: &Mutex<Option<Pid>>) -> io::Result<Ended> {
    let Surroundings { progress, events, printer, stop, .. } = around;
    while progress.elapsed().is_zero() {
        if stop.is_cancelled() {
            return Err(io::ErrorKind::Interrupted.into());
        }
        thread::sleep(LOOK_EVERY);
    }
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", command]).stdin(Stdio::null()).process_group(0);
    match printer {
        Some(_) => shell.stdout(Stdio::piped()).stderr(Stdio::piped()),
        None => shell.stdout(io::stderr()).stderr(Stdio::inherit()),
    };
    events.add("command started".to_owned());
    let from = progress.elapsed();
    let mut child = shell.spawn()?;
    let pid = Pid::from_child(&child);
    *group.lock().unwrap_or_else(PoisonError::into_inner) = Some(pid);
    if let Some(printer) = printer {
        forward(child.stdout.take(), printer)?;
        forward(child.stderr.take(), printer)?;
    }
    let status = wait(&mut child, pid, group)?;
    Ok(Ended { status, from, to: progress.elapsed() })
}

/// Waits for the process, and forgets its id before the kernel may give it to another.
fn wait(child: &mut Child, pid: Pid, group: &Mutex<Option<Pid>>) -> io::Result<ExitStatus> {
    while let Err(error) = waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT) {
        if error != rustix::io::Errno::INTR {
            return Err(error.into());
        }
    }
    *group.lock().unwrap_or_else(PoisonError::into_inner) = None;
    child.wait()
}

fn end_of(status: ExitStatus) -> CommandEnd {
    match (status.code(), status.signal()) {
        (Some(status), _) => CommandEnd::Exited { status },
        (None, signal) => CommandEnd::Signalled { signal: signal.unwrap_or_default() },
    }
}

/// Shows a command's output above the live display, line by line.
fn forward(output: Option<impl Read + Send + 'static>, printer: &Printer) -> io::Result<()> {
    let Some(output) = output else { return Ok(()) };
    let printer = printer.clone();
    thread::Builder::new().name("output".to_owned()).spawn(move || {
        let mut output = BufReader::new(output);
        let mut line = Vec::new();
        while output.by_ref().take(MAX_LINE).read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
            printer.print(String::from_utf8_lossy(&line).trim_end_matches(['\n', '\r']));
            line.clear();
        }
    })?;
    Ok(())
}
