//! The demo: a whole service in a lab, replaced backend by backend while requests keep coming.
//!
//! `run` builds the lab and tells the `Story`; `display` shows the story while it goes on; `report` judges it.

mod display;
mod report;
mod story;

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    num::NonZeroU32,
    ops::ControlFlow,
    path::PathBuf,
    process::Command,
    sync::Arc,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use evenkeel_lab::{
    Balancer, Child, Load, Sandbox,
    deployment::{Deployment, Replaced, Step},
    manifests::{Manifests, Port, Protocol, Service, pool},
    topology::{Backend, Standard, VIP_POOL, VIP_POOL6},
};
use evenkeel_probe::{Close, Config, Lane, LaneKind};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use display::Display;
pub(crate) use report::Report;
use story::{Replacement, Story};

/// Backends of the service.
const BACKENDS: usize = 4;
/// The service's address.
const VIP: Ipv4Addr = VIP_POOL.0;
/// The one it has besides, if IPv6 is asked for.
const VIP6: Ipv6Addr = VIP_POOL6.0;
/// The pause between the endpoint's end of service and SIGTERM, in which requests in flight finish.
const GRACE: Duration = Duration::from_secs(3);
/// How long requests go on at most when replacements take long; a demo that is not over by then has failed.
const PATIENCE: Duration = Duration::from_secs(300);
/// How long a request may take, and how late the prober itself may be with one request in a hundred.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
const MAX_LAG: Duration = Duration::from_secs(1);
/// How long the load balancer may take to end: what `run` promises.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);
/// How often a pause looks whether it should end.
const TICK: Duration = Duration::from_millis(50);
/// Up to this rate, connections can end as ordinary clients end them: the client's ports last although each is held for
/// a second after use (`tcp_tw_reuse`).
const MAX_ORDERLY_RATE: u32 = 2_000;

const TCP: Port = Port { name: "tcp", protocol: Protocol::Tcp, port: 9000, target_port: 9000 };
const HTTP: Port = Port { name: "http", protocol: Protocol::Tcp, port: 80, target_port: 8080 };
const UDP: Port = Port { name: "udp", protocol: Protocol::Udp, port: 5300, target_port: 5300 };

/// How the load balancer passes packets on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Forwarding {
    /// Straight to the backend's interface
    Direct,
    /// Through the kernel's routing and firewall
    Stack,
}

impl Forwarding {
    fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Stack => "stack",
        }
    }
}

/// What to demonstrate.
#[derive(Debug)]
pub(crate) struct Options {
    pub(crate) duration: Duration,
    pub(crate) rate: NonZeroU32,
    pub(crate) forwarding: Forwarding,
    /// Whether the service has an IPv6 address too, and requests go to both.
    pub(crate) ipv6: bool,
    /// This program, for the backends' servers.
    pub(crate) program: PathBuf,
    /// The program that takes the arguments of `evenkeel run`.
    pub(crate) balancer: PathBuf,
}

/// How the demo ended.
pub(crate) enum Ended {
    Finished(Box<Report>),
    Interrupted,
}

/// Runs the demo until it is over or `stop` is cancelled. Whatever it made is gone when it returns.
pub(crate) fn run(options: &Options, stop: &CancellationToken) -> Result<Ended> {
    let story = Arc::new(Story::new(BACKENDS));
    let display = Display::start(Arc::clone(&story))?;
    // A thread of its own, so that the sandbox does not hide files from the rest of the process.
    let ended = thread::scope(|scope| {
        let stage =
            thread::Builder::new().name("demo".to_owned()).spawn_scoped(scope, || perform(options, stop, &story));
        stage.map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    });
    display.stop();
    ended.context("starting a thread")?
}

