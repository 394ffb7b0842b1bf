//! One module per command: its arguments and the call into the library that does the work.

pub(crate) mod agent;
pub(crate) mod controller;
pub(crate) mod crds;
pub(crate) mod demo;
pub(crate) mod downgrade;
pub(crate) mod drain;
pub(crate) mod import;
pub(crate) mod install;
pub(crate) mod lint;
pub(crate) mod mode;
pub(crate) mod plan;
pub(crate) mod probe;
pub(crate) mod run;
pub(crate) mod status;
mod terminal;
pub(crate) mod uninstall;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Every request in flight takes a descriptor, and the usual soft limit is 1024. Failing that, requests are counted
/// as local errors when they run out.
pub(crate) fn raise_descriptor_limit() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        eprintln!("warning: cannot raise the limit of open files: {error}");
    }
}
