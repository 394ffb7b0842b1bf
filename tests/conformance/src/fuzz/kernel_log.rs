//! Complaints of the kernel since a moment.

use std::{
    fs::{File, OpenOptions},
    io::{Read as _, Seek as _, SeekFrom},
    os::unix::fs::OpenOptionsExt as _,
};

/// Words with which the kernel reports a fault of its own.
const COMPLAINTS: [&str; 7] = ["WARNING:", "BUG:", "Oops", "Call Trace", "general protection", "KASAN", "rcu_sched"];

/// The kernel's log from now on.
pub(super) struct KernelLog(File);

impl KernelLog {
    /// `None` where the log may not be read.
    pub(super) fn open() -> Option<Self> {
        let mut file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open("/dev/kmsg").ok()?;
        file.seek(SeekFrom::End(0)).ok()?;
        Some(Self(file))
    }

    /// The first complaint since the last look.
    pub(super) fn complaint(&mut self) -> Option<String> {
        let mut record = [0; 8192];
        // One record a read; none left is an error.
        while let Ok(length) = self.0.read(&mut record) {
            let line = String::from_utf8_lossy(&record[..length]).into_owned();
            if COMPLAINTS.iter().any(|word| line.contains(word)) {
                return Some(line);
            }
        }
        None
    }
}
