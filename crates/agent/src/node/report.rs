//! What the node says of itself.

use std::{collections::BTreeSet, net::IpAddr};

use evenkeel_loader::Mode;

use super::NodeAgent;
use crate::{
    cluster::Cluster,
    metrics,
    status::{self, Status},
};

impl NodeAgent {
    /// Whether every VIP this node should carry is carried and announced; if not, why.
    pub(super) fn ready(&self) -> Result<(), String> {
        let obstacles = [
            (self.drain.has_begun(), "draining"),
            (self.plan.is_none(), "what is to be carried is not known yet"),
            (self.cluster.as_ref().is_some_and(|cluster| !cluster.has_begun()), "who owns what is not known yet"),
            (self.follow_at.is_some(), "what was heard of the cluster is not in force yet"),
            (self.behind, "not everything is carried"),
            (!self.missing.is_empty(), "an interface is missing"),
            (self.unattached.is_some(), "an interface has no programs"),
            (!self.announcer.all_announced(), "not everything is announced"),
        ];
        let reason = obstacles.into_iter().find(|(is_so, _)| *is_so);
        reason.map_or(Ok(()), |(_, reason)| Err(reason.to_owned()))
    }

    /// The VIPs that the data path answers for: none where it only counts.
    fn answering(&self) -> &BTreeSet<IpAddr> {
        static NONE: BTreeSet<IpAddr> = BTreeSet::new();
        if self.data_path.mode() == Mode::Observe { &NONE } else { &self.answered }
    }

    pub(super) fn metrics(&self) -> String {
        metrics::Snapshot {
            node: &self.config.node,
            ready: self.ready().is_ok(),
            counters: self.data_path.counters().unwrap_or_default(),
            flow_table: self.data_path.flow_table(),
            changes: &self.changes,
            plan: self.plan.as_ref(),
            announced: self.answering(),
            questions: self.data_path.questions().unwrap_or_default(),
            gratuitous: self.announcer.sent(),
            api: self.cluster.as_ref().map(Cluster::is_live),
            claims: self.claims.len(),
        }
        .to_string()
    }

    pub(super) fn status(&self) -> Status {
        status::Snapshot {
            node: &self.config.node,
            ready: self.ready().is_ok(),
            changes: &self.changes,
            data_path: &self.data_path,
            interfaces: &self.interfaces,
            plan: self.plan.as_ref(),
            health: &self.health,
            announced: self.answering(),
            claims: &self.claims,
            record: &|address| self.cluster.as_ref().and_then(|cluster| cluster.record(address)),
            forwarding: self.config.defaults.forwarding,
            problems: self
                .problems
                .iter()
                .chain(&self.obstacles)
                .chain(&self.unattached)
                .chain(&self.unprepared)
                .chain(&self.unsaved)
                .chain(self.health_ports.problems())
                .cloned()
                .collect(),
        }
        .status()
    }
}
