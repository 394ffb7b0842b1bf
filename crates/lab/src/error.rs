//! What can go wrong in a lab, each with what to do about it where there is something to do.

use std::{io, net::SocketAddr, path::PathBuf, process::ExitStatus, time::Duration};

/// Why a lab could not be built, or why a process in it did not do what was awaited.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The process lacks CAP_SYS_ADMIN.
    #[error("network namespaces need root (CAP_SYS_ADMIN): run the same command with sudo")]
    NotPermitted,
    /// A private file system could not be mounted.
    #[error("cannot mount {what} on {}: {source}", target.display())]
    Mount {
        /// The file system, such as `bpffs`.
        what: &'static str,
        /// The mount point.
        target: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// A name the kernel or iproute2 would refuse, or would read as an option.
    #[error("{name:?} cannot name {what}: {rule}")]
    InvalidName {
        /// What was to be named, such as `an interface`.
        what: &'static str,
        /// The refused name.
        name: String,
        /// The rule it breaks.
        rule: &'static str,
    },
    /// A program the lab relies on is not installed.
    #[error("{program} is not installed: install the package {package}")]
    ToolMissing {
        /// The program.
        program: String,
        /// The package that has it on Debian and Ubuntu.
        package: String,
    },
    /// The kernel was built without something.
    #[error("this kernel has no interfaces of type {what}")]
    Unsupported {
        /// The type, as `ip link` calls it.
        what: String,
    },
    /// A configuration command failed.
    #[error("`{command}` failed ({status}): {stderr}")]
    Command {
        /// The command line.
        command: String,
        /// How it ended.
        status: ExitStatus,
        /// What it said.
        stderr: String,
    },
    /// A system call failed.
    #[error("cannot {action}: {source}")]
    Io {
        /// What was attempted.
        action: String,
        /// The system's answer.
        source: io::Error,
    },
    /// A process did not print what was awaited in time.
    #[error("{process} did not print {awaited} within {timeout:?}; its last output:\n{output}")]
    NotPrinted {
        /// The process.
        process: String,
        /// The line or a description of it.
        awaited: String,
        /// How long it was awaited.
        timeout: Duration,
        /// The end of its standard output and error.
        output: String,
    },
    /// A process closed its output before it printed what was awaited.
    #[error("{process} ended before it printed {awaited}; its last output:\n{output}")]
    EndedEarly {
        /// The process.
        process: String,
        /// The line or a description of it.
        awaited: String,
        /// The end of its standard output and error.
        output: String,
    },
    /// A server ended, or took too long, before it accepted connections.
    #[error("{process} does not accept connections at {address}: {source}; its last output:\n{output}")]
    NotOpen {
        /// The process.
        process: String,
        /// Where they were tried.
        address: SocketAddr,
        /// What the last one met with.
        source: io::Error,
        /// The end of its standard output and error.
        output: String,
    },
    /// A process did not end in time.
    #[error("{process} was still running {timeout:?} after it was asked to end; its last output:\n{output}")]
    StillRunning {
        /// The process.
        process: String,
        /// How long its end was awaited.
        timeout: Duration,
        /// The end of its standard output and error.
        output: String,
    },
    /// The prober refused its configuration.
    #[error("the load was refused: {0}")]
    Load(#[from] evenkeel_probe::ConfigError),
    /// No address is left for another backend.
    #[error("this lab has no address left for another backend")]
    AddressesExhausted,
    /// A backend by this name does not exist.
    #[error("there is no backend {name} in this lab")]
    UnknownBackend {
        /// The name asked for.
        name: String,
    },
}

impl Error {
    /// Wraps an I/O error with what was attempted.
    pub(crate) fn io(action: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { action: action.into(), source }
    }
}
