//! Carrying the Plan out: the frontends first, then the VIPs.

use std::{
    collections::{BTreeSet, HashMap},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Instant,
};

use evenkeel_health::Group;
use evenkeel_loader::{FrontendSpec, Hook, Interface, Mode, Others};
use evenkeel_maps::Vip;
use evenkeel_neighbor::Due;
use evenkeel_plan::{
    Plan,
    frontends::{self, NodeView},
};

use super::{Extent, NodeAgent};
use crate::{
    cluster::Cluster,
    desired::{self, NotCarried},
};

/// Most VIPs announced in one go: thousands take longer than changes should wait.
const ANNOUNCED_AT_ONCE: usize = 64;

/// Closes the frontends of these VIPs.
fn close(frontends: &mut [Arc<FrontendSpec>], closed: &BTreeSet<IpAddr>) {
    if closed.is_empty() {
        return;
    }
    for frontend in frontends.iter_mut().filter(|frontend| closed.contains(&frontend.key.address.ip())) {
        Arc::make_mut(frontend).closed = true;
    }
}

impl NodeAgent {
    /// Carries what differs from the Plan before, if that is no more than where some frontends lead; else it does nothing, and
    /// everything has to be brought in line ([`Self::carry`]).
    pub(super) fn carry_changed(&mut self, before: &Plan) -> Extent {
        let Some(plan) = &self.plan else { return Extent::Whole };
        let node = NodeView { name: &self.config.node, zone: self.zone.as_deref() };
        let Some(mut changed) = self.desired.changed(before, plan, node, self.config.defaults) else {
            return Extent::Whole;
        };
        self.spare_adopted(&mut changed);
        close(&mut changed, &self.closed);
        if !self.data_path.change_frontends(&changed, Instant::now()).is_empty() {
            // It will be tried again, and told.
            return Extent::Whole;
        }
        if plan.frontends_since(before).into_iter().flatten().any(|frontend| frontend.health.is_some()) {
            self.check_health();
        }
        self.report_health();
        Extent::Frontends
    }

    /// Leaves alone what an earlier process carries and has no endpoints now, if there may be some that cannot be read.
    fn spare_adopted(&self, frontends: &mut Vec<Arc<FrontendSpec>>) {
        if self.unread_endpoints {
            frontends.retain(|spec| !spec.backends.is_empty() || !self.data_path.is_adopted(spec.key));
        }
    }

    /// Brings the data plane and the announcements in line with the Plan.
    pub(super) fn carry(&mut self) {
        let Some(plan) = &self.plan else { return };
        let mut obstacles = Vec::new();
        let node = NodeView { name: &self.config.node, zone: self.zone.as_deref() };
        let (mut frontends, not_carried) = self.desired.frontends(plan, node, self.config.defaults);
        self.spare_adopted(&mut frontends);
        close(&mut frontends, &self.closed);
        for NotCarried { frontend: (address, port, protocol), reason } in not_carried {
            obstacles.push(format!(
                "[{reason}] {address} port {port}/{protocol} is planned, but this data plane cannot carry it"
            ));
        }
        obstacles.extend(self.unreachable_by_xdp(&frontends));
        let now = Instant::now();
        let failures = self.data_path.set_frontends(&frontends, self.others(), now);
        self.behind = !failures.is_empty();
        // One that is carried goes on by its former table: no reason to take its VIP away.
        self.failed = failures.iter().map(|(key, _)| *key).filter(|key| !self.data_path.carries(*key)).collect();
        self.cluster.iter_mut().for_each(Cluster::await_elections);
        for (key, error) in failures {
            obstacles.push(format!("{}: {error}", SocketAddr::new(key.address.ip(), key.port())));
        }
        self.own(now, &mut obstacles);
        for new in obstacles.iter().filter(|text| !self.obstacles.contains(text)) {
            tracing::error!("{new}");
        }
        self.obstacles = obstacles;
        self.report_health();
    }

    /// Why packets with another source than their client's may get nowhere, if so: those that arrive by XDP leave by the same
    /// interface or one with XDP in its driver, and the host's own stack would take its own address for a forgery.
    fn unreachable_by_xdp(&self, frontends: &[Arc<FrontendSpec>]) -> Option<String> {
        let replaces =
            |spec: &Arc<FrontendSpec>| spec.rewrite_source || spec.backends.iter().any(|backend| backend.elsewhere);
        let hook = |interface: &&Interface| self.data_path.hook(interface);
        let arrives = self.interfaces.iter().find(|one| matches!(hook(one), Some(Hook::Xdp | Hook::XdpGeneric)))?;
        let others = self.interfaces.iter().filter(|one| one.index != arrives.index);
        let closed = others.filter(|one| hook(one) != Some(Hook::Xdp)).map(|one| &*one.name).collect::<Vec<_>>();
        (!closed.is_empty() && frontends.iter().any(replaces)).then(|| {
            format!(
                "[source_past_xdp] {} has XDP and {} has it not in its driver: packets whose source is replaced do not get \
                 from the one to the other; attach {} by tcx or clsact (--hook)",
                arrives.name,
                closed.join(", "),
                arrives.name
            )
        })
    }

    pub(super) fn others(&self) -> Others {
        if self.complete { Others::Remove } else { Others::Keep }
    }

