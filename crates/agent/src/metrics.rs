//! The agent's metrics, as OpenMetrics text.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
};

use evenkeel_loader::FlowTableUse;
use evenkeel_maps::{Outcome, Questions};
use evenkeel_plan::Plan;

use crate::changes::Changes;

/// What the metrics are made of.
pub(crate) struct Snapshot<'a> {
    pub(crate) node: &'a str,
    pub(crate) ready: bool,
    pub(crate) counters: Vec<(Outcome, u64)>,
    pub(crate) flow_table: FlowTableUse,
    pub(crate) changes: &'a Changes,
    pub(crate) plan: Option<&'a Plan>,
    /// VIPs this node answers for.
    pub(crate) announced: &'a BTreeSet<IpAddr>,
    /// Announcements of each.
    pub(crate) gratuitous: &'a BTreeMap<IpAddr, u64>,
    /// Questions for each that this node owns or owned.
    pub(crate) questions: BTreeMap<IpAddr, Questions>,
    /// Whether the API is there; `None`: there is no cluster.
    pub(crate) api: Option<bool>,
    /// VIPs that others claim.
    pub(crate) claims: usize,
}

impl fmt::Display for Snapshot<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        gauge(f, "evenkeel_ready", "Whether every VIP this node should carry is carried and announced", self.ready)?;
        if let Some(api) = self.api {
            gauge(f, "evenkeel_api_connected", "Whether the leases of the cluster are followed", api)?;
        }
        head(f, "evenkeel_claimed_vips", "gauge", "VIPs of this node that another host claims")?;
        writeln!(f, "evenkeel_claimed_vips {}", self.claims)?;
        head(f, "evenkeel_flows", "gauge", "Flows in the flow table")?;
        writeln!(f, "evenkeel_flows {}", self.flow_table.flows)?;
        head(f, "evenkeel_flow_capacity", "gauge", "Flows the flow table is made for")?;
        writeln!(f, "evenkeel_flow_capacity {}", self.flow_table.capacity)?;
        head(f, "evenkeel_packets", "counter", "Packets by their outcome")?;
        for (outcome, packets) in &self.counters {
            writeln!(f, "evenkeel_packets_total{{outcome=\"{}\"}} {packets}", outcome.name())?;
        }
        let name = "evenkeel_change_seconds";
        head(f, name, "histogram", "From the notice of a change until it is in force")?;
        for (bound, count) in self.changes.counts() {
            writeln!(f, "{name}_bucket{{le=\"{:?}\"}} {count}", bound.as_secs_f64())?;
        }
        let (count, sum) = self.changes.total();
        writeln!(f, "{name}_bucket{{le=\"+Inf\"}} {count}\n{name}_count {count}\n{name}_sum {}", sum.as_secs_f64())?;
        head(f, "metallb_speaker_announced", "gauge", "Services announced from this node")?;
        let node = escape(self.node);
        for service in self.plan.into_iter().flat_map(|plan| plan.services.values()) {
            let name = escape(&service.service().to_string());
            for ip in service.addresses.iter().filter(|ip| self.announced.contains(ip)) {
                let labels = format!("service=\"{name}\",protocol=\"layer2\",node=\"{node}\",ip=\"{ip}\"");
                writeln!(f, "metallb_speaker_announced{{{labels}}} 1")?;
            }
        }
        // MetalLB's names for these have no suffix, which OpenMetrics asks of counters.
        let name = "metallb_layer2_requests_received";
        head(f, name, "gauge", "ARP requests and neighbour solicitations for VIPs that this node owns")?;
        for (ip, questions) in &self.questions {
            writeln!(f, "{name}{{ip=\"{ip}\"}} {}", questions.asked)?;
        }
        let name = "metallb_layer2_responses_sent";
        head(f, name, "gauge", "Answers to them")?;
        for (ip, questions) in &self.questions {
            writeln!(f, "{name}{{ip=\"{ip}\"}} {}", questions.answered)?;
        }
        head(f, "metallb_layer2_gratuitous_sent", "gauge", "Gratuitous ARP and unsolicited NDP packets sent")?;
        for (ip, sent) in self.gratuitous {
            writeln!(f, "metallb_layer2_gratuitous_sent{{ip=\"{ip}\"}} {sent}")?;
        }
        f.write_str("# EOF\n")
    }
}

fn head(f: &mut fmt::Formatter<'_>, name: &str, kind: &str, help: &str) -> fmt::Result {
    writeln!(f, "# TYPE {name} {kind}\n# HELP {name} {help}.")
}

fn gauge(f: &mut fmt::Formatter<'_>, name: &str, help: &str, value: bool) -> fmt::Result {
    head(f, name, "gauge", help)?;
    writeln!(f, "{name} {}", u8::from(value))
}

/// A label's value (OpenMetrics 1.0, section 5.1.4).
fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
