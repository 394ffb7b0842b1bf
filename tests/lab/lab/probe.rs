//! The prober against faults of which somebody else keeps a log: the cause must be right every time, and start and
//! length of the outage right to within one interval of the prober and [`TOLERANCE`].
//!
//! All faults are injected at once, each on a lane of its own, and again and again at random phase. Where the prober
//! itself was late when a fault began or ended, the repetition is void and made again: what it says of its own lag is part
//! of what is tested. So is one in which a lane without a fault was disturbed: the machine did something that is in no log.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeSet,
    fs::File,
    hash::{BuildHasher as _, RandomState},
    io::{Read as _, Write as _},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket},
    num::NonZeroU32,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use evenkeel_lab::{Child, Lab, Namespace, Sandbox, find_program};
use evenkeel_probe::{
    Cause, Close, Config, Lane, LaneKind, LaneMeasurement, Latency, Measurement, Prober, Progress,
    measure::{RequestResult, Window},
};
use ipnet::{IpNet, Ipv4Net};
use rustix::{
    fs::{FileType, Mode},
    process::Signal,
};
use socket2::SockRef;
use tempfile::TempDir;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{Test, world};

pub(crate) const TESTS: &[Test] = &[
    ("probe::every_fault_is_named_and_timed", |sandbox| urgently(|| every_fault_is_named_and_timed(sandbox))),
    ("probe::a_stall_is_not_omitted", a_stall_is_not_omitted),
    ("probe::lost_syns_are_confirmed_by_the_kernel", lost_syns_are_confirmed_by_the_kernel),
];

/// Runs a test on a thread that goes before all others, if that can be had, and whose threads and processes do so as
/// well: milliseconds count, whatever else the machine does.
fn urgently(test: impl FnOnce() -> anyhow::Result<()> + Send) -> anyhow::Result<()> {
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            go_before(1);
            test()
        });
        thread.join().map_err(|_| anyhow::anyhow!("the test panicked"))?
    })
}

/// Gives the calling thread a real-time priority. Where it is not allowed, more repetitions are void.
fn go_before(priority: u8) {
    let this = rustix::thread::gettid().as_raw_nonzero().to_string();
    drop(Command::new("chrt").args(["--fifo", "--pid", &priority.to_string(), &this]).output());
}

const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 78, 0, 1);
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 78, 0, 2);
const NAME: &str = "alpha";

const REPETITIONS: u32 = 20;
/// Repetitions until each fault has had enough in which the machine had time for the prober.
const MAX_REPETITIONS: u32 = 60;
/// Repetitions in which a fault may be seen at another time, beside those that are counted: the machine takes the processor from
/// the servers as well, which cannot be seen from here.
const MAX_ODD: u32 = 2;
const TOLERANCE: Duration = Duration::from_millis(2);
/// Requests per second of each lane, and the time between two.
const RATE: NonZeroU32 = NonZeroU32::new(100).unwrap();
const INTERVAL: Duration = Duration::from_millis(10);
/// Shorter than any fault, so that requests fail.
const TIMEOUT: Duration = Duration::from_millis(150);
/// How long a delayed answer takes.
const DELAY: Duration = Duration::from_millis(300);
/// Before the first fault and after the last.
const QUIET: Duration = Duration::from_millis(300);

/// What a server does wrong while its fault is on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wrong {
    /// Nothing: the fault is elsewhere.
    Nothing,
    /// Nobody listens.
    Closed,
    /// The connection is reset instead of answered.
    Reset,
    /// The answer comes too late.
    Delayed,
    /// Another server answers.
    Identity,
    /// The answer ends before its announced length.
    Truncated,
    /// The answer says that there is none.
    Status,
    /// DNS: the server fails.
    ServFail,
    /// DNS: the answer has another identifier.
    Id,
}

/// A fault, and how the prober must report it.
struct Fault {
    name: &'static str,
    kind: LaneKind,
    port: u16,
    wrong: Wrong,
    /// The nftables set that its port is put into.
    set: Option<&'static str>,
    cause: Cause,
    rescuable: bool,
    duration: Duration,
}

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