    /// Answers for and announces the VIPs this node owns, and nothing that is not carried.
    pub(super) fn own(&mut self, now: Instant, obstacles: &mut Vec<String>) {
        let Some(plan) = &self.plan else { return };
        let mut owned = match &self.cluster {
            None => desired::owned(plan, &self.config.node),
            // Who owns what is not known yet: what an earlier process answers for stays.
            Some(cluster) if !cluster.has_begun() => return,
            Some(cluster) => desired::held(plan, |address| cluster.answers(address)),
        };
        let cluster = self.cluster.as_ref();
        let is_deserted = |vip| {
            desired::is_deserted(plan, &self.config.node, vip) && cluster.is_none_or(|cluster| cluster.answers(vip))
        };
        let living = |vips: &BTreeSet<IpAddr>| self.data_path.with_connections(vips);
        self.holding.add_to(&mut owned, is_deserted, self.unread_endpoints, living, now);
        // For the node's own addresses the host answers, and for ports of them that are nobody's.
        let at_vips = plan.frontends.values().filter(|frontend| !frontend.on_node);
        let mut vips: HashMap<IpAddr, Vip> = at_vips.map(|frontend| (frontend.address, Vip { answer_on: 0 })).collect();
        let mut due = Vec::new();
        let mut nowhere = BTreeSet::new();
        for (address, only_on) in owned {
            if self.failed.iter().any(|key| key.address.ip() == address) {
                continue;
            }
            let Some(vip) = vips.get_mut(&address) else { continue };
            for interface in &self.interfaces {
                if only_on.as_ref().is_none_or(|names| names.contains(&interface.name)) {
                    vip.answer_on |= self.data_path.answer_bit(interface);
                    due.push(Due { address, interface: interface.index });
                }
            }
            if vip.answer_on == 0 {
                nowhere.insert(address);
                obstacles
                    .push(format!("[no_interface] {address} is not announced: no advertised interface is attached"));
            }
        }
        if let Err(error) = self.data_path.set_vips(&vips, self.others()) {
            obstacles.push(format!("cannot change the VIPs: {error}"));
            self.behind = true;
            return;
        }
        let answered = vips.iter().filter(|(_, vip)| vip.answer_on != 0).map(|(address, _)| *address);
        let before = std::mem::replace(&mut self.answered, answered.collect());
        for new in self.answered.difference(&before) {
            // Whoever claimed it when this node had it last does so no longer, or will again.
            self.data_path.settle_claim(*new);
        }
        let interface = |index: u32| self.interfaces.iter().find(|interface| interface.index == index);
        let heard = due.iter().filter_map(|due| match due.address {
            IpAddr::V6(vip) => Some((vip, interface(due.interface)?)),
            IpAddr::V4(_) => None,
        });
        for failure in self.groups.set(heard) {
            obstacles.push(failure.to_string());
            self.behind = true;
        }
        // Nobody is to be attracted to what is only counted, nor to who is handing an address over.
        let counts_only = self.data_path.mode() == Mode::Observe;
        let owns = |address| self.cluster.as_ref().is_none_or(|cluster| cluster.owns(address));
        let is_leaving = self.drain.is_closing();
        due.retain(|due| !counts_only && !is_leaving && owns(due.address));
        self.announcer.set(due, now);
        self.announce();
        if let (Some(cluster), Some(plan)) = (&self.cluster, &self.plan) {
            let announces =
                |address| cluster.owns(address) && (self.answered.contains(&address) || nowhere.contains(&address));
            cluster.tell(desired::told(plan, announces, &nowhere));
        }
    }

    /// Sends what is due, or part of it: then the loop comes back here, and to what has changed meanwhile.
    pub(super) fn announce(&mut self) {
        let now = Instant::now();
        for due in self.announcer.poll(now, ANNOUNCED_AT_ONCE) {
            let Some(interface) = self.interfaces.iter().find(|interface| interface.index == due.interface) else {
                continue;
            };
            match self.sender.announce(due.address, interface) {
                Ok(()) => tracing::debug!(vip = %due.address, interface = interface.name, "announced"),
                Err(error) => {
                    // Nobody can hear it; the link's state has been told already.
                    if interface.running {
                        tracing::warn!(vip = %due.address, interface = interface.name, %error, "not announced");
                    }
                    self.announcer.not_sent(due, now);
                }
            }
        }
    }

    /// Tries again what could not be done: rows and slots come free with time.
    pub(super) fn finish(&mut self) {
        self.save();
        self.health_ports.open();
        let held = self.holding.vips();
        if !held.is_empty()
            && !self.unread_endpoints
            && self.holding.is_over(&self.data_path.with_connections(&held), Instant::now())
        {
            self.carry();
        }
        if self.behind {
            self.carry();
            if !self.behind {
                tracing::info!("the data plane has caught up with the manifests");
                self.changes_in_force();
            }
        }
    }

    /// Tells balancers outside of the cluster which services have endpoints here.
    pub(super) fn report_health(&mut self) {
        let (Some(plan), Some(last)) = (&self.plan, &self.last) else { return };
        if self.config.health_check_node_ports {
            let healthy = !self.behind && self.missing.is_empty() && !self.drain.has_begun();
            self.health_ports.set(desired::health_reports(&last.world, plan, &self.config.node, healthy));
        }
    }

    /// Has the backends checked whose services ask for that, and looks at what becomes of their flows.
    pub(super) fn check_health(&mut self) {
        let Some(plan) = &self.plan else { return };
        let view = NodeView { name: &self.config.node, zone: self.zone.as_deref() };
        self.checker.set(plan.frontends.values().filter_map(|frontend| Group::of(frontend, view)).collect());
        let ejects =
            |frontend: &frontends::Frontend| frontend.health.as_ref().is_some_and(|health| health.passive_ejection);
        self.suspects = plan
            .frontends
            .values()
            .filter(|frontend| ejects(frontend))
            .filter_map(|frontend| desired::frontend_key(frontend).ok())
            .collect();
    }
}
