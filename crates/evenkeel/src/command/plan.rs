//! `evenkeel plan`: what `run` would do with a directory of manifests.

mod bgp;
mod frontends;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::ValueEnum;
use evenkeel_plan::allocate::ServicePlan;
use evenkeel_plan::bgp::{BgpAnnouncement, is_used};
use evenkeel_plan::elect::Announcement;
use evenkeel_plan::event::EventReason;
use evenkeel_plan::world::{Node, NodeAddressUse, ObjectName};
use evenkeel_plan::{Event, Plan, Planner, World};
use evenkeel_sources::diagnostic::summary;
use evenkeel_sources::{Diagnostic, Directory, state};
use serde::Serialize;

use super::run::ScopeArgs;
use super::terminal;

/// Print what `run` would do with these manifests.
///
/// Exits with 0 when the manifests are valid, and with 2 when there is an error in them; what can be planned is
/// printed in both cases.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Directories of manifests, or single files
    #[arg(required = true, value_name = "DIR")]
    roots: Vec<PathBuf>,

    /// The state directory of `run`: the addresses held and the present owners are then kept
    #[arg(long, value_name = "DIR", env = "EVENKEEL_STATE_DIR")]
    state: Option<PathBuf>,

    /// A node that may announce, besides those the manifests define
    #[arg(long, value_name = "NAME", env = "EVENKEEL_NODE")]
    node: Option<String>,

    /// The node's own addresses, for services with the annotation evenkeel.io/addresses: node
    #[arg(long = "node-address", value_name = "IP", value_delimiter = ',')]
    node_addresses: Vec<IpAddr>,

    /// Namespaces whose services may be served there, as agents of a cluster are told by --node-addresses-for [default: all, as
    /// with `run`]
    #[arg(
        long = "node-addresses-for",
        value_name = "NAMESPACE",
        value_delimiter = ',',
        default_value = "*",
        hide_default_value = true
    )]
    node_address_use: Vec<String>,

    #[command(flatten)]
    scope: ScopeArgs,

    /// How to print the plan
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[derive(Clone, Copy, ValueEnum)]
enum Output {
    /// For people
    Text,
    /// For programs
    Json,
}

/// The exit code for manifests with errors.
const INVALID_INPUT: u8 = 2;

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let memory = match args.state.as_deref().map(state::load).transpose() {
        Ok(memory) => memory.unwrap_or_default(),
        Err(error) => {
            eprintln!("error[{}]: {error}", error.reason());
            return Ok(ExitCode::from(INVALID_INPUT));
        }
    };
    let loaded = Directory::load_once(&args.roots);
    let mut world: World = (*loaded.world).clone();
    if let Some(node) = &args.node {
        world.nodes.entry(node.clone()).or_insert_with(|| Node::new(node).into());
    }
    world.load_balancer_class.clone_from(&args.scope.lb_class);
    world.ignore_exclude_label = args.scope.ignore_exclude_lb;
    world.node_addresses.clone_from(&args.node_addresses);
    world.node_address_use = NodeAddressUse::of(&args.node_address_use);
    let mut planner = Planner::new(memory);
    let events = planner.update(&world);
    let plan = planner.plan();
    let mut diagnostics = loaded.diagnostics.clone();
    diagnostics.extend(plan.diagnostics().map(|finding| loaded.locate(finding)));
    diagnostics.sort();
    diagnostics.dedup();

    let output = match args.output {
        Output::Text => text(plan, &events, &world),
        Output::Json => json(plan, &events, &world, &diagnostics)?,
    };
    print(&output, &diagnostics)?;
    Ok(if diagnostics.iter().any(Diagnostic::is_error) { ExitCode::from(INVALID_INPUT) } else { ExitCode::SUCCESS })
}

/// Most findings anybody would read.
const MAX_SHOWN: usize = 1000;

