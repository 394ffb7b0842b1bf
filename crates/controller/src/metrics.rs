//! Metrics: those MetalLB's users know under MetalLB's names, the rest under ours.

use std::collections::BTreeMap;

use evenkeel_plan::Plan;
use evenkeel_plan::world::ObjectName;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::reconcile::Counters;

type OfPool = Family<Vec<(String, String)>, Gauge>;
type Labelled = Family<Vec<(&'static str, &'static str)>, Counter>;

/// The controller's metrics.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// 1 on the replica that leads.
    pub(crate) leader: Gauge,
    addresses: [OfPool; 3],
    in_use: [OfPool; 3],
    services_allocated: OfPool,
    /// Statuses written.
    pub(crate) updates: Counter,
    /// Statuses that could not be written.
    pub(crate) update_errors: Counter,
    config_loaded: Gauge,
    config_stale: Gauge,
    writes: Labelled,
    events: Labelled,
    reviews: Labelled,
    /// When the webhook's certificate ends, in seconds since 1970; 0: there is none.
    pub(crate) webhook_not_after: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut metrics = Self {
            registry: Registry::default(),
            leader: Gauge::default(),
            addresses: Default::default(),
            in_use: Default::default(),
            services_allocated: OfPool::default(),
            updates: Counter::default(),
            update_errors: Counter::default(),
            config_loaded: Gauge::default(),
            config_stale: Gauge::default(),
            writes: Labelled::default(),
            events: Labelled::default(),
            reviews: Labelled::default(),
            webhook_not_after: Gauge::default(),
        };
        metrics.register();
        metrics
    }
}

impl Metrics {
    fn register(&mut self) {
        let registry = &mut self.registry;
        let families = ["", "ipv4_", "ipv6_"];
        for (family, (addresses, in_use)) in families.into_iter().zip(self.addresses.iter().zip(&self.in_use)) {
            let name = format!("metallb_allocator_{family}addresses_total");
            registry.register(name, "Addresses of a pool", addresses.clone());
            let name = format!("metallb_allocator_{family}addresses_in_use_total");
            registry.register(name, "Addresses of a pool that services have", in_use.clone());
        }
        let name = "metallb_allocator_services_allocated_total";
        registry.register(name, "Services with an address of a pool", self.services_allocated.clone());
        registry.register("metallb_k8s_client_updates", "Statuses written", self.updates.clone());
        registry.register("metallb_k8s_client_update_errors", "Statuses not written", self.update_errors.clone());
        let name = "metallb_k8s_client_config_loaded_bool";
        registry.register(name, "1 if the configuration is in force", self.config_loaded.clone());
        let name = "metallb_k8s_client_config_stale_bool";
        registry.register(name, "1 if a part of the configuration is refused", self.config_stale.clone());
        registry.register("evenkeel_controller_leader", "1 on the replica that leads", self.leader.clone());
        registry.register("evenkeel_controller_writes", "Writes to the API by kind and result", self.writes.clone());
        registry.register("evenkeel_controller_events", "Events by result", self.events.clone());
        let name = "evenkeel_webhook_reviews";
        registry.register(name, "Changes to the configuration by verdict and reason", self.reviews.clone());
        let name = "evenkeel_webhook_certificate_not_after_seconds";
        registry.register(name, "When the webhook's certificate ends, since 1970", self.webhook_not_after.clone());
    }

    /// As OpenMetrics text.
    pub fn encode(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = encode(&mut text, &self.registry);
        text
    }

    /// A write of a kind came to this result.
    pub(crate) fn wrote(&self, kind: &'static str, result: &'static str) {
        self.writes.get_or_create(&vec![("kind", kind), ("result", result)]).inc();
    }

    /// The webhook came to this verdict, for this reason.
    pub(crate) fn reviewed(&self, verdict: &'static str, reason: &'static str) {
        self.reviews.get_or_create(&vec![("verdict", verdict), ("reason", reason)]).inc();
    }

    /// An event came to this result.
    pub(crate) fn told(&self, result: &'static str) {
        self.events.get_or_create(&vec![("result", result)]).inc();
    }

    /// The state of the configuration.
    pub(crate) fn set_configuration(&self, valid: bool) {
        self.config_loaded.set(1);
        self.config_stale.set((!valid).into());
    }

    /// The pools and what services have of them.
    pub(crate) fn set_pools(&self, counters: &BTreeMap<ObjectName, Counters>, plan: &Plan) {
        for family in self.addresses.iter().chain(&self.in_use).chain([&self.services_allocated]) {
            family.clear();
        }
        for (name, counters) in counters {
            let label = vec![("pool".to_owned(), name.name.clone())];
            let v4 = (counters.assigned_v4, counters.available_v4);
            let v6 = (counters.assigned_v6, counters.available_v6);
            let both = (v4.0.saturating_add(v6.0), v4.1.saturating_add(v6.1));
            for ((assigned, available), (all, in_use)) in
                [both, v4, v6].into_iter().zip(self.addresses.iter().zip(&self.in_use))
            {
                all.get_or_create(&label).set(assigned.saturating_add(available));
                in_use.get_or_create(&label).set(assigned);
            }
        }
        for planned in plan.services.values() {
            if let Some(pool) = &planned.pool {
                self.services_allocated.get_or_create(&vec![("pool".to_owned(), pool.clone())]).inc();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_have_the_names_metallbs_users_know() {
        let metrics = Metrics::default();
        metrics.updates.inc();
        let counters = Counters { assigned_v4: 2, available_v4: 8, ..Counters::default() };
        metrics.set_pools(&[(ObjectName::new("lb", "p"), counters)].into(), &Plan::default());
        let text = metrics.encode();
        for line in [
            "metallb_k8s_client_updates_total 1",
            "metallb_allocator_addresses_total{pool=\"p\"} 10",
            "metallb_allocator_ipv4_addresses_in_use_total{pool=\"p\"} 2",
            "metallb_allocator_ipv6_addresses_in_use_total{pool=\"p\"} 0",
            "evenkeel_controller_leader 0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
        }
    }
}