fn perform(options: &Options, stop: &CancellationToken, story: &Story) -> Result<Ended> {
    let sandbox = Sandbox::enter()?;
    story.phase("building the lab: client, switch, node");
    let mut lab = Standard::build(&sandbox)?;
    // With a connection per request, ports are used again soon.
    lab.client.sysctl("net.ipv4.ip_local_port_range", "1024 65535")?;
    lab.client.sysctl("net.ipv4.tcp_tw_reuse", "1")?;

    story.phase(format!("starting {BACKENDS} backends"));
    let manifests = Manifests::create(sandbox.scratch())?;
    manifests.write("pool.yaml", &pool("demo"))?;
    let (program, ipv6) = (options.program.clone(), options.ipv6);
    let mut deployment = Deployment::start(
        &mut lab,
        manifests.clone(),
        service(options.forwarding, ipv6),
        move |backend| server(&program, backend, ipv6),
        BACKENDS,
    )?;
    for backend in deployment.backends() {
        story.server_ready(&backend.name);
    }
    if stop.is_cancelled() {
        return Ok(Ended::Interrupted);
    }

    story.phase("starting the load balancer");
    let balancer = Balancer::new(&options.balancer, manifests.directory(), sandbox.scratch()).start(&lab.node)?;
    if stop.is_cancelled() {
        return Ok(Ended::Interrupted);
    }

    story.phase("sending requests");
    let load = Load::start(&lab.client, load(options))?;
    story.load_started(load.progress());
    let mut director = Director { story, stop, balancer: &balancer };
    let mut replacements = Vec::new();
    let names: Vec<String> = deployment.backends().map(|backend| backend.name.clone()).collect();
    for (index, name) in names.iter().enumerate() {
        if director.pause_until(begin_of(index, options.duration))?.is_break() {
            return Ok(Ended::Interrupted);
        }
        match director.replace(&mut deployment, &mut lab, name)? {
            Some(replacement) => replacements.push(replacement),
            None => return Ok(Ended::Interrupted),
        }
    }
    story.phase("all backends are replaced; finishing");
    if director.pause_until(options.duration)?.is_break() {
        return Ok(Ended::Interrupted);
    }
    let load = load.stop()?;

    story.phase("cleaning up");
    let stopped = balancer.terminate(STOP_TIMEOUT);
    let orderly = stopped.is_ok_and(|status| status.success());
    let log = balancer.stderr();
    Ok(Ended::Finished(Box::new(Report::new(load, options.forwarding, BACKENDS, replacements, orderly, log))))
}

/// The service's addresses, each with what the names of its lanes end in.
fn vips(ipv6: bool) -> Vec<(IpAddr, &'static str)> {
    let mut vips = vec![(VIP.into(), "")];
    if ipv6 {
        vips.push((VIP6.into(), "6"));
    }
    vips
}

fn service(forwarding: Forwarding, ipv6: bool) -> Service {
    Service {
        name: "demo".to_owned(),
        addresses: vips(ipv6).into_iter().map(|(vip, _)| vip).collect(),
        ports: vec![TCP, HTTP, UDP],
        forwarding: Some(forwarding.name().to_owned()),
    }
}

/// A backend's server process.
fn server(program: &PathBuf, backend: &Backend, ipv6: bool) -> Command {
    let mut command = Command::new(program);
    command.args(["probe", "serve", "--name", &backend.name]);
    for (option, port) in [("--tcp", TCP), ("--http", HTTP), ("--udp", UDP)] {
        for address in backend.addresses().into_iter().filter(|address| address.is_ipv4() || ipv6) {
            command.args([option, &SocketAddr::from((address, port.target_port)).to_string()]);
        }
    }
    command
}