#[expect(clippy::too_many_arguments, reason = "a table")]
const fn fault(
    name: &'static str,
    kind: LaneKind,
    port: u16,
    wrong: Wrong,
    set: Option<&'static str>,
    cause: Cause,
    rescuable: bool,
    duration: u64,
) -> Fault {
    Fault { name, kind, port, wrong, set, cause, rescuable, duration: ms(duration) }
}

/// The port of the server process that is stopped with SIGSTOP.
const STOPPED: u16 = 8000;

/// The ports without a fault: of a server in this process, and of another process.
const CONTROLS: [u16; 2] = [8100, 8101];
/// The longest time without a success in a lane without a fault.
const MAX_CONTROL_GAP: Duration = Duration::from_millis(50);

const FAULTS: &[Fault] = &[
    fault("stopped", LaneKind::Http, STOPPED, Wrong::Nothing, None, Cause::ReadStall, false, 500),
    fault("dropped", LaneKind::Http, 8001, Wrong::Nothing, Some("drop_tcp"), Cause::ConnectTimeout, true, 1000),
    fault("dropped_tcp", LaneKind::Tcp, 8002, Wrong::Nothing, Some("drop_tcp"), Cause::ConnectTimeout, true, 1000),
    fault("blackholed", LaneKind::UdpFixed, 8003, Wrong::Nothing, Some("drop_udp"), Cause::NoReply, false, 1000),
    fault("host_unreachable", LaneKind::Tcp, 8004, Wrong::Nothing, Some("no_host"), Cause::UnreachableHost, true, 1000),
    fault("port_unreachable", LaneKind::Tcp, 8005, Wrong::Nothing, Some("no_port"), Cause::UnreachablePort, true, 1000),
    fault("reset_before_handshake", LaneKind::Http, 8006, Wrong::Closed, None, Cause::Refused, true, 400),
    fault("reset_after_handshake", LaneKind::Http, 8007, Wrong::Reset, None, Cause::Reset, false, 400),
    fault("delayed", LaneKind::Http, 8008, Wrong::Delayed, None, Cause::ReadStall, false, 400),
    fault("wrong_identity", LaneKind::Http, 8009, Wrong::Identity, None, Cause::Misroute, false, 400),
    fault("truncated_body", LaneKind::Http, 8010, Wrong::Truncated, None, Cause::TruncatedBody, false, 400),
    fault("http_status", LaneKind::Http, 8011, Wrong::Status, None, Cause::HttpStatus, false, 400),
    fault("dns_servfail", LaneKind::Dns, 8012, Wrong::ServFail, None, Cause::DnsRcode, false, 400),
    fault("dns_wrong_id", LaneKind::Dns, 8013, Wrong::Id, None, Cause::DnsIdMismatch, false, 400),
    fault("dns_wrong_id_fixed_port", LaneKind::DnsFixed, 8014, Wrong::Id, None, Cause::DnsIdMismatch, false, 400),
];

/// A moment at which a fault began or ended: not before the one and not after the other.
#[derive(Clone, Copy, Debug)]
struct Moment {
    after: Instant,
    before: Instant,
}

