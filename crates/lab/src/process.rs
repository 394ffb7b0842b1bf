//! Processes in a lab, which never outlive it.

use std::{
    io,
    net::{SocketAddr, TcpStream},
    os::{fd::OwnedFd, unix::process::ExitStatusExt},
    process::ExitStatus,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, Signal, kill_process, kill_process_group, pidfd_open},
};
use tracing::debug;

use crate::{
    Error, Namespace,
    output::{Awaited, Output},
};

/// Lines of each stream that an error message quotes.
const QUOTED_LINES: usize = 15;
/// How long output may take to arrive after its process has ended; longer only if a grandchild left the process group
/// and still holds the pipe.
const OUTPUT_GRACE: Duration = Duration::from_secs(1);
/// How long one connection to a server that is starting may take, and how soon the next one follows.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
const CONNECT_INTERVAL: Duration = Duration::from_millis(10);

/// A process in a lab; dropping it kills its process group and reaps it.
#[derive(Debug)]
pub struct Child(Arc<Running>);

/// The process behind a [`Child`], which the lab also knows for its teardown.
#[derive(Debug)]
pub(crate) struct Running {
    line: String,
    pid: Pid,
    pidfd: OwnedFd,
    state: Mutex<State>,
    stdout: Arc<Output>,
    stderr: Arc<Output>,
}

/// The exit status once reaped. Until then the process id, and its group's, cannot be anyone else's: signals are sent
/// only while this is locked and empty.
#[derive(Debug)]
struct State {
    child: std::process::Child,
    status: Option<ExitStatus>,
}

impl Child {
    /// Takes over what `spawn` starts: the command `line` with a process group of its own and its output in pipes.
    pub(crate) fn start(line: String, spawn: impl FnOnce() -> io::Result<std::process::Child>) -> Result<Self, Error> {
        debug!(command = line, "starting a process in the lab");
        let start_error = |source| Error::Io { action: format!("start `{line}`"), source };
        let mut child = spawn().map_err(start_error)?;
        let opened = Pid::from_raw(i32::try_from(child.id()).unwrap_or_default())
            .ok_or(rustix::io::Errno::SRCH)
            .and_then(|pid| Ok((pid, pidfd_open(pid, PidfdFlags::empty())?)));
        let (pid, pidfd) = match opened {
            Ok(opened) => opened,
            Err(errno) => {
                // Not under guard yet: end it here. Failing means it has ended already.
                let _ = child.kill();
                let _ = child.wait();
                return Err(start_error(errno.into()));
            }
        };
        let stdout = child.stdout.take().map_or_else(Arc::default, Output::read);
        let stderr = child.stderr.take().map_or_else(Arc::default, Output::read);
        let state = Mutex::new(State { child, status: None });
        Ok(Self(Arc::new(Running { line, pid, pidfd, state, stdout, stderr })))
    }

    pub(crate) fn running(&self) -> &Arc<Running> {
        &self.0
    }

    /// The process id, which is also its process group's.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.0.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// Waits until the process has printed exactly this line on standard output.
    ///
    /// # Errors
    /// [`Error::NotPrinted`] or [`Error::EndedEarly`] with the process's last output.
    pub fn wait_for_line(&self, line: &str, timeout: Duration) -> Result<(), Error> {
        self.wait_for_output(&format!("{line:?}"), |printed| printed == line, timeout).map(drop)
    }

    /// Waits for the first line on standard output, printed already or to come, that satisfies a condition, and returns
    /// it. `awaited` describes it in the error message.
    ///
    /// # Errors
    /// [`Error::NotPrinted`] or [`Error::EndedEarly`] with the process's last output.
    pub fn wait_for_output(
        &self,
        awaited: &str,
        condition: impl Fn(&str) -> bool,
        timeout: Duration,
    ) -> Result<String, Error> {
        self.0.wait_for(&self.0.stdout, awaited, condition, timeout)
    }

    /// Waits for a line on standard error (where logs go), as [`Self::wait_for_output`] does for standard output.
    ///
    /// # Errors
    /// [`Error::NotPrinted`] or [`Error::EndedEarly`] with the process's last output.
    pub fn wait_for_log(
        &self,
        awaited: &str,
        condition: impl Fn(&str) -> bool,
        timeout: Duration,
    ) -> Result<String, Error> {
        self.0.wait_for(&self.0.stderr, awaited, condition, timeout)
    }

