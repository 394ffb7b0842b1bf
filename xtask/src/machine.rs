//! What a measurement asks of the machine, so that it measures the lab and not what else is there.

use std::{
    hint,
    process::{self, Command},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use evenkeel_lab::find_program;
use rustix::thread::gettid;

/// Keeps the processors awake until it is dropped.
pub(crate) struct Awake {
    over: Arc<AtomicBool>,
}

/// Gives each processor something to do that anything else interrupts at once. One that sleeps has to be woken for the next
/// packet, which takes a virtual machine's host milliseconds now and then: more than all that is measured.
///
/// Comes before [`go_first`]: a thread inherits its priority.
pub(crate) fn keep_awake() -> Awake {
    let over = Arc::new(AtomicBool::new(false));
    for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
        let over = Arc::clone(&over);
        thread::spawn(move || {
            // With any other priority it would be in the way.
            if !chrt(&["--idle", "--pid", "0", &gettid().as_raw_nonzero().to_string()]) {
                eprintln!("processors may fall asleep: what the host takes to wake them disturbs the measurement");
                return;
            }
            while !over.load(Ordering::Relaxed) {
                hint::black_box(&over);
            }
        });
    }
    Awake { over }
}

impl Drop for Awake {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

/// Gives the whole lab real-time priority, prober, servers and subjects alike: what else the machine does is then less in its
/// way. What starts from here on inherits it.
pub(crate) fn go_first() {
    if !chrt(&["--rr", "--pid", "1", &process::id().to_string()]) {
        eprintln!("without real-time priority: what else the machine does will disturb the measurement more");
    }
}

/// Whether that was done.
fn chrt(arguments: &[&str]) -> bool {
    find_program("chrt", "util-linux")
        .is_ok_and(|chrt| Command::new(chrt).args(arguments).status().is_ok_and(|status| status.success()))
}
