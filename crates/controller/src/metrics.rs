//! Metrics: those MetalLB's users know under MetalLB's names, the rest under ours.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use evenkeel_plan::Plan;
use evenkeel_plan::world::ObjectName;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeMetric, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::reconcile::{ConfigurationState, Counters};

type OfPool = Family<Vec<(String, String)>, Gauge>;
type Labelled = Family<Vec<(&'static str, &'static str)>, Counter>;

/// A gauge that is there only while its value is known: who does not know does not say 0.
#[derive(Clone, Debug, Default)]
struct Known(Arc<Mutex<Option<i64>>>);

impl Known {
    fn set(&self, value: Option<i64>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = value;
    }

    fn get(&self) -> Option<i64> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl EncodeMetric for Known {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), fmt::Error> {
        self.get().map_or(Ok(()), |value| encoder.encode_gauge(&value))
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Gauge
    }

    fn is_empty(&self) -> bool {
        self.get().is_none()
    }
}

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
    config_loaded: Known,
    config_stale: Known,
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
            config_loaded: Known::default(),
            config_stale: Known::default(),
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

    /// The state of the configuration, which only who leads knows. While the API cannot be read nothing of it is known to be
    /// refused.
    pub(crate) fn set_configuration(&self, state: &ConfigurationState) {
        self.config_loaded.set(Some(1));
        self.config_stale.set(Some((state.result == "Invalid").into()));
    }

    /// This replica leads no more: what it knew of configuration and pools is the next leader's to say.
    pub(crate) fn resign(&self) {
        self.config_loaded.set(None);
        self.config_stale.set(None);
        self.clear_pools();
    }

    fn clear_pools(&self) {
        for family in self.addresses.iter().chain(&self.in_use).chain([&self.services_allocated]) {
            family.clear();
        }
    }

    /// The pools and what services have of them.
    pub(crate) fn set_pools(&self, counters: &BTreeMap<ObjectName, Counters>, plan: &Plan) {
        self.clear_pools();
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

    fn state(result: &'static str) -> ConfigurationState {
        ConfigurationState { result, errors: String::new() }
    }

    fn says(metrics: &Metrics, line: &str) -> bool {
        metrics.encode().lines().any(|found| found == line)
    }

    #[test]
    fn only_what_is_refused_is_stale() {
        let metrics = Metrics::default();
        for (result, stale) in [("Valid", 0), ("Invalid", 1), ("Unknown", 0)] {
            metrics.set_configuration(&state(result));
            assert!(says(&metrics, &format!("metallb_k8s_client_config_stale_bool {stale}")), "{result}");
            assert!(says(&metrics, "metallb_k8s_client_config_loaded_bool 1"), "{result}");
        }
    }

    /// MetalLB's alert is on 0, which a replica that has nothing to load must not say.
    #[test]
    fn who_does_not_lead_says_nothing_of_configuration_and_pools() {
        let metrics = Metrics::default();
        let counters = Counters { assigned_v4: 2, ..Counters::default() };
        let samples = |metrics: &Metrics| {
            let text = metrics.encode();
            let of_the_cluster = ["metallb_k8s_client_config_", "metallb_allocator_"];
            text.lines().filter(|line| of_the_cluster.iter().any(|begin| line.starts_with(begin))).count()
        };
        assert_eq!(samples(&metrics), 0, "a standby");
        metrics.set_configuration(&state("Invalid"));
        metrics.set_pools(&[(ObjectName::new("lb", "p"), counters)].into(), &Plan::default());
        assert_eq!(samples(&metrics), 2 + 6, "the leader");
        metrics.resign();
        assert_eq!(samples(&metrics), 0, "a former leader");
        metrics.set_configuration(&state("Valid"));
        assert!(says(&metrics, "metallb_k8s_client_config_stale_bool 0"), "it leads again");
    }
}
