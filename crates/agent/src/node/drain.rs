//! A drain, from the file that asks for it to the end.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use super::{NodeAgent, RELEASE_TIMEOUT};
use crate::drain::Phase;

impl NodeAgent {
    /// Whether somebody has asked for a drain; at first it is begun.
    pub(super) fn drains(&mut self) -> bool {
        if !self.drain.has_begun() && self.config.drain.file.exists() {
            tracing::info!(file = %self.config.drain.file.display(), "draining: not ready any more");
            let gives_away = self.leave(true);
            let time = if gives_away { RELEASE_TIMEOUT } else { Duration::ZERO };
            self.drain = Phase::HandingOver { until: Instant::now() + time };
            self.report_health();
        }
        self.drain.has_begun()
    }

    /// Goes on with a drain; `false`: it is over.
    pub(super) fn drain_on(&mut self) -> bool {
        let now = Instant::now();
        let is_due = self.drain.until().is_some_and(|until| until <= now);
        match self.drain {
            Phase::HandingOver { .. } if is_due || (self.cluster.is_some() && self.has_left()) => {
                let timeout = self.config.drain.shutdown_timeout;
                // What others have taken over goes on here for those who still send it here. Nobody can take the node's own
                // addresses over.
                let stays = |address: &IpAddr, on_node: bool| {
                    self.cluster.is_none() || on_node || self.answered.contains(address)
                };
                let frontends = self.plan.iter().flat_map(|plan| plan.frontends.values());
                self.closed = frontends
                    .filter(|frontend| stays(&frontend.address, frontend.on_node))
                    .map(|frontend| frontend.address)
                    .collect();
                self.drain = Phase::Closing { until: now + timeout };
                tracing::info!(
                    seconds = timeout.as_secs(),
                    vips = self.closed.len(),
                    "withdrawn: new connections are reset"
                );
                self.attend();
                self.carry();
                true
            }
            Phase::Closing { .. } if is_due => {
                tracing::info!("drained");
                false
            }
            _ => true,
        }
    }
}
