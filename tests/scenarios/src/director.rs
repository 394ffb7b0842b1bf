//! Carries a row out: sites, subject, load, and faults at random moments.

use std::{
    collections::VecDeque,
    hash::{BuildHasher as _, RandomState},
    net::IpAddr,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use evenkeel_lab::{Sandbox, manifests::Condition};
use evenkeel_probe::Lane;
use rustix::process::Signal;

use crate::{
    Options,
    case::{Case, Scenario},
    faults,
    load::{Recorded, Recording},
    outcomes,
    processors::Side,
    site::Site,
    subject::{Endpoint, Subject},
};

/// Replicas of the service.
const REPLICAS: usize = 3;
/// Before the first fault: connections are opened, neighbours resolved.
const WARM_UP: Duration = Duration::from_secs(1);
/// Faults of a row that shows what rescue is good for.
const FAULTS_WITHOUT_RESCUE: u32 = 3;
/// How long a request may take. Longer than three SYNs.
pub(crate) const REQUEST_TIMEOUT: Duration = Duration::from_secs(4);
/// How long a server may take from SIGTERM until nobody can complete a handshake with it any more.
const CLOSING: Duration = Duration::from_millis(100);
/// How often a pause looks whether something is due.
const TICK: Duration = Duration::from_millis(10);

/// A piece of a row's time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) kind: SegmentKind,
    pub(crate) start: Duration,
    pub(crate) end: Duration,
}

/// What is going on in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SegmentKind {
    /// Nothing: what the machine does without a fault.
    Control,
    /// A fault and what it leads to.
    Fault,
    /// A look at the kernel, whose processes cost milliseconds: what is lost counts, times do not.
    Untimed,
    /// Not judged: warming up, or before what the scenario asks for begins.
    Unjudged,
}

/// A backend that was ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Kill {
    pub(crate) server: String,
    /// Just before it was told to end, or its link went down.
    pub(crate) at: Duration,
    /// From here on, no handshake can be complete on it.
    pub(crate) closed: Duration,
}

/// What was seen of one site.
pub(crate) struct Evidence {
    pub(crate) recorded: Recorded,
    pub(crate) segments: Vec<Segment>,
    pub(crate) kills: Vec<Kill>,
    /// What was not as it should be besides requests, in words.
    pub(crate) problems: Vec<String>,
}

/// Carries a row out. `tell` hears how far it is.
pub(crate) fn perform(case: &Case, options: &Options, sandbox: &Sandbox, tell: &dyn Fn(&str)) -> Result<Vec<Evidence>> {
    let faults = match case.subject {
        crate::Kind::Evenkeel { rescue: true, .. } => options.faults,
        // Enough for 5,000 connections.
        crate::Kind::Evenkeel { rescue: false, .. } => options.faults.min(FAULTS_WITHOUT_RESCUE),
        _ => 1,
    };
    let (sites, each) = if case.scenario.needs_fresh_site() { (faults, 1) } else { (1, faults) };
    let mut evidence = Vec::new();
    for site in 0..sites {
        tell("setting up");
        let mut director = Director::start(case, options, sandbox, each as usize)?;
        // What it starts from here on costs milliseconds: a balancer's next process, or a look at the kernel.
        let _kept =
            matches!(case.subject, crate::Kind::Evenkeel { .. }).then(|| Side::Agent.keep_thread()).transpose()?;
        for fault in 0..each {
            tell(&format!("fault {} of {faults}", site + fault + 1));
            director.begin(SegmentKind::Control);
            director.pause(case.scenario.control() + random_below(Duration::from_secs(1)))?;
            director.begin(SegmentKind::Fault);
            faults::strike(case.scenario, &mut director)?;
        }
        director.begin(SegmentKind::Control);
        director.pause(Duration::from_secs(1))?;
        evidence.push(director.end(case)?);
    }
    Ok(evidence)
}

/// Site, subject and load while a row goes on.
pub(crate) struct Director {
    pub(crate) site: Site,
    pub(crate) subject: Box<dyn Subject>,
    pub(crate) brief: bool,
    recording: Recording,
    endpoints: Vec<Endpoint>,
    /// Names of the servers that are no endpoints yet.
    spares: VecDeque<String>,
    /// What the subject has yet to hear, and when.
    pending: VecDeque<(Duration, Vec<Endpoint>)>,
    segments: Vec<Segment>,
    kills: Vec<Kill>,
    problems: Vec<String>,
}

impl Director {
    fn start(case: &Case, options: &Options, sandbox: &Sandbox, faults: usize) -> Result<Self> {
        let spares = if matches!(case.scenario, Scenario::S9 | Scenario::S10) { 0 } else { faults };
        let site = Site::build(sandbox, &options.program, REPLICAS + spares, case.servers)?;
        if case.scenario.reuses_ports() {
            site.lab.client.sysctl("net.ipv4.ip_local_port_range", "20000 21999")?;
        }
        let mut names: VecDeque<String> = site.servers.iter().map(|server| server.backend.name.clone()).collect();
        let spares = names.split_off(REPLICAS);
        let endpoints =
            site.servers[..REPLICAS].iter().map(|server| Endpoint::ready(&server.backend)).collect::<Vec<_>>();
        let mut subject = case.subject.make(&site, &options.program)?;
        if case.scenario == Scenario::S10 {
            subject.start_former(&endpoints)?;
        } else {
            subject.set_endpoints(&endpoints)?;
            subject.start()?;
        }
        let recording = Recording::start(&site.lab.client, lanes(case, &site, subject.as_ref()), REQUEST_TIMEOUT)?;
        let mut director = Self {
            site,
            subject,
            brief: options.brief,
            recording,
            endpoints,
            spares,
            pending: VecDeque::new(),
            segments: Vec::new(),
            kills: Vec::new(),
            problems: Vec::new(),
        };
        director.begin(SegmentKind::Unjudged);
        director.pause(WARM_UP)?;
        Ok(director)
    }

