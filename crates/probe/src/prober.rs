//! A run of the prober: the engine on a thread of its own.

use std::{
    io,
    sync::Arc,
    thread,
    time::{Duration, SystemTime},
};

use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::{
    config::{Config, ConfigError},
    engine::{Engine, Stopper},
    measure::{InvalidReason, Measurement},
    record::Progress,
    report::Report,
    results::{self, Results, Sink},
};

/// A run of the prober, not started yet.
#[derive(Debug)]
pub struct Prober {
    config: Config,
    progress: Arc<Progress>,
    sink: Option<Sink>,
}

impl Prober {
    /// # Errors
    ///
    /// The configuration asks for nothing, or for what cannot be sent.
    pub fn new(config: Config) -> Result<Self, ConfigError> {
        config.validate()?;
        let progress = Progress::new(&config);
        Ok(Self { config, progress, sink: None })
    }

    /// The state of the run, for a live display on any thread.
    #[must_use]
    pub fn progress(&self) -> Arc<Progress> {
        self.progress.clone()
    }

    /// The results of single requests while the run goes on, to be read on another thread. The queue holds about
    /// `capacity`; what does not fit is dropped and counted.
    pub fn results(&mut self, capacity: usize) -> Results {
        let (sink, results) = results::queue(capacity);
        self.sink = Some(sink);
        results
    }

    /// As [`Self::measure`], and reports.
    pub async fn run(self, stop: CancellationToken) -> Report {
        Report::new(&self.measure(stop).await)
    }

    /// Starts requests until the duration is over or `stop` is cancelled, and waits for the last of them.
    ///
    /// The work is done by a thread that the calling thread starts, and so in whatever network namespace that has
    /// entered; what else the runtime does delays no request. Dropping the future stops the run.
    pub async fn measure(self, stop: CancellationToken) -> Measurement {
        let Self { config, progress, sink } = self;
        let max_lag = config.max_lag;
        let measured = async {
            let stopper = Stopper::new()?;
            if stop.is_cancelled() {
                stopper.stop();
            }
            let (result, mut measurement) = oneshot::channel();
            let thread = stopper.clone();
            thread::Builder::new().name("probe".to_owned()).spawn(move || {
                let run = || Engine::new(config, progress, sink)?.run(&thread);
                // Nobody may wait any more.
                drop(result.send(run()));
            })?;
            let guard = StopOnDrop(stopper);
            let ended = tokio::select! {
                measurement = &mut measurement => measurement,
                () = stop.cancelled() => {
                    guard.0.stop();
                    measurement.await
                }
            };
            ended.map_err(|_| io::Error::other("the engine's thread panicked"))?
        };
        measured.await.unwrap_or_else(|error: io::Error| {
            tracing::error!(%error, "the prober could not run");
            Measurement::of_nothing(max_lag, InvalidReason::LocalError)
        })
    }
}

struct StopOnDrop(Stopper);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.stop();
    }
}

impl Measurement {
    /// A run that did not take place.
    fn of_nothing(max_lag: Duration, reason: InvalidReason) -> Self {
        Self {
            started: SystemTime::now(),
            duration: Duration::ZERO,
            ended: Duration::ZERO,
            lanes: Vec::new(),
            lag: crate::Latency::fine(),
            max_lag,
            invalid: vec![reason],
            results_dropped: 0,
        }
    }
}