/// The plan to stdout, the diagnostics to stderr. A reader that has seen enough is no failure.
fn print(output: &str, diagnostics: &[Diagnostic]) -> anyhow::Result<()> {
    let mut stderr = std::io::stderr().lock();
    let style = terminal::style(&stderr);
    for diagnostic in diagnostics.iter().take(MAX_SHOWN) {
        writeln!(stderr, "{}\n", diagnostic.render(style))?;
    }
    if diagnostics.len() > MAX_SHOWN {
        writeln!(stderr, "{} more are left out; -o json has them all\n", diagnostics.len() - MAX_SHOWN)?;
    }
    if let Some(summary) = summary(diagnostics) {
        writeln!(stderr, "{summary}")?;
    }
    match std::io::stdout().lock().write_all(output.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// The JSON contract: fields may be added, none is renamed or removed.
#[derive(Serialize)]
struct Json<'a> {
    services: Vec<&'a ServicePlan>,
    announcements: Vec<AnyAnnouncement<'a>>,
    #[serde(flatten)]
    bgp: Option<bgp::Json<'a>>,
    frontends: Vec<frontends::View<'a>>,
    /// What happens to services on the way from what they hold to this plan.
    events: &'a [Event],
    diagnostics: Vec<JsonDiagnostic<'a>>,
}

#[derive(Serialize)]
struct JsonDiagnostic<'a> {
    severity: &'a str,
    reason: &'a str,
    file: String,
    line: usize,
    column: usize,
    kind: &'a str,
    name: &'a str,
    field: &'a str,
    message: &'a str,
    remedy: &'a str,
    /// The line, or the part of it around the place.
    snippet: Option<&'a str>,
    /// How many characters are meant, from `column` on; 0 where no line is shown.
    width: usize,
}

impl<'a> JsonDiagnostic<'a> {
    fn of(diagnostic: &'a Diagnostic) -> Self {
        let Diagnostic { location, severity, reason, kind, name, field, message, remedy, snippet } = diagnostic;
        Self {
            severity: severity.as_str(),
            reason,
            file: location.file.display().to_string(),
            line: location.line,
            column: location.column,
            kind,
            name,
            field,
            message,
            remedy,
            snippet: snippet.as_ref().map(|snippet| snippet.text.as_str()),
            width: snippet.as_ref().map_or(0, |snippet| snippet.width),
        }
    }
}

fn json(plan: &Plan, events: &[Event], world: &World, diagnostics: &[Diagnostic]) -> anyhow::Result<String> {
    let json = Json {
        services: plan.services.values().map(|planned| &**planned).collect(),
        announcements: by_address(plan),
        bgp: bgp::Json::of(plan, world),
        frontends: frontends::views(plan, world),
        events,
        diagnostics: diagnostics.iter().map(JsonDiagnostic::of).collect(),
    };
    Ok(serde_json::to_string_pretty(&json)? + "\n")
}

fn text(plan: &Plan, events: &[Event], world: &World) -> String {
    let mut output = String::new();
    section(&mut output, "SERVICES", services(plan, events, world), "no load balancer services");
    section(&mut output, "ANNOUNCEMENTS", announcements(plan, world), "no addresses to announce");
    if is_used(world) {
        section(&mut output, "BGP", bgp::peers(plan, world), "no peers");
    }
    section(&mut output, "FRONTENDS", frontends::rows(plan, world), "no frontends");
    output
}

/// A heading and its lines, the cells of which are aligned.
fn section(output: &mut String, heading: &str, rows: Vec<Vec<String>>, none: &str) {
    if !output.is_empty() {
        output.push('\n');
    }
    output.push_str(heading);
    output.push('\n');
    if rows.is_empty() {
        _ = writeln!(output, "  {none}");
    }
    let mut widths: BTreeMap<usize, usize> = BTreeMap::new();
    // The last cell of a row may be as long as it likes.
    for (n, cell) in rows.iter().flat_map(|row| row.iter().take(row.len().saturating_sub(1)).enumerate()) {
        let width = widths.entry(n).or_default();
        *width = cell.chars().count().max(*width);
    }
    for row in rows {
        let cells = row.iter().enumerate().map(|(n, cell)| format!("{cell:<0$}", widths.get(&n).unwrap_or(&0)));
        _ = writeln!(output, "  {}", cells.collect::<Vec<_>>().join("  ").trim_end());
    }
}

