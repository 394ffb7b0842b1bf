//! The load, and every request of it as it ended.

use std::{
    net::{IpAddr, SocketAddr},
    num::NonZeroU32,
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context as _, Result};
use evenkeel_lab::{Namespace, manifests::Port};
use evenkeel_probe::{Close, Config, Lane, LaneKind, Measurement, Prober, Progress, measure::RequestResult};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{processors::Side, site::NAME};

/// The 99th percentile of the prober's own lag from which on a run says nothing.
pub(crate) const MAX_LAG: Duration = Duration::from_millis(2);
/// Longer than any row: a load ends when its row is over.
const LIMIT: Duration = Duration::from_secs(7200);
/// Results that wait to be taken over; a row has fewer.
const QUEUE: usize = 1 << 18;

/// A stream of requests as a scenario asks for it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stream {
    pub(crate) kind: LaneKind,
    pub(crate) port: Port,
    /// Requests a second, over all lanes of it.
    pub(crate) rate: u32,
    /// Connections of the long-lived kind; lanes, each with a source port of its own, of the kinds with a fixed one.
    pub(crate) width: u32,
}

impl Stream {
    pub(crate) const fn new(kind: LaneKind, port: Port, rate: u32) -> Self {
        Self { kind, port, rate, width: 1 }
    }

    pub(crate) const fn wide(self, width: u32) -> Self {
        Self { width, ..self }
    }

    /// The lanes to these addresses, which share the rate.
    pub(crate) fn lanes<'a>(
        &'a self,
        addresses: &'a [IpAddr],
        servers: &'a [String],
    ) -> impl Iterator<Item = Lane> + 'a {
        let long = self.kind == LaneKind::TcpLong;
        let lanes = if long { 1 } else { self.width };
        let each = self.rate / lanes / u32::try_from(addresses.len()).unwrap_or(1).max(1);
        let rate = NonZeroU32::new(each).unwrap_or(NonZeroU32::MIN);
        addresses.iter().flat_map(move |&address| {
            (0..lanes).map(move |number| {
                let mut lane = Lane::to(self.kind, SocketAddr::from((address, self.port.port)), rate);
                lane.name = format!("{}-{address}-{number}", self.kind.scheme());
                if self.port.name == "dns" {
                    NAME.clone_into(&mut lane.path);
                }
                // The DNS server does not say its name unless asked for it in a way that caches do not have.
                if self.port.name != "dns" {
                    lane.options.servers = servers.iter().cloned().collect();
                }
                if long && let Some(connections) = NonZeroU32::new(self.width) {
                    lane.options.connections = connections;
                }
                lane
            })
        })
    }
}

/// A load that goes on.
pub(crate) struct Recording {
    progress: Arc<Progress>,
    stop: DropGuard,
    /// The outer result is about entering the namespace.
    prober: JoinHandle<Result<Result<Measurement>, evenkeel_lab::Error>>,
    reader: JoinHandle<Vec<RequestResult>>,
    lanes: Vec<LaneOf>,
}

/// What a lane is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LaneOf {
    pub(crate) kind: LaneKind,
    /// Connections among which the requests of a long-lived lane take turns.
    pub(crate) connections: u64,
}

impl LaneOf {
    /// The number of the connection that a request is on; all of a lane with one source port are of one flow.
    pub(crate) fn connection(self, sequence: u64) -> u64 {
        if self.kind == LaneKind::TcpLong { sequence % self.connections } else { 0 }
    }
}

/// A load that has ended.
pub(crate) struct Recorded {
    pub(crate) lanes: Vec<LaneOf>,
    pub(crate) results: Vec<RequestResult>,
    pub(crate) measurement: Measurement,
}

impl Recording {
    pub(crate) fn start(client: &Namespace, lanes: Vec<Lane>, timeout: Duration) -> Result<Self> {
        let kinds = lanes
            .iter()
            .map(|lane| LaneOf { kind: lane.kind, connections: lane.options.connections.get().into() })
            .collect();
        let mut config = Config::new(lanes, LIMIT);
        config.timeout = timeout;
        config.max_lag = MAX_LAG;
        // As ordinary clients end them.
        config.close = Close::Fin;
        let mut prober = Prober::new(config)?;
        let progress = prober.progress();
        let results = prober.results(QUEUE);
        let reader = thread::Builder::new().name("results".to_owned()).spawn(move || results.collect())?;
        let stop = CancellationToken::new();
        let token = stop.clone();
        let prober = client.thread("load", move || -> Result<Measurement> {
            // Its engine's thread inherits that.
            let _kept = Side::Others.keep_thread()?;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            Ok(runtime.block_on(prober.measure(token)))
        })?;
        Ok(Self { progress, stop: stop.drop_guard(), prober, reader, lanes: kinds })
    }

    /// Time since the first request was due, as results have it.
    pub(crate) fn now(&self) -> Duration {
        self.progress.elapsed()
    }

    pub(crate) fn stop(self) -> Result<Recorded> {
        drop(self.stop);
        let measurement = self.prober.join().ok().context("the prober panicked")???;
        let results = self.reader.join().ok().context("the reader of the results panicked")?;
        Ok(Recorded { lanes: self.lanes, results, measurement })
    }
}