fn during<T>(action: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<Moment> {
    let after = Instant::now();
    action()?;
    Ok(Moment { after, before: Instant::now() })
}

/// Two hosts on a wire, and servers on one of them that fail on demand.
struct Field {
    client: Namespace,
    servers: Vec<FaultyServer>,
    stopped: Child,
    _controls: (FaultyServer, Child),
    /// Runs nft in the server's namespace with each line it is given. Starting a process from this one would make the
    /// prober late, whose memory the kernel copies then.
    nft: Child,
    commands: RefCell<File>,
    changes: Cell<u32>,
    _directory: TempDir,
    _lab: Lab,
}

impl Field {
    fn build(sandbox: &Sandbox) -> anyhow::Result<Self> {
        let mut lab = Lab::new(sandbox);
        let (client, server) = (lab.namespace("client")?, lab.namespace("server")?);
        lab.veth((&client, "eth0"), (&server, "eth0"))?;
        for (namespace, address) in [(&client, CLIENT), (&server, SERVER)] {
            namespace.address("eth0", IpNet::V4(Ipv4Net::new(address, 24)?))?;
            namespace.sysctl("net.ipv4.ip_local_port_range", "1024 65535")?;
        }
        // The kernel would otherwise answer with few ICMP errors a second only.
        server.sysctl("net.ipv4.icmp_ratelimit", "0")?;
        let nft = find_program("nft", "nftables")?;
        let mut command = Command::new(&nft);
        command.arg(
            "table ip fault {
                set drop_tcp { type inet_service; }
                set drop_udp { type inet_service; }
                set no_host { type inet_service; }
                set no_port { type inet_service; }
                chain input {
                    type filter hook input priority 0;
                    tcp dport @drop_tcp drop
                    udp dport @drop_udp drop
                    tcp dport @no_host reject with icmp type host-unreachable
                    tcp dport @no_port reject with icmp type port-unreachable
                }
            }",
        );
        server.run(command)?;

        let directory = TempDir::new_in(sandbox.scratch())?;
        let fifo = directory.path().join("commands");
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, FileType::Fifo, Mode::RWXU, 0)?;
        let mut shell = Command::new("sh");
        shell.args(["-c", "while read -r number command; do \"$0\" \"$command\" && echo \"$number\"; done < \"$1\""]);
        let nft = server.spawn({
            shell.arg(nft).arg(&fifo);
            shell
        })?;
        let commands = RefCell::new(File::options().write(true).open(&fifo)?);

        let serve = |port: u16| -> anyhow::Result<Child> {
            let mut serve = Command::new(world::program()?);
            serve.args(["probe", "serve", "--name", NAME, "--http", &SocketAddr::from((SERVER, port)).to_string()]);
            let child = server.spawn(serve)?;
            child.wait_for_line("ready", world::SOON)?;
            Ok(child)
        };
        let stopped = serve(STOPPED)?;
        let control = fault("control", LaneKind::Http, CONTROLS[0], Wrong::Nothing, None, Cause::LocalError, false, 0);
        let controls = (FaultyServer::start(&server, &control)?, serve(CONTROLS[1])?);
        let servers = FAULTS
            .iter()
            .filter(|fault| fault.port != STOPPED)
            .map(|fault| FaultyServer::start(&server, fault))
            .collect::<anyhow::Result<_>>()?;
        Ok(Self {
            client,
            servers,
            stopped,
            _controls: controls,
            nft,
            commands,
            changes: Cell::new(0),
            _directory: directory,
            _lab: lab,
        })
    }

    /// Puts ports into nftables sets, or takes them out, at once.
    fn change_sets(&self, verb: &str, faults: &[Fault]) -> anyhow::Result<()> {
        let changes = faults.iter().filter_map(|fault| Some((fault.set?, fault.port)));
        let commands: Vec<String> =
            changes.map(|(set, port)| format!("{verb} element ip fault {set} {{ {port} }}")).collect();
        let number = self.changes.get() + 1;
        self.changes.set(number);
        writeln!(self.commands.borrow_mut(), "{number} {}", commands.join("; "))?;
        Ok(self.nft.wait_for_line(&number.to_string(), world::SOON)?)
    }
}

/// A server that does wrong while told to.
struct FaultyServer {
    port: u16,
    wrong: Wrong,
    on: Arc<AtomicBool>,
    address: SocketAddr,
    namespace: Namespace,
    listener: std::sync::Mutex<Option<TcpListener>>,
}

impl FaultyServer {
    fn start(namespace: &Namespace, fault: &Fault) -> anyhow::Result<Self> {
        let server = Self {
            port: fault.port,
            wrong: fault.wrong,
            on: Arc::default(),
            address: SocketAddr::from((SERVER, fault.port)),
            namespace: namespace.clone(),
            listener: std::sync::Mutex::new(None),
        };
        match fault.kind {
            LaneKind::UdpFixed | LaneKind::Dns | LaneKind::DnsFixed => {
                let socket = namespace.enter(|| UdpSocket::bind(server.address))??;
                let (on, wrong, dns) = (server.on.clone(), fault.wrong, fault.kind != LaneKind::UdpFixed);
                thread::spawn(move || serve_datagrams(&socket, &on, wrong, dns));
            }
            _ => server.listen()?,
        }
        Ok(server)
    }

