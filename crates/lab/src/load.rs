//! Probing from inside a namespace.

use std::{sync::Arc, thread::JoinHandle};

use evenkeel_probe::{Config, Prober, Progress, Report};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{Error, Namespace};

/// A run of the prober on a thread inside a namespace; dropping it stops it.
#[derive(Debug)]
pub struct Load {
    progress: Arc<Progress>,
    stop: DropGuard,
    /// The outer result is about entering the namespace.
    thread: JoinHandle<Result<Result<Report, Error>, Error>>,
}

impl Load {
    /// Starts to send requests.
    ///
    /// # Errors
    /// [`Error::Load`] for a configuration the prober refuses, [`Error::Io`] if no thread can be started.
    pub fn start(namespace: &Namespace, config: Config) -> Result<Self, Error> {
        let prober = Prober::new(config)?;
        let progress = prober.progress();
        let stop = CancellationToken::new();
        let token = stop.clone();
        let thread = namespace.thread("load", move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(Error::io("start the runtime of the load"))?;
            Ok(runtime.block_on(prober.run(token)))
        })?;
        Ok(Self { progress, stop: stop.drop_guard(), thread })
    }

    /// What became of the requests so far; to be read from any thread.
    #[must_use]
    pub fn progress(&self) -> Arc<Progress> {
        Arc::clone(&self.progress)
    }

    /// Whether the configured duration is over and the last request has ended.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }

    /// Starts no further requests, waits for those in flight, and returns the report.
    ///
    /// # Errors
    /// What the thread met with.
    pub fn stop(self) -> Result<Report, Error> {
        drop(self.stop);
        join(self.thread)
    }

    /// Waits until the configured duration is over and returns the report.
    ///
    /// # Errors
    /// What the thread met with.
    pub fn wait(self) -> Result<Report, Error> {
        // The guard stays until then: dropping it would stop the run.
        let Self { stop: _stop, thread, .. } = self;
        join(thread)
    }
}

fn join(thread: JoinHandle<Result<Result<Report, Error>, Error>>) -> Result<Report, Error> {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?
}