fn load(options: &Options) -> Config {
    let mut lanes = Vec::new();
    for (vip, suffix) in vips(options.ipv6) {
        for (kind, port) in [(LaneKind::TcpEcho, TCP), (LaneKind::Http, HTTP), (LaneKind::Udp, UDP)] {
            lanes.push(Lane {
                name: format!("{}{suffix}", port.name),
                ..Lane::to(kind, SocketAddr::from((vip, port.port)), options.rate)
            });
        }
    }
    let mut config = Config::new(lanes, options.duration.saturating_add(PATIENCE));
    // Whether requests fail is what the demo shows, on whatever machine it runs: a moment in which the machine does
    // something else makes latencies worthless, but no request a failed one.
    config.timeout = REQUEST_TIMEOUT;
    config.max_lag = MAX_LAG;
    config.close = if options.rate.get() <= MAX_ORDERLY_RATE { Close::Fin } else { Close::Auto };
    config
}

/// When a replacement begins, since the start of the load: spread over the run, with some undisturbed time first.
fn begin_of(index: usize, duration: Duration) -> Duration {
    let step = duration.as_secs_f64() / (BACKENDS as f64 + 0.5);
    Duration::from_secs_f64(step * (index as f64 + 0.5))
}

/// Carries the story forward and notices when it cannot go on.
struct Director<'a> {
    story: &'a Story,
    stop: &'a CancellationToken,
    balancer: &'a Child,
}

impl Director<'_> {
    /// Replaces one backend; `None` if interrupted.
    fn replace(&mut self, deployment: &mut Deployment, lab: &mut Standard, name: &str) -> Result<Option<Replacement>> {
        let mut replacement = Replacement::new(name);
        let mut failure = None;
        let replaced = deployment.replace(lab, name, |step| {
            replacement.note(&step, self.story.elapsed());
            self.story.step(&step);
            let end = match step {
                Step::Draining { .. } => self.story.elapsed() + GRACE,
                _ => Duration::ZERO,
            };
            self.pause_until(end).unwrap_or_else(|error| {
                failure = Some(error);
                ControlFlow::Break(())
            })
        })?;
        match (failure, replaced) {
            (Some(error), _) => Err(error),
            (None, Replaced::Done { .. }) => Ok(Some(replacement)),
            (None, Replaced::BrokenOff) => Ok(None),
        }
    }

    /// Lets time pass until the load has run for `end`; breaks if interrupted.
    fn pause_until(&self, end: Duration) -> Result<ControlFlow<()>> {
        loop {
            if self.stop.is_cancelled() {
                return Ok(ControlFlow::Break(()));
            }
            if !self.balancer.is_running() {
                bail!("the load balancer ended by itself; its last output:\n{}", self.balancer.stderr().join("\n"));
            }
            let left = end.saturating_sub(self.story.elapsed());
            if left.is_zero() {
                return Ok(ControlFlow::Continue(()));
            }
            thread::sleep(left.min(TICK));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replacements_are_spread_over_the_run() {
        let begins: Vec<f64> =
            (0..BACKENDS).map(|index| begin_of(index, Duration::from_secs(45)).as_secs_f64()).collect();
        assert_eq!(begins, [5.0, 15.0, 25.0, 35.0]);
    }

    #[test]
    fn servers_listen_where_the_service_points() {
        let service = service(Forwarding::Stack, false);
        assert!(service.manifest().contains("evenkeel.io/forwarding: stack"));
        let slice = service.endpoint_slices(&[]);
        for port in [9000, 8080, 5300] {
            assert!(slice.contains(&format!("port: {port}")), "{slice}");
        }
    }

    #[test]
    fn lanes_carry_the_names_of_the_contract() {
        let mut options = Options {
            duration: Duration::from_secs(1),
            rate: NonZeroU32::MIN,
            forwarding: Forwarding::Direct,
            ipv6: false,
            program: PathBuf::new(),
            balancer: PathBuf::new(),
        };
        let names =
            |options: &Options| -> Vec<String> { load(options).lanes.into_iter().map(|lane| lane.name).collect() };
        assert_eq!(names(&options), ["tcp", "http", "udp"]);
        options.ipv6 = true;
        assert_eq!(names(&options), ["tcp", "http", "udp", "tcp6", "http6", "udp6"]);
    }
}