    fn listen(&self) -> anyhow::Result<()> {
        let listener = self.namespace.enter(|| TcpListener::bind(self.address))??;
        let accepting = listener.try_clone()?;
        let (on, wrong) = (self.on.clone(), self.wrong);
        thread::spawn(move || {
            while let Ok((stream, _)) = accepting.accept() {
                let wrong = if on.load(Ordering::SeqCst) { wrong } else { Wrong::Nothing };
                // A client that goes away is its own business.
                drop(answer(stream, wrong));
            }
        });
        *self.listener.lock().map_err(|_| anyhow::anyhow!("a server panicked"))? = Some(listener);
        Ok(())
    }

    fn begin(&self) -> anyhow::Result<()> {
        if self.wrong == Wrong::Closed {
            let listener = self.listener.lock().map_err(|_| anyhow::anyhow!("a server panicked"))?.take();
            // Closing one descriptor would leave the other listening.
            SockRef::from(&listener.context("no listener")?).shutdown(Shutdown::Both)?;
        }
        self.on.store(true, Ordering::SeqCst);
        Ok(())
    }

    fn end(&self) -> anyhow::Result<()> {
        self.on.store(false, Ordering::SeqCst);
        if self.wrong == Wrong::Closed { self.listen() } else { Ok(()) }
    }
}

fn answer(mut stream: TcpStream, wrong: Wrong) -> anyhow::Result<()> {
    stream.set_read_timeout(Some(TIMEOUT))?;
    let mut request = [0; 1024];
    // The lanes that only connect send nothing.
    if stream.read(&mut request)? == 0 {
        return Ok(());
    }
    match wrong {
        Wrong::Reset => return Ok(SockRef::from(&stream).set_linger(Some(Duration::ZERO))?),
        Wrong::Delayed => {
            thread::spawn(move || {
                thread::sleep(DELAY);
                drop(respond(stream, "200 OK", NAME, "ok"));
            });
            return Ok(());
        }
        _ => {}
    }
    match wrong {
        Wrong::Identity => respond(stream, "200 OK", "intruder", "ok"),
        Wrong::Truncated => respond(stream, "200 OK", NAME, "o"),
        Wrong::Status => respond(stream, "503 Service Unavailable", NAME, "no"),
        _ => respond(stream, "200 OK", NAME, "ok"),
    }
}

fn respond(mut stream: TcpStream, status: &str, name: &str, body: &str) -> anyhow::Result<()> {
    let answer = format!("HTTP/1.1 {status}\r\nx-evenkeel-server: {name}\r\ncontent-length: 2\r\n\r\n{body}");
    Ok(stream.write_all(answer.as_bytes())?)
}

fn serve_datagrams(socket: &UdpSocket, on: &AtomicBool, wrong: Wrong, dns: bool) {
    let mut buffer = [0; 1024];
    while let Ok((length, client)) = socket.recv_from(&mut buffer) {
        if dns {
            // The query becomes its own answer.
            buffer[2] |= 0x80;
            if on.load(Ordering::SeqCst) {
                match wrong {
                    Wrong::ServFail => buffer[3] |= 2,
                    Wrong::Id => buffer[0] ^= 0x55,
                    _ => {}
                }
            }
        }
        // A client that is gone is no fault.
        drop(socket.send_to(&buffer[..length], client));
    }
}

/// The prober at work.
struct Run {
    progress: Arc<Progress>,
    thread: thread::JoinHandle<Result<anyhow::Result<Measurement>, evenkeel_lab::Error>>,
    results: thread::JoinHandle<Vec<RequestResult>>,
    stop: DropGuard,
}