    fn end(mut self, case: &Case) -> Result<Evidence> {
        self.close_segment();
        let recorded = self.recording.stop()?;
        if let Some(counters) = self.subject.counters()? {
            self.problems.extend(outcomes::unexplained(case.scenario, &counters));
        }
        Ok(Evidence { recorded, segments: self.segments, kills: self.kills, problems: self.problems })
    }

    /// Another piece of time begins.
    pub(crate) fn begin(&mut self, kind: SegmentKind) {
        self.close_segment();
        let now = self.recording.now();
        self.segments.push(Segment { kind, start: now, end: Duration::MAX });
    }

    fn close_segment(&mut self) {
        let now = self.recording.now();
        if let Some(last) = self.segments.last_mut() {
            last.end = now;
        }
    }

    /// Lets time pass, in which the subject hears of what is due.
    pub(crate) fn pause(&mut self, duration: Duration) -> Result<()> {
        let end = self.recording.now() + duration;
        loop {
            let now = self.recording.now();
            while let Some((_, endpoints)) = self.pending.pop_front_if(|(due, _)| *due <= now) {
                self.subject.set_endpoints(&endpoints)?;
            }
            if now >= end {
                return Ok(());
            }
            thread::sleep((end - now).min(TICK));
        }
    }

    /// Time since the first request was due.
    pub(crate) fn now(&self) -> Duration {
        self.recording.now()
    }

    /// The endpoint that has been there longest.
    pub(crate) fn oldest(&self) -> Result<String> {
        Ok(self.endpoints.first().context("no endpoint is left")?.backend.name.clone())
    }

    /// A server that waited becomes an endpoint.
    pub(crate) fn add_spare(&mut self) -> Result<()> {
        let name = self.spares.pop_front().context("no server is left to become an endpoint")?;
        self.endpoints.push(Endpoint::ready(&self.site.server(&name)?.backend));
        self.publish()
    }

    pub(crate) fn set_terminating(&mut self, name: &str) -> Result<()> {
        for endpoint in self.endpoints.iter_mut().filter(|endpoint| endpoint.backend.name == name) {
            endpoint.condition = Condition::Terminating;
        }
        self.publish()
    }

    pub(crate) fn remove(&mut self, name: &str) -> Result<()> {
        self.endpoints.retain(|endpoint| endpoint.backend.name != name);
        self.publish()
    }

    /// The subject hears of the endpoints, as late as it does.
    fn publish(&mut self) -> Result<()> {
        let lag = self.subject.lag();
        if lag.is_zero() {
            return self.subject.set_endpoints(&self.endpoints);
        }
        self.pending.push_back((self.recording.now() + lag, self.endpoints.clone()));
        Ok(())
    }

    /// Tells a server to end and waits until it has.
    pub(crate) fn stop(&mut self, name: &str) -> Result<()> {
        Side::Agent.take_process(self.site.server(name)?.process.pid())?;
        let at = self.recording.now();
        self.site.server(name)?.process.signal(Signal::TERM)?;
        self.kills.push(Kill { server: name.to_owned(), at, closed: at + CLOSING });
        while self.site.server(name)?.process.is_running() {
            ensure!(self.recording.now() < at + Duration::from_secs(30), "{name} does not end");
            self.pause(TICK)?;
        }
        Ok(())
    }

    /// Cuts a server off, then kills it: nobody hears of its end.
    pub(crate) fn lose(&mut self, name: &str) -> Result<()> {
        let server = self.site.server(name)?;
        Side::Agent.take_process(server.process.pid())?;
        let at = self.recording.now();
        server.backend.namespace.link_down("eth0")?;
        let closed = self.recording.now();
        server.process.kill();
        self.kills.push(Kill { server: name.to_owned(), at, closed });
        Ok(())
    }

    /// Something that should not be.
    pub(crate) fn note(&mut self, problem: Result<()>) {
        if let Err(problem) = problem {
            self.problems.push(format!("{problem:#}"));
        }
    }
}

fn lanes(case: &Case, site: &Site, subject: &dyn Subject) -> Vec<Lane> {
    let servers: Vec<String> = site.servers.iter().map(|server| server.backend.name.clone()).collect();
    let mut addresses: Vec<IpAddr> = subject.addresses();
    // The former version knows IPv4 alone; and two addresses would halve how often a port is used again.
    if matches!(case.scenario, Scenario::S4 | Scenario::S10) {
        addresses.truncate(1);
    }
    let streams = case.scenario.streams();
    let carried = streams.iter().filter(|stream| subject.carries(stream.port.protocol));
    carried.flat_map(|stream| stream.lanes(&addresses, &servers).collect::<Vec<_>>()).collect()
}

/// Some time below `limit`, another one each time.
fn random_below(limit: Duration) -> Duration {
    let random = RandomState::new().hash_one(0) >> 32;
    limit.mul_f64(random as f64 / f64::from(u32::MAX))
}