/// What a service no longer has, and why.
fn release(event: &Event) -> String {
    let addresses: Vec<String> = event.addresses.iter().map(ToString::to_string).collect();
    let because = event.because.as_ref().map_or(String::new(), |why| format!(" ({}: {})", why.reason, why.message));
    format!("gives up {}{because}", addresses.join(", "))
}

fn services(plan: &Plan, events: &[Event], world: &World) -> Vec<Vec<String>> {
    let mut released: BTreeMap<&ObjectName, Vec<&Event>> = BTreeMap::new();
    for event in events.iter().filter(|event| event.reason == EventReason::ClearAssignment) {
        released.entry(&event.service).or_default().push(event);
    }
    let row = |service: &ServicePlan| {
        let addresses: Vec<String> = service.addresses.iter().map(ToString::to_string).collect();
        let addresses = if addresses.is_empty() { "-".to_owned() } else { addresses.join(", ") };
        let mut notes = Vec::new();
        notes.extend(service.pool.as_ref().map(|pool| format!("from pool {pool}")));
        let on_node = world.services.get(&service.service()).is_some_and(|service| service.on_node);
        notes.extend(on_node.then(|| "at each node's own addresses".to_owned()));
        notes.extend(released.get(&service.service()).into_iter().flatten().map(|event| release(event)));
        notes.extend(service.error.as_ref().map(|error| format!("{}: {}", error.reason, error.message)));
        vec![service.service().to_string(), addresses, notes.join("; ")]
    };
    plan.services.values().map(|planned| row(planned)).collect()
}

/// An announcement of either protocol.
#[derive(Serialize)]
#[serde(untagged)]
enum AnyAnnouncement<'a> {
    Layer2(&'a Announcement),
    Bgp(&'a BgpAnnouncement),
}

/// All announcements by address, those at layer 2 first.
fn by_address(plan: &Plan) -> Vec<AnyAnnouncement<'_>> {
    let layer_2 = plan.announcements.values().map(|announcement| AnyAnnouncement::Layer2(announcement));
    let by_bgp = plan.bgp.announcements.values().map(|announcement| AnyAnnouncement::Bgp(announcement));
    let mut all: Vec<_> = layer_2.chain(by_bgp).collect();
    all.sort_by_key(|announcement| match announcement {
        AnyAnnouncement::Layer2(announcement) => announcement.address,
        AnyAnnouncement::Bgp(announcement) => announcement.address,
    });
    all
}

fn announcements(plan: &Plan, world: &World) -> Vec<Vec<String>> {
    let nobody = match world.nodes.is_empty() {
        true => "by nobody: no node is known (give --node, or Node objects)",
        false => "by nobody",
    };
    let rows = |announcement| match announcement {
        AnyAnnouncement::Layer2(announcement) => layer_2(announcement, nobody),
        AnyAnnouncement::Bgp(announcement) => bgp::announcement(announcement, nobody),
    };
    by_address(plan).into_iter().flat_map(rows).collect()
}

fn layer_2(announcement: &Announcement, nobody: &str) -> Vec<Vec<String>> {
    let by = match (announcement.nodes.as_slice(), &announcement.interfaces) {
        ([], _) => nobody.to_owned(),
        (nodes, None) => format!("by {} on all interfaces", nodes.join(", ")),
        (nodes, Some(interfaces)) => format!("by {} on {}", nodes.join(", "), interfaces.join(", ")),
    };
    let mut rows = vec![vec![announcement.address.to_string(), announcement.protocol.to_string(), by]];
    for exclusion in &announcement.excluded {
        rows.push(vec![String::new(), String::new(), format!("not by {}: {}", exclusion.node, exclusion.reason)]);
    }
    rows
}