impl Run {
    fn start(namespace: &Namespace, config: Config) -> anyhow::Result<Self> {
        let mut prober = Prober::new(config)?;
        let progress = prober.progress();
        let results = prober.results(1 << 20);
        let results = thread::spawn(move || results.collect());
        let stop = CancellationToken::new();
        let token = stop.clone();
        let thread = namespace.thread("probe", move || {
            // What injects the faults must not make the prober late.
            go_before(2);
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            Ok(runtime.block_on(prober.measure(token)))
        })?;
        let run = Self { progress, thread, results, stop: stop.drop_guard() };
        world::eventually("requests succeed in every lane", || {
            Ok(run.progress.lanes().iter().all(|lane| lane.succeeded > 0).then_some(()))
        })
        .with_context(|| format!("{:?}", run.progress.lanes()))?;
        Ok(run)
    }

    /// When the run's clock was zero.
    fn zero(&self) -> anyhow::Result<Instant> {
        Instant::now().checked_sub(self.progress.elapsed()).context("the clock began after the run")
    }

    /// Starts no further request.
    fn stop(self) -> anyhow::Result<(Measurement, Vec<RequestResult>)> {
        drop(self.stop);
        Self::join(self.thread, self.results)
    }

    /// Waits for the configured end.
    fn wait(self) -> anyhow::Result<(Measurement, Vec<RequestResult>)> {
        let Self { thread, results, stop: _stop, .. } = self;
        Self::join(thread, results)
    }

    fn join(
        thread: thread::JoinHandle<Result<anyhow::Result<Measurement>, evenkeel_lab::Error>>,
        results: thread::JoinHandle<Vec<RequestResult>>,
    ) -> anyhow::Result<(Measurement, Vec<RequestResult>)> {
        let panicked = |_| anyhow::anyhow!("the prober panicked");
        Ok((thread.join().map_err(panicked)???, results.join().map_err(panicked)?))
    }
}

/// A lane for each fault, then the controls.
fn lanes() -> Vec<Lane> {
    let control = |port| Lane::to(LaneKind::Http, SocketAddr::from((SERVER, port)), RATE);
    FAULTS
        .iter()
        .map(|fault| {
            let mut lane = Lane::to(fault.kind, SocketAddr::from((SERVER, fault.port)), RATE);
            lane.name = fault.name.to_owned();
            if matches!(fault.kind, LaneKind::Dns | LaneKind::DnsFixed) {
                lane.path = "www.example.com".to_owned();
            }
            if fault.kind == LaneKind::Http {
                lane.options.servers = BTreeSet::from([NAME.to_owned()]);
            }
            lane
        })
        .chain(CONTROLS.map(control))
        .collect()
}

fn config(lanes: Vec<Lane>, timeout: Duration) -> Config {
    let mut config = Config::new(lanes, Duration::from_secs(60));
    config.timeout = timeout;
    config.close = Close::Reset;
    config.max_lag = TOLERANCE;
    config
}

/// Something between zero and a request's interval.
fn random_phase() -> Duration {
    let random = RandomState::new().hash_one(0_u8);
    Duration::from_nanos(random % u64::try_from(INTERVAL.as_nanos()).unwrap_or(1))
}

fn every_fault_is_named_and_timed(sandbox: &Sandbox) -> anyhow::Result<()> {
    let field = Field::build(sandbox)?;
    let (mut done, mut odd) = (vec![0; FAULTS.len()], vec![0; FAULTS.len()]);
    for number in 0..MAX_REPETITIONS {
        repetition(&field, &mut done, &mut odd).with_context(|| format!("repetition {number}"))?;
        if done.iter().all(|&done| done >= REPETITIONS) {
            return Ok(());
        }
    }
    bail!("after {MAX_REPETITIONS} repetitions, the prober was in time for these only: {done:?}")
}

