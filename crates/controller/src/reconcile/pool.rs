//! A pool's status: how many of its addresses are assigned, and how many are left.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use evenkeel_plan::Plan;
use evenkeel_plan::range::IpFamily;
use evenkeel_plan::world::{IpAddressPool, ObjectName};
use evenkeel_sources::kubernetes::Observation;
use serde_json::{Value, json};

/// Counts of addresses. Those beyond what the API can say are said as the most it can.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// `assignedIPv4`.
    pub assigned_v4: i64,
    /// `assignedIPv6`.
    pub assigned_v6: i64,
    /// `availableIPv4`.
    pub available_v4: i64,
    /// `availableIPv6`.
    pub available_v6: i64,
}

/// What is to be written to a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolWrite {
    /// Which pool.
    pub name: ObjectName,
    /// The `resourceVersion` this was decided on.
    pub version: String,
    /// Its counters.
    pub counters: Counters,
}

/// The counters of each pool of the configuration's namespace. Pools elsewhere are refused, and services say which pool they
/// have their addresses from by its name alone.
pub fn counters<'p>(
    pools: impl Iterator<Item = &'p IpAddressPool>,
    namespace: &str,
    plan: &Plan,
) -> BTreeMap<ObjectName, Counters> {
    let mut assigned: BTreeMap<&str, BTreeSet<IpAddr>> = BTreeMap::new();
    for planned in plan.services.values() {
        if let Some(pool) = &planned.pool {
            assigned.entry(pool).or_default().extend(&planned.addresses);
        }
    }
    let none = BTreeSet::new();
    let of = |pool: &IpAddressPool| of_pool(pool, assigned.get(pool.name.name.as_str()).unwrap_or(&none));
    let own = pools.filter(|pool| pool.name.namespace == namespace);
    own.map(|pool| (pool.name.clone(), of(pool))).collect()
}

fn of_pool(pool: &IpAddressPool, assigned: &BTreeSet<IpAddr>) -> Counters {
    let count = |family| {
        let used = assigned.iter().filter(|address| IpFamily::of(**address) == family).count();
        let used = i64::try_from(used).unwrap_or(i64::MAX);
        (used, i64::try_from(pool.size(family)).unwrap_or(i64::MAX).saturating_sub(used).max(0))
    };
    let ((assigned_v4, available_v4), (assigned_v6, available_v6)) = (count(IpFamily::V4), count(IpFamily::V6));
    Counters { assigned_v4, assigned_v6, available_v4, available_v6 }
}

/// What to write to a pool, if anything.
pub fn pool(name: &ObjectName, counters: Counters, seen: &Observation) -> Option<PoolWrite> {
    let known = |field: &str| seen.status.get(field).and_then(Value::as_i64);
    let same = counters.fields().into_iter().all(|(field, count)| known(field) == Some(count));
    (!same).then(|| PoolWrite { name: name.clone(), version: seen.version.clone(), counters })
}

impl Counters {
    fn fields(self) -> [(&'static str, i64); 4] {
        [
            ("assignedIPv4", self.assigned_v4),
            ("assignedIPv6", self.assigned_v6),
            ("availableIPv4", self.available_v4),
            ("availableIPv6", self.available_v6),
        ]
    }
}

impl PoolWrite {
    /// As a JSON merge patch of the status subresource.
    pub fn patch(&self) -> Value {
        let status: serde_json::Map<String, Value> =
            self.counters.fields().into_iter().map(|(field, count)| (field.to_owned(), count.into())).collect();
        json!({"metadata": {"resourceVersion": self.version}, "status": status})
    }
}

#[cfg(test)]
mod tests {
    use evenkeel_plan::allocate::ServicePlan;

    use super::*;

    fn plan(services: &[(&str, &[&str])]) -> Plan {
        let mut plan = Plan::default();
        for (name, addresses) in services {
            let planned = ServicePlan {
                namespace: "shop".to_owned(),
                name: (*name).to_owned(),
                addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
                pool: Some("p".to_owned()),
                error: None,
            };
            plan.services.insert(planned.service(), planned.into());
        }
        plan
    }

    fn count(ranges: &[&str], avoid_buggy_ips: bool, services: &[(&str, &[&str])]) -> [i64; 4] {
        let ranges = ranges.iter().map(|text| text.parse().unwrap()).collect();
        let mut pool = IpAddressPool::new(ObjectName::new("lb", "p"), ranges);
        pool.avoid_buggy_ips = avoid_buggy_ips;
        counters([&pool].into_iter(), "lb", &plan(services))[&pool.name].fields().map(|(_, count)| count)
    }

    #[test]
    fn shared_addresses_count_once() {
        let services: &[(&str, &[&str])] =
            &[("a", &["10.0.0.1"]), ("b", &["10.0.0.1"]), ("c", &["10.0.0.2", "2001:db8::1"])];
        assert_eq!(count(&["10.0.0.0/28", "2001:db8::/126"], false, services), [2, 1, 14, 3]);
    }

    #[test]
    fn a_pool_of_another_namespace_has_no_counters() {
        let pool =
            |namespace, range: &str| IpAddressPool::new(ObjectName::new(namespace, "p"), vec![range.parse().unwrap()]);
        let (own, refused) = (pool("lb", "10.0.0.0/28"), pool("shop", "10.0.1.0/24"));
        let counters = counters([&own, &refused].into_iter(), "lb", &plan(&[("a", &["10.0.0.1"])]));
        let expected = Counters { assigned_v4: 1, available_v4: 15, ..Counters::default() };
        assert_eq!(counters, [(own.name, expected)].into());
    }

    #[test]
    fn what_is_not_handed_out_is_not_available() {
        assert_eq!(count(&["10.0.0.0/24"], true, &[]), [0, 0, 254, 0]);
        assert_eq!(count(&["10.0.0.250-10.0.2.5"], true, &[]), [0, 0, 6 + 256 + 6 - 4, 0]);
        assert_eq!(count(&["10.0.0.250-10.0.2.5"], false, &[]), [0, 0, 6 + 256 + 6, 0]);
    }

    #[test]
    fn more_than_can_be_said_is_the_most_that_can_be_said() {
        assert_eq!(count(&["2001:db8::/32"], false, &[]), [0, 0, 0, i64::MAX]);
    }

    #[test]
    fn what_is_written_is_not_written_again() {
        let (name, counters) = (ObjectName::new("lb", "p"), Counters { assigned_v4: 3, ..Counters::default() });
        let mut seen = Observation { version: "7".to_owned(), ..Observation::default() };
        let write = pool(&name, counters, &seen).unwrap();
        assert_eq!(write.patch()["metadata"]["resourceVersion"], "7");
        seen.status = write.patch()["status"].clone();
        assert_eq!(pool(&name, counters, &seen), None);
    }
}
