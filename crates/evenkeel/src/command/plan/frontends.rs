//! How `evenkeel plan` shows frontends.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use evenkeel_plan::frontends::{Backend, BackendState, Frontend, NodeView, Scope, members};
use evenkeel_plan::maglev::{Digest, Roster, Seed, Table};
use evenkeel_plan::world::{Affinity, HealthCheck, HealthProbe, Limits, TrafficDistribution, TrafficPolicy, Weight};
use evenkeel_plan::{Plan, World};
use serde::Serialize;

/// A frontend with what follows from it.
#[derive(Serialize)]
pub(super) struct View<'a> {
    #[serde(flatten)]
    frontend: &'a Frontend,
    /// The table of nodes that are not listed under `nodes`.
    #[serde(skip_serializing_if = "Option::is_none")]
    table: Option<TableView>,
    /// The nodes that do not use all backends that take new flows.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    nodes: Vec<Subset<'a>>,
}

/// What tells two Maglev tables apart.
#[derive(Clone, Copy, Serialize)]
struct TableView {
    size: u32,
    digest: Digest,
}

/// Nodes that give their new flows to the same few backends.
#[derive(Serialize)]
struct Subset<'a> {
    nodes: Vec<&'a str>,
    scope: Scope,
    backends: Vec<SocketAddr>,
    table: TableView,
}

/// All frontends of a plan.
pub(super) fn views<'a>(plan: &'a Plan, world: &'a World) -> Vec<View<'a>> {
    let mut tables = TableViews::default();
    plan.frontends.values().map(|frontend| View::new(frontend, world, &mut tables)).collect()
}

impl<'a> View<'a> {
    fn new(frontend: &'a Frontend, world: &'a World, tables: &mut TableViews) -> Self {
        let nodes: Vec<Subset<'_>> = subsets(frontend, world)
            .into_iter()
            .map(|((scope, addresses), (nodes, backends))| Subset {
                nodes,
                scope,
                table: tables.get(&backends),
                backends: addresses,
            })
            .collect();
        let eligible = frontend.eligible();
        let shared = frontend.policy == TrafficPolicy::Cluster && !eligible.is_empty();
        Self { frontend, table: shared.then(|| tables.get(&eligible)), nodes }
    }
}

/// The views of tables, each computed once.
#[derive(Default)]
struct TableViews(BTreeMap<Roster, TableView>);

impl TableViews {
    fn get(&mut self, eligible: &[&Backend]) -> TableView {
        let roster = Roster::new(members(eligible.iter().copied()));
        *self.0.entry(roster).or_insert_with_key(|roster| TableView {
            size: roster.size(),
            digest: Table::new(roster.clone(), Seed::default()).digest(),
        })
    }
}

type Subsets<'a> = BTreeMap<(Scope, Vec<SocketAddr>), (Vec<&'a str>, Vec<&'a Backend>)>;

/// The nodes that use a part of the backends, by what they use.
fn subsets<'a>(frontend: &'a Frontend, world: &'a World) -> Subsets<'a> {
    let mut subsets = Subsets::new();
    if frontend.is_same_everywhere() {
        return subsets;
    }
    for (view, mut nodes) in alike(frontend, world) {
        let (scope, backends) = frontend.choice(view);
        if scope != Scope::Cluster && !backends.is_empty() {
            let addresses = backends.iter().map(|backend| backend.socket_address()).collect();
            subsets.entry((scope, addresses)).or_insert_with(|| (Vec::new(), backends)).0.append(&mut nodes);
        }
    }
    subsets.values_mut().for_each(|(nodes, _)| nodes.sort_unstable());
    subsets
}

/// Nodes of which none can use others than the first does.
type Alike<'a> = (NodeView<'a>, Vec<&'a str>);

/// All nodes that can use a part of the backends, as few groups as possible: there are many nodes, and few zones.
fn alike<'a>(frontend: &'a Frontend, world: &'a World) -> Vec<Alike<'a>> {
    if frontend.policy == TrafficPolicy::Local {
        let nodes: BTreeSet<&str> = frontend.backends.iter().filter_map(|backend| backend.node.as_deref()).collect();
        return nodes.into_iter().map(|node| (NodeView::named(node), vec![node])).collect();
    }
    let hinted: BTreeSet<&str> =
        frontend.backends.iter().flat_map(|backend| &backend.hints.nodes).map(String::as_str).collect();
    let mut groups: BTreeMap<_, Alike<'_>> = BTreeMap::new();
    for node in world.nodes.values() {
        let view = NodeView::from(&**node);
        let group = (hinted.get(view.name).copied(), view.zone);
        groups.entry(group).or_insert_with(|| (view, Vec::new())).1.push(view.name);
    }
    groups.into_values().collect()
}

/// As many names as a line has room for; JSON has them all.
const LISTED: usize = 8;