/// All faults once; counts those for which the prober was not late itself.
fn repetition(field: &Field, done: &mut [u32], odd: &mut [u32]) -> anyhow::Result<()> {
    let run = Run::start(&field.client, config(lanes(), TIMEOUT))?;
    thread::sleep(QUIET + random_phase());

    // The faults of the servers in turn, then all those of the network at once.
    let mut log: Vec<Option<(Moment, Moment)>> = FAULTS.iter().map(|_| None).collect();
    let by_network = during(|| field.change_sets("add", FAULTS))?;
    let mut begun = Vec::new();
    for (index, fault) in FAULTS.iter().enumerate().filter(|(_, fault)| fault.set.is_none()) {
        let moment = match field.servers.iter().find(|server| server.port == fault.port) {
            Some(server) => during(|| server.begin())?,
            None => during(|| Ok(field.stopped.signal(Signal::STOP)?))?,
        };
        begun.push((index, fault, moment));
    }
    begun.sort_by_key(|(_, fault, moment)| moment.before + fault.duration);
    for (index, fault, begin) in begun {
        thread::sleep((begin.before + fault.duration).saturating_duration_since(Instant::now()));
        let end = match field.servers.iter().find(|server| server.port == fault.port) {
            Some(server) => during(|| server.end())?,
            None => during(|| Ok(field.stopped.signal(Signal::CONT)?))?,
        };
        log[index] = Some((begin, end));
    }
    thread::sleep((by_network.before + ms(1000)).saturating_duration_since(Instant::now()));
    let network_end = during(|| field.change_sets("delete", FAULTS))?;
    for (slot, fault) in log.iter_mut().zip(FAULTS) {
        if fault.set.is_some() {
            *slot = Some((by_network, network_end));
        }
    }
    thread::sleep(QUIET + TIMEOUT);
    let zero = run.zero()?;
    let (measurement, results) = run.stop()?;
    let mut controls = measurement.lanes.iter().skip(FAULTS.len());
    if controls.any(|lane| lane.failed > 0 || lane.longest_gap.length() > MAX_CONTROL_GAP) {
        return Ok(());
    }
    for (index, fault) in FAULTS.iter().enumerate() {
        let lane = &measurement.lanes[index];
        let (begin, end) = log[index].context("no log")?;
        // Requests that were started too late when it mattered, or that had waited for their answers all too long when the fault
        // began: it is theirs as well.
        let late = results.iter().any(|result| {
            let since = |instant: Instant| instant.saturating_duration_since(zero);
            let began = since(begin.before);
            if result.lane == index && result.intended + INTERVAL < began && result.end > began {
                return true;
            }
            let near = |moment: Moment| {
                result.intended + INTERVAL > since(moment.after) && result.intended < since(moment.before) + INTERVAL
            };
            result.lane == index && result.sent - result.intended > TOLERANCE && (near(begin) || near(end))
        });
        if late {
            continue;
        }
        // Whoever is connected but not yet accepted when the socket is closed is reset by that, and rightly so named.
        let cut_off = |result: &&RequestResult| {
            let is_early = result.intended < begin.before.saturating_duration_since(zero);
            result.lane == index && is_early && fault.wrong == Wrong::Closed && result.cause == Some(Cause::Reset)
        };
        let cut_off = u64::try_from(results.iter().filter(cut_off).count())?;
        let told = || {
            format!("{}: causes {:?}, errors {:?}, windows {:#?}", fault.name, lane.causes, lane.errors, lane.windows)
        };
        match check(fault, lane, cut_off, zero, begin, end).with_context(told)? {
            None => done[index] += 1,
            Some(off) => {
                odd[index] += 1;
                ensure!(odd[index] <= MAX_ODD, "{}: {off}, the {}th time", told(), odd[index]);
            }
        }
    }
    Ok(())
}

/// Whether a fault was named, and when it was seen, if that is not when it was. `cut_off`: requests that were reset by the
/// beginning of the fault itself.
fn check(
    fault: &Fault,
    lane: &LaneMeasurement,
    cut_off: u64,
    zero: Instant,
    begin: Moment,
    end: Moment,
) -> anyhow::Result<Option<String>> {
    let bar = INTERVAL + TOLERANCE;
    let mut causes = lane.causes.clone();
    // One may have completed its handshake just before packets began to be dropped.
    let caught = if fault.cause == Cause::ConnectTimeout { causes.remove(&Cause::ReadStall).unwrap_or(0) } else { 0 };
    ensure!(caught <= 1, "{caught} requests were under way at one moment");
    let (rescuable, failed) = (lane.rescuable, lane.failed - cut_off - caught);
    if cut_off > 0 {
        causes.retain(|cause, count| *cause != Cause::Reset || *count > cut_off);
    }
    ensure!(causes == [(fault.cause, failed)].into(), "the cause is {}", fault.cause);
    ensure!(rescuable == if fault.rescuable { failed } else { 0 }, "{rescuable} of {failed} were rescuable");
    let [window] = lane.windows.as_slice() else { bail!("{} windows instead of one", lane.windows.len()) };

    let since = |instant: Instant| instant.saturating_duration_since(zero);
    let (earliest, latest) = (since(begin.after).saturating_sub(bar), since(begin.before) + bar);
    if !(earliest..=latest).contains(&window.start) {
        return Ok(Some(format!("the outage began at {:?}, not within {earliest:?} to {latest:?}", window.start)));
    }
    let (shortest, longest) = ((end.after - begin.before).saturating_sub(bar), end.before - begin.after + bar);
    if !(shortest..=longest).contains(&window.length()) {
        return Ok(Some(format!("the outage took {:?}, not {shortest:?} to {longest:?}", window.length())));
    }
    Ok(None)
}