    /// Waits until connections from a namespace to an address are accepted, which is this server's doing.
    ///
    /// # Errors
    /// [`Error::NotOpen`] after `timeout`, or once it has ended; [`Error::Io`] if the namespace cannot be entered.
    pub fn wait_until_open(&self, from: &Namespace, address: SocketAddr, timeout: Duration) -> Result<(), Error> {
        let deadline = Instant::now() + timeout;
        from.enter(|| {
            loop {
                match TcpStream::connect_timeout(&address, CONNECT_TIMEOUT) {
                    Ok(_) => return Ok(()),
                    Err(source) if !self.is_running() || Instant::now() > deadline => {
                        let (process, output) = (self.0.line.clone(), self.0.last_output());
                        return Err(Error::NotOpen { process, address, source, output });
                    }
                    Err(_) => thread::sleep(CONNECT_INTERVAL),
                }
            }
        })?
    }

    /// Standard output so far, by lines; complete once the process has ended.
    #[must_use]
    pub fn stdout(&self) -> Vec<String> {
        self.0.stdout.lines()
    }

    /// Standard error so far, by lines; complete once the process has ended.
    #[must_use]
    pub fn stderr(&self) -> Vec<String> {
        self.0.stderr.lines()
    }

    /// Whether the process has not ended yet.
    #[must_use]
    pub fn is_running(&self) -> bool {
        !self.0.wait(Duration::ZERO).is_ok_and(|status| status.is_some())
    }

    /// Sends a signal to the process (not to its group); one that has ended is left alone.
    ///
    /// # Errors
    /// [`Error::Io`] if the system refuses.
    pub fn signal(&self, signal: Signal) -> Result<(), Error> {
        self.0.signal(signal)
    }

    /// Waits for the process to end by itself.
    ///
    /// # Errors
    /// [`Error::StillRunning`] after `timeout`; it goes on running.
    pub fn wait(&self, timeout: Duration) -> Result<ExitStatus, Error> {
        self.0.wait(timeout)?.ok_or_else(|| Error::StillRunning {
            process: self.0.line.clone(),
            timeout,
            output: self.0.last_output(),
        })
    }

    /// Asks the process to end with SIGTERM and waits for it.
    ///
    /// # Errors
    /// [`Error::StillRunning`] after `timeout`; it goes on running.
    pub fn terminate(&self, timeout: Duration) -> Result<ExitStatus, Error> {
        self.signal(Signal::TERM)?;
        self.wait(timeout)
    }

    /// Kills the process and its group with SIGKILL and reaps it.
    pub fn kill(&self) -> ExitStatus {
        self.0.kill()
    }
}

impl Running {
    fn wait_for(
        &self,
        output: &Output,
        awaited: &str,
        condition: impl Fn(&str) -> bool,
        timeout: Duration,
    ) -> Result<String, Error> {
        let process = self.line.clone();
        let awaited_line = awaited.to_owned();
        match output.wait_for(condition, timeout) {
            Awaited::Line(line) => Ok(line),
            Awaited::TimedOut => {
                Err(Error::NotPrinted { process, awaited: awaited_line, timeout, output: self.last_output() })
            }
            Awaited::Ended => {
                // What it died of is on the other stream, perhaps not read yet.
                self.stdout.wait_for_end(OUTPUT_GRACE);
                self.stderr.wait_for_end(OUTPUT_GRACE);
                Err(Error::EndedEarly { process, awaited: awaited_line, output: self.last_output() })
            }
        }
    }

    fn last_output(&self) -> String {
        let mut lines = self.stdout.tail(QUOTED_LINES);
        lines.extend(self.stderr.tail(QUOTED_LINES));
        lines.join("\n")
    }

    fn signal(&self, signal: Signal) -> Result<(), Error> {
        let state = self.lock();
        if state.status.is_some() {
            return Ok(());
        }
        kill_process(self.pid, signal).map_err(|errno| Error::io(format!("signal `{}`", self.line))(errno.into()))
    }

