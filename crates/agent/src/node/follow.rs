//! What follows from what is heard of the cluster, and what this node tells it.

use std::time::Instant;

use evenkeel_ownership::Input;

use super::NodeAgent;
use crate::{cluster::Cluster, host, status};

impl NodeAgent {
    /// Takes notice of what was heard of the cluster.
    pub(super) fn hear(&mut self, news: Vec<Input>) {
        let Some(cluster) = &mut self.cluster else { return };
        let now = Instant::now();
        let was_live = cluster.is_live();
        for input in news {
            cluster.handle(input, now);
        }
        if cluster.is_live() && !was_live {
            // Whatever was cut off has heard nothing meanwhile.
            self.announcer.restart_all(now);
        }
        self.follow_at = Some(self.rested);
    }

    /// Draws the consequences of what was heard. That takes the longer the more addresses there are, and where thousands are
    /// taken there is news all the time: half of the time is left for hearing it.
    pub(super) fn follow_at_last(&mut self) {
        let began = Instant::now();
        self.follow_cluster();
        self.rested = Instant::now() + began.elapsed();
    }

    /// Does what the cluster asks of this node, and decides anew when owners or nodes have become others.
    pub(super) fn follow_cluster(&mut self) {
        self.follow_at = None;
        loop {
            let now = Instant::now();
            let Some(cluster) = &mut self.cluster else { return };
            if let Some(plan) = self.plan.as_ref().filter(|_| cluster.awaits_elections()) {
                let not_carried = self.failed.iter().map(|key| key.address.ip()).collect();
                cluster.set_elected(plan, &not_carried, self.complete, now);
            }
            for vip in cluster.act(&self.interfaces, now) {
                tracing::warn!(%vip, "another host claims it, but it is this node's: answering again");
                self.data_path.settle_claim(vip);
                self.claims.remove(&vip);
                self.announcer.restart_vip(vip, now);
            }
            if !cluster.is_news() {
                break;
            }
            let Some(last) = self.last.clone() else { break };
            self.decide(&last);
            if self.plan.is_none() {
                break;
            }
        }
        self.announce();
    }

    /// Lets the data path answer for VIPs until the next time, and somewhat longer. What has fallen silent while there was no
    /// agent stays so until it is known who owns what.
    pub(super) fn attend(&mut self) {
        if !self.knows_owners() && !self.data_path.is_attended() {
            return;
        }
        let cluster = self.config.cluster.as_ref();
        let limit = cluster.and_then(|cluster| cluster.unattended_limit);
        self.data_path.attend(limit, cluster.is_some(), self.drain.is_closing());
    }

    fn knows_owners(&self) -> bool {
        self.cluster.as_ref().is_none_or(Cluster::has_begun)
    }

    /// Finds out which VIPs the data path has stopped answering for because others claim them.
    pub(super) fn look_at_claims(&mut self) {
        // What an earlier process has yielded, nobody knows yet to be this node's again.
        if !self.knows_owners() {
            return;
        }
        let claims = match self.data_path.claims() {
            Ok(claims) => claims,
            Err(error) => {
                tracing::warn!(%error, "cannot see who claims VIPs");
                return;
            }
        };
        if claims.is_empty() && self.claims.is_empty() {
            return;
        }
        let (claims, stale): (Vec<_>, Vec<_>) = claims.into_iter().partition(|(vip, _)| self.answered.contains(vip));
        for (vip, _) in stale {
            self.data_path.settle_claim(vip);
        }
        for (vip, mac) in claims.iter().filter(|(vip, _)| !self.claims.contains_key(vip)) {
            let mac = status::mac(*mac);
            if self.cluster.as_ref().is_none_or(|cluster| cluster.owns(*vip)) {
                tracing::warn!(%vip, mac, "another host claims it: not answering until it is clear whose it is");
            } else {
                tracing::info!(%vip, mac, "handed over");
            }
        }
        self.claims = claims.into_iter().collect();
        let Some(cluster) = &mut self.cluster else { return };
        cluster.set_claims(self.claims.keys().copied().collect(), Instant::now());
        self.follow_cluster();
    }

    /// Begins to give everything away; `false`: there is nobody to give it to, or no wish to.
    pub(super) fn leave(&mut self, releases: bool) -> bool {
        let Some(cluster) = self.cluster.as_mut().filter(|cluster| releases && cluster.is_live()) else { return false };
        tracing::info!("giving everything away");
        cluster.handle(Input::Leave, Instant::now());
        self.follow_cluster();
        true
    }

    /// Whether it gives everything away whenever it ends.
    pub(super) fn releases(&self) -> bool {
        self.config.cluster.as_ref().is_some_and(|cluster| cluster.release)
    }

    pub(super) fn has_left(&self) -> bool {
        self.follow_at.is_none() && self.cluster.as_ref().is_none_or(Cluster::has_left)
    }

    /// Tells the cluster what this node's interfaces are.
    pub(super) fn tell_interfaces(&mut self) {
        let voices = host::addresses(&self.config.interfaces);
        if let Some(cluster) = &mut self.cluster {
            cluster.set_interfaces(&self.interfaces, voices, Instant::now());
        }
    }
}