/// A server that is stopped for 2 s in a run of 20 s: a tenth of the requests wait, and they show.
fn a_stall_is_not_omitted(sandbox: &Sandbox) -> anyhow::Result<()> {
    const STALL: Duration = Duration::from_secs(2);
    let field = Field::build(sandbox)?;
    let target = SocketAddr::from((SERVER, STOPPED));
    let lane = Lane::to(LaneKind::Http, target, NonZeroU32::new(500).context("no rate")?);
    let mut config = config(vec![lane], Duration::from_secs(10));
    config.duration = Duration::from_secs(20);
    // Whether the prober was late is not what is asked here: that only adds to the latency.
    config.max_lag = Duration::from_secs(1);
    let run = Run::start(&field.client, config)?;
    thread::sleep(Duration::from_secs(5));
    field.stopped.signal(Signal::STOP)?;
    thread::sleep(STALL);
    field.stopped.signal(Signal::CONT)?;
    let (measurement, _) = run.wait()?;

    let lane = &measurement.lanes[0];
    ensure!((lane.sent, lane.failed) == (10_000, 0), "{} sent, {:?}", lane.sent, lane.causes);
    let p99 = |latency: &Latency| latency.quantile(0.99).context("no latency");
    ensure!(p99(&lane.latency)? >= Duration::from_secs(1), "p99 {:?}", p99(&lane.latency));
    // It is seen from the first request it hits to the first it does not, each up to an interval later. A busy machine may
    // have stalls of its own.
    let shortest = STALL.saturating_sub(ms(2) + TOLERANCE);
    let stalled = |window: &Window| window.cause().is_none() && window.length() >= shortest;
    ensure!(lane.windows.iter().any(stalled), "{:?}", lane.windows);
    Ok(())
}

/// SYNs that are lost for a moment are sent again by the kernel after a second: slow successes, and it knows why.
fn lost_syns_are_confirmed_by_the_kernel(sandbox: &Sandbox) -> anyhow::Result<()> {
    let field = Field::build(sandbox)?;
    let faults = [fault("lost", LaneKind::Tcp, 8002, Wrong::Nothing, Some("drop_tcp"), Cause::ConnectTimeout, true, 0)];
    let lane = Lane::to(LaneKind::Tcp, SocketAddr::from((SERVER, 8002)), RATE);
    let run = Run::start(&field.client, config(vec![lane], Duration::from_secs(10)))?;
    field.change_sets("add", &faults)?;
    let before = run.progress.lanes()[0].sent;
    world::eventually("requests are lost", || Ok((run.progress.lanes()[0].sent > before + 10).then_some(())))?;
    field.change_sets("delete", &faults)?;
    world::eventually("all have been answered", || {
        let lane = run.progress.lanes().remove(0);
        Ok((lane.since_success < ms(200) && lane.recent_p99.is_some_and(|p99| p99 > ms(800))).then_some(()))
    })?;
    let (measurement, _) = run.stop()?;
    let lane = &measurement.lanes[0];
    ensure!(lane.failed == 0, "{:?}", lane.causes);
    let slow = lane.slow[0];
    ensure!(slow.count >= 10 && slow.confirmed == slow.count, "{:?}", lane.slow);
    Ok(())
}