    /// Waits for the process to end; what it leaves of its group is killed then.
    fn wait(&self, timeout: Duration) -> Result<Option<ExitStatus>, Error> {
        if let Some(status) = self.lock().status {
            return Ok(Some(status));
        }
        let timeout = Timespec::try_from(timeout).ok();
        let mut ended = [PollFd::new(&self.pidfd, PollFlags::IN)];
        match poll(&mut ended, timeout.as_ref()) {
            Ok(0) => Ok(None),
            Ok(_) => Ok(Some(self.kill())),
            Err(errno) => Err(Error::io(format!("wait for `{}`", self.line))(errno.into())),
        }
    }

    /// Kills the process group and reaps its leader, or returns the status it was reaped with earlier.
    pub(crate) fn kill(&self) -> ExitStatus {
        let mut state = self.lock();
        if let Some(status) = state.status {
            return status;
        }
        // The leader is not reaped yet, so the group's id is still its own. An error means there is nobody left in it.
        let _ = kill_process_group(self.pid, Signal::KILL);
        // Waiting for a child of our own after SIGKILL fails only if someone else reaped it.
        let status = state.child.wait().unwrap_or_else(|_| ExitStatus::from_raw(Signal::KILL.as_raw()));
        state.status = Some(status);
        drop(state);
        self.stdout.wait_for_end(OUTPUT_GRACE);
        self.stderr.wait_for_end(OUTPUT_GRACE);
        status
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::process::CommandExt, process::Command};

    use super::*;
    use crate::tool::{captured, command_line};

    const LONG: Duration = Duration::from_secs(30);

    fn start(command: &mut Command) -> Result<Child, Error> {
        Child::start(command_line(command), || captured(command).process_group(0).spawn())
    }

    fn shell(script: &str) -> Child {
        start(Command::new("/bin/sh").args(["-c", script])).unwrap()
    }

    #[test]
    fn a_process_that_is_terminated_ends_its_own_way() {
        let child = shell("trap 'echo bye; exit 7' TERM; echo ready; while :; do sleep 0.01; done");
        child.wait_for_line("ready", LONG).unwrap();
        assert!(child.is_running());
        assert_eq!(child.terminate(LONG).unwrap().code(), Some(7));
        assert_eq!(child.stdout(), ["ready", "bye"]);
        assert!(!child.is_running());
        child.signal(Signal::TERM).unwrap();
    }

    #[test]
    fn a_process_that_dies_early_is_quoted() {
        let child = shell("echo starting; echo no such interface >&2; exit 1");
        let error = child.wait_for_line("ready", LONG).unwrap_err();
        assert!(matches!(error, Error::EndedEarly { .. }), "{error}");
        let text = error.to_string();
        assert!(text.contains("starting") && text.contains("no such interface"), "{text}");
    }

    #[test]
    fn a_process_that_ignores_the_request_is_still_running() {
        let child = shell("trap '' TERM; echo ready; while :; do sleep 0.01; done");
        child.wait_for_line("ready", LONG).unwrap();
        let error = child.terminate(Duration::from_millis(1)).unwrap_err();
        assert!(matches!(error, Error::StillRunning { .. }), "{error}");
        assert_eq!(child.kill().signal(), Some(9));
    }

    #[test]
    fn dropping_ends_the_whole_process_group() {
        let child = shell("sleep 600 & echo $!; echo ready; wait");
        child.wait_for_line("ready", LONG).unwrap();
        let grandchild = Pid::from_raw(child.stdout()[0].parse().unwrap()).unwrap();
        let grandchild = pidfd_open(grandchild, PidfdFlags::empty()).unwrap();
        let ended = |timeout: Duration| {
            let timeout = Timespec::try_from(timeout).unwrap();
            poll(&mut [PollFd::new(&grandchild, PollFlags::IN)], Some(&timeout)).unwrap() == 1
        };
        assert!(!ended(Duration::ZERO));
        let proc = format!("/proc/{}", child.pid());
        assert!(std::fs::exists(&proc).unwrap());
        drop(child);
        assert!(!std::fs::exists(&proc).unwrap(), "not reaped");
        assert!(ended(LONG));
    }

    #[test]
    fn a_missing_program_is_named() {
        let error = start(&mut Command::new("/no/such/program")).unwrap_err();
        assert!(error.to_string().starts_with("cannot start `program`"), "{error}");
    }
}
