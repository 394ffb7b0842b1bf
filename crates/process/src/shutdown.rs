//! Orderly shutdown: the first SIGINT or SIGTERM asks for it, the second ends the process at once.

use std::{
    io,
    sync::{Arc, atomic::AtomicBool},
    thread,
};

use signal_hook::{
    consts::{SIGINT, SIGTERM},
    flag,
    iterator::Signals,
};
use tokio_util::sync::CancellationToken;

/// A token that is cancelled on the first SIGINT or SIGTERM. The second one has its default effect, even on a process
/// whose runtime is stuck.
///
/// Works with or without a tokio runtime: a thread of its own waits for the signals.
///
/// # Errors
///
/// The signal handlers or the thread could not be made.
pub fn on_signal() -> io::Result<CancellationToken> {
    let token = CancellationToken::new();
    let asked = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // In this order: the first signal finds the flag unset and sets it, the second finds it set.
        flag::register_conditional_default(signal, asked.clone())?;
        flag::register(signal, asked.clone())?;
    }
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    let cancel = token.clone();
    thread::Builder::new().name("signals".to_owned()).spawn(move || {
        if let Some(signal) = signals.forever().next() {
            tracing::info!(signal, "shutting down");
            cancel.cancel();
        }
    })?;
    Ok(token)
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead, BufReader, Write},
        os::unix::process::ExitStatusExt,
        process::{Command, Stdio},
    };

    use rustix::process::{Pid, Signal, kill_process};

    use super::*;

    const CHILD: &str = "EVENKEEL_TEST_SHUTDOWN_CHILD";

    /// Not a test of its own: the process the tests below send signals to. It says when it is ready and when the
    /// token is cancelled, then never ends by itself.
    #[test]
    fn child() {
        if std::env::var_os(CHILD).is_none() {
            return;
        }
        let token = on_signal().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        println!("\nready");
        runtime.block_on(token.cancelled());
        println!("\ncancelled");
        std::io::stdout().flush().unwrap();
        loop {
            thread::park();
        }
    }

    fn signal_twice(first: Signal, second: Signal) -> Option<i32> {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "shutdown::tests::child", "--nocapture"])
            .env(CHILD, "1")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let pid = Pid::from_child(&child);
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut wait_for = |line: &str| assert!(lines.any(|read| read.unwrap() == line), "never printed {line}");
        wait_for("ready");
        kill_process(pid, first).unwrap();
        wait_for("cancelled");
        kill_process(pid, second).unwrap();
        child.wait().unwrap().signal()
    }

    #[test]
    fn the_first_signal_cancels_and_the_second_kills() {
        assert_eq!(signal_twice(Signal::TERM, Signal::TERM), Some(SIGTERM));
        assert_eq!(signal_twice(Signal::INT, Signal::TERM), Some(SIGTERM));
        assert_eq!(signal_twice(Signal::TERM, Signal::INT), Some(SIGINT));
    }
}
