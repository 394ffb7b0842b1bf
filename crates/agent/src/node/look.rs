//! What this host itself changes: interfaces, addresses, the mode, the health of backends.

use std::{sync::Arc, time::Instant};

use evenkeel_health::{
    View,
    passive::{Observation, Symptom},
};
use evenkeel_loader::{Failure, Hook, Interface, Mode, Observed};

use super::NodeAgent;
use crate::{desired, host, leftovers::Step};

impl NodeAgent {
    /// Attaches again where an interface was replaced or got another hardware address, and announces anew where a link came
    /// up: a switch forgets what it knew of a port that was down.
    pub(super) fn look_at_interfaces(&mut self) {
        let mut present = Vec::new();
        for name in &self.config.interfaces {
            match Interface::look_up(name) {
                Ok(interface) => {
                    self.missing.remove(name);
                    present.push(interface);
                }
                Err(error) => {
                    if self.missing.insert(name.clone()) {
                        tracing::error!(%error, "waiting for the interface");
                    }
                }
            }
        }
        if present == self.interfaces {
            self.unattached = None;
            return;
        }
        match self.data_path.attach(&present) {
            Ok(()) => {
                self.unattached = None;
                let now = Instant::now();
                let changed: Vec<Interface> =
                    present.iter().filter(|interface| !self.interfaces.contains(interface)).cloned().collect();
                self.interfaces = present;
                for interface in changed {
                    self.tell_attached(&interface);
                    if interface.running {
                        self.announcer.restart(interface.index, now);
                    }
                }
                self.tell_interfaces();
                self.carry();
                self.follow_cluster();
            }
            Err(error) => {
                let text = format!("cannot attach; trying again: {error}");
                if self.unattached.as_ref() != Some(&text) {
                    tracing::error!("{text}");
                }
                self.unattached = Some(text);
            }
        }
    }

    /// Follows the node's own addresses: services may be served there, and they stand for clients' unless others are given.
    pub(super) fn look_at_addresses(&mut self) {
        let present = host::addresses(&self.config.interfaces);
        if self.config.sources.is_empty()
            && let Err(error) = self.data_path.set_sources(&present)
        {
            tracing::error!(%error, "cannot let the node's addresses stand for clients'; trying again");
        }
        if present == self.addresses {
            return;
        }
        let shown: Vec<String> = present.iter().map(ToString::to_string).collect();
        tracing::info!(addresses = shown.join(", "), "the node's addresses have changed");
        self.addresses = present;
        if let Some(last) = self.last.clone() {
            self.decide(&last);
            self.follow_cluster();
        }
    }

    /// Follows a mode that was switched from outside: what is only counted is not announced.
    pub(super) fn look_at_mode(&mut self) {
        let mode = self.data_path.mode();
        if mode != self.mode {
            tracing::warn!(mode = mode.name(), was = self.mode.name(), "the mode was switched");
            self.mode = mode;
            self.carry();
            self.follow_cluster();
        }
    }

    pub(super) fn reap(&mut self) {
        self.data_path.reap();
    }

    /// When there is something to be done about backends that are no longer endpoints.
    pub(super) fn leftovers_due(&self) -> Option<Instant> {
        if self.mode != Mode::Active {
            // What is only counted is nobody's connection here.
            return None;
        }
        self.leftovers.next_due(self.data_path.burials(), Instant::now())
    }

    /// Asks backends that are no longer endpoints whether they are there, and tells the clients of those that are not.
    pub(super) fn look_at_leftovers(&mut self) {
        let leftovers = self.data_path.leftovers();
        let (burials, now) = (self.data_path.burials(), Instant::now());
        let mut given_up = 0;
        for step in self.leftovers.look(&leftovers, burials, now) {
            let sent = match step {
                Step::Ask(connection, backend) => self.asker.ask_backend(&connection, backend),
                // The client may have gone, or have a new connection there.
                Step::GiveUp(connection) if !self.data_path.abandon(&connection) => continue,
                Step::GiveUp(connection) => {
                    given_up += 1;
                    self.asker.ask_client(&connection)
                }
            };
            if let Err(error) = sent {
                // No way there is an answer, too.
                tracing::debug!(?step, %error, "not asked");
            }
        }
        if given_up > 0 {
            tracing::info!(connections = given_up, "backends that are gone for good: their clients are told");
        }
    }

    /// Gives backends the shares that health checks leave them.
    pub(super) fn heed(&mut self, health: Arc<View>) {
        self.desired.set_health(Arc::clone(&health));
        self.health = health;
        self.carry();
    }

    /// Tells the health checks what backends did to their clients.
    pub(super) fn observe(&mut self) {
        for Observed { frontend, backend, answered, failures } in self.data_path.observe(&self.suspects) {
            let Some(key) = desired::plan_key(&frontend) else { continue };
            if answered {
                self.checker.observe(key, backend, Observation::Success);
            }
            for (source, failure) in failures {
                let symptom = match failure {
                    Failure::Reset => Symptom::RstToSyn,
                    Failure::Unreachable => Symptom::IcmpUnreachable,
                    Failure::Silence => Symptom::SynUnanswered,
                };
                self.checker.observe(key, backend, Observation::Failure { source, symptom });
            }
        }
    }

    pub(super) fn tell_attached(&self, interface: &Interface) {
        let hook = self.data_path.hook(interface).map_or("none", Hook::name);
        let link = if interface.running { "up" } else { "down" };
        tracing::info!(interface = interface.name, index = interface.index, link, hook, "attached");
    }
}