/// The frontends as lines of cells.
pub(super) fn rows(plan: &Plan, world: &World) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    for View { frontend, table, nodes } in views(plan, world) {
        let mut traits = vec![frontend.service.to_string(), format!("policy {}", frontend.policy)];
        if frontend.traffic_distribution != TrafficDistribution::Anywhere {
            traits.push(frontend.traffic_distribution.to_string());
        }
        traits.extend(frontend.forwarding.map(|forwarding| format!("forwarding {forwarding}")));
        if frontend.rewrite_source {
            traits.push("source address rewritten".to_owned());
        }
        if frontend.per_packet {
            traits.push("each packet by itself".to_owned());
        }
        if let Affinity::ClientIp { timeout } = frontend.affinity {
            traits.push(format!("affinity ClientIP {}s", timeout.as_secs()));
        }
        traits.extend(table.map(|table| table.to_string()));
        let address = SocketAddr::new(frontend.address, frontend.port);
        rows.push(vec![address.to_string(), frontend.protocol.to_string(), traits.join(", ")]);
        rows.extend(conditions(frontend).map(|condition| vec![format!("  {condition}")]));
        if frontend.backends.is_empty() {
            rows.push(vec!["  no backends".to_owned()]);
        }
        let takers: BTreeSet<SocketAddr> = match frontend.policy {
            TrafficPolicy::Cluster => frontend.eligible().iter().map(|backend| backend.socket_address()).collect(),
            TrafficPolicy::Local => nodes.iter().flat_map(|subset| &subset.backends).copied().collect(),
        };
        let takes_new_flows = |backend: &Backend| takers.contains(&backend.socket_address());
        rows.extend(frontend.backends.iter().map(|backend| backend_row(backend, takes_new_flows(backend))));
        for Subset { nodes, scope, backends, table } in nodes {
            let who = match nodes.as_slice() {
                [node] => format!("node {node} uses"),
                few if few.len() <= LISTED => format!("nodes {} use", few.join(", ")),
                many => format!("{} nodes use", many.len()),
            };
            let what = match backends.as_slice() {
                few if few.len() <= LISTED => few.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
                many => format!("{} of {} backends", many.len(), frontend.backends.len()),
            };
            let why = match scope {
                Scope::Cluster => "all",
                Scope::SameZone => "same zone",
                Scope::SameNode => "same node",
                Scope::Local => "its own",
            };
            rows.push(vec![format!("  {who} {what} ({why}), {table}")]);
        }
    }
    rows
}

/// Who may connect, how often, and what backends are asked: a line each.
fn conditions(frontend: &Frontend) -> impl Iterator<Item = String> {
    let sources: Vec<String> = frontend.source_ranges.iter().map(ToString::to_string).collect();
    let sources = match sources.as_slice() {
        [] => None,
        few if few.len() <= LISTED => Some(format!("only from {}", few.join(", "))),
        many => Some(format!("only from {} ranges", many.len())),
    };
    let health = frontend.health.as_ref().map(|health| checks(health));
    [sources, limits(frontend.limits), health].into_iter().flatten()
}

fn limits(Limits { max_connections, connection_rate }: Limits) -> Option<String> {
    let most = max_connections.map(|most| format!("{most} connection{}", if most.get() == 1 { "" } else { "s" }));
    let rate = connection_rate.map(|rate| format!("{}/s new ones (burst {})", rate.per_second, rate.burst));
    let both: Vec<String> = [most, rate].into_iter().flatten().collect();
    (!both.is_empty()).then(|| format!("at most {} on a node", both.join(", ")))
}

fn checks(check: &HealthCheck) -> String {
    let port = check.port.map(|port| format!(" at port {port}")).unwrap_or_default();
    let what = match &check.probe {
        HealthProbe::Http(http) => {
            let host = http.host.as_ref().map(|host| format!(" of {}", host.as_str())).unwrap_or_default();
            format!(" {}{host} for {}", http.path.as_str(), http.expect)
        }
        HealthProbe::DnsUdp(question) | HealthProbe::DnsTcp(question) => {
            format!(" {} {}", question.name(), question.record_type)
        }
        HealthProbe::Tcp | HealthProbe::Icmp | HealthProbe::UdpEcho => String::new(),
    };
    let HealthCheck { probe, interval, timeout, unhealthy_after, healthy_after, slow_start, passive_ejection, port: _ } =
        check;
    let back = if slow_start.is_zero() { "at once".to_owned() } else { format!("over {slow_start:?}") };
    let passive = if *passive_ejection { ", or by clients' failures" } else { "" };
    format!(
        "checked by {}{what}{port} every {interval:?} within {timeout:?}; down after {unhealthy_after}{passive}, \
         back after {healthy_after} {back}",
        probe.as_str()
    )
}

fn backend_row(backend: &Backend, takes_new_flows: bool) -> Vec<String> {
    let note = match (backend.state, backend.weight, takes_new_flows) {
        (BackendState::Drain, _, true) => " (takes new flows: no backend is active)",
        (BackendState::Active, Weight::NONE, true) => " (takes new flows: no backend has a weight)",
        (BackendState::Active, Weight::NONE, false) => " (takes no new flows)",
        (BackendState::Active | BackendState::Drain | BackendState::Down, _, _) => "",
    };
    let weight = if backend.weight == Weight::ONE { String::new() } else { format!(", weight {}", backend.weight) };
    let place = [
        backend.node.as_ref().map(|node| format!("on {node}")),
        backend.zone.as_ref().map(|zone| format!("in {zone}")),
    ];
    let place: Vec<String> = place.into_iter().flatten().collect();
    vec![format!("  -> {}", backend.socket_address()), place.join(" "), format!("{}{weight}{note}", backend.state)]
}

impl std::fmt::Display for TableView {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let plural = if self.size == 1 { "" } else { "s" };
        write!(f, "table of {} slot{plural} {}", self.size, self.digest)
    }
}
