//! The prober against wrk, oha and dnsperf, on loopback.
//!
//! Whoever asks has one processor, and what is asked another, so that the one is not measured by the other. Rounds are
//! interleaved and ratios taken within rounds, as for the load balancer. Peers that are not installed are left out.

use std::{
    collections::BTreeMap,
    env, fs,
    net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket},
    num::NonZeroU32,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use evenkeel_lab::find_program;
use evenkeel_probe::{Close, Config, Lane, LaneKind, Measurement, Prober, Rate, ServeConfig, Server};
use rustix::process::{Pid, Signal};
use serde::Serialize;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::{median, target_directory};

/// The processor of whoever asks, and that of what is asked.
const CLIENT: usize = 0;
const SERVER: usize = 1;

/// Connections, or queries, that are kept under way for throughput.
const CONNECTIONS: u32 = 32;
const QUERIES: u32 = 100;

/// The step between two rates that are tried.
const STEP: f64 = 1.05;
/// A run keeps a rate if it sends this share of it.
const KEPT: f64 = 0.99;
/// Connections a second at which the prober's own lag is measured.
const LAG_RATE: u32 = 5_000;

/// The run during which the server is stopped: how long, how many requests a second, and when the server is stopped for
/// how long.
const STALL_RUN: Duration = Duration::from_secs(20);
const STALL_RATE: u32 = 500;
const STALL_AT: Duration = Duration::from_secs(5);
const STALL: Duration = Duration::from_secs(2);

/// Compare the prober with wrk, oha and dnsperf on loopback.
#[derive(clap::Args)]
pub(super) struct Args {
    /// Rounds; medians over them are reported
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Seconds of each measurement
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
    /// What to measure
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Metric::ALL)]
    metrics: Vec<Metric>,
    /// Where the report goes [default: bench/probe.json in the target directory]
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
enum Metric {
    /// Requests a second over kept connections, as fast as answers come, against wrk
    KeepaliveRps,
    /// Highest rate of requests on kept connections that an open loop keeps, against oha
    OpenKeepaliveRps,
    /// Highest rate of requests on new connections that an open loop keeps, against oha
    OpenNewRps,
    /// DNS queries a second, as fast as answers come, against dnsperf
    DnsQps,
    /// The prober's own lag at 5,000 new connections a second, 99th percentile, microseconds
    LagP99Us,
    /// 99th percentile of the response times of a run of 20 s during which the server is stopped for 2 s, milliseconds:
    /// at 500 requests a second, and as wrk sees it
    StallP99Ms,
}

impl Metric {
    const ALL: [Self; 5] = [Self::KeepaliveRps, Self::OpenKeepaliveRps, Self::OpenNewRps, Self::DnsQps, Self::LagP99Us];

    const fn name(self) -> &'static str {
        match self {
            Self::KeepaliveRps => "keepalive_rps",
            Self::OpenKeepaliveRps => "open_keepalive_rps",
            Self::OpenNewRps => "open_new_rps",
            Self::DnsQps => "dns_qps",
            Self::LagP99Us => "lag_p99_us",
            Self::StallP99Ms => "stall_p99_ms",
        }
    }

    const fn peer(self) -> Option<&'static str> {
        match self {
            Self::KeepaliveRps | Self::StallP99Ms => Some("wrk"),
            Self::OpenKeepaliveRps | Self::OpenNewRps => Some("oha"),
            Self::DnsQps => Some("dnsperf"),
            Self::LagP99Us => None,
        }
    }
}

/// What is asked, and who else can ask.
struct Bench {
    nginx: Nginx,
    http: SocketAddr,
    dns: SocketAddr,
    questions: PathBuf,
    seconds: u32,
    peers: BTreeMap<&'static str, PathBuf>,
}

#[derive(Debug, Serialize)]
struct Row {
    metric: Metric,
    /// Medians over the rounds.
    probe: f64,
    peer: Option<f64>,
    peer_name: Option<&'static str>,
    /// Median over the rounds of the ratio within the round.
    ratio: Option<f64>,
    rounds: Vec<(f64, Option<f64>)>,
}

pub(super) fn run(args: &Args) -> Result<()> {
    ensure!(thread::available_parallelism()?.get() > SERVER, "two processors are needed: one to ask, one to answer");
    let home = tempfile::tempdir()?;
    let nginx = Nginx::start(home.path())?;
    let dns = start_dns()?;
    let questions = home.path().join("questions");
    fs::write(&questions, "www.example.com A\n")?;
    let mut peers = BTreeMap::new();
    for name in args.metrics.iter().filter_map(|metric| metric.peer()) {
        match find_peer(name) {
            Some(path) => drop(peers.insert(name, path)),
            None => eprintln!("{name} is not installed: measured without it"),
        }
    }
    let bench = Bench { http: nginx.address, nginx, dns, questions, seconds: args.seconds, peers };

    let mut rows = Vec::new();
    for &metric in &args.metrics {
        let mut rounds = Vec::new();
        for round in 0..args.rounds {
            // Who is first alternates.
            let (probe, peer) = if round % 2 == 0 {
                let probe = bench.probe(metric)?;
                (probe, bench.peer(metric)?)
            } else {
                let peer = bench.peer(metric)?;
                (bench.probe(metric)?, peer)
            };
            eprintln!(
                "{} round {}: probe {probe:.0}, {} {}",
                metric.name(),
                round + 1,
                metric.peer().unwrap_or("-"),
                show(peer, 0)
            );
            rounds.push((probe, peer));
        }
        rows.push(Row {
            metric,
            probe: median(rounds.iter().map(|round| round.0)).unwrap_or_default(),
            peer: median(rounds.iter().filter_map(|round| round.1)),
            peer_name: metric.peer(),
            ratio: median(rounds.iter().filter_map(|round| Some(round.0 / round.1?))),
            rounds,
        });
    }

    println!(
        "medians of {} interleaved rounds of {} s, one processor each for who asks and who answers\n",
        args.rounds, args.seconds
    );
    println!("{:<20} {:>10} {:>10} {:>8}  peer", "metric", "probe", "peer", "ratio");
    for row in &rows {
        let peer = row.peer_name.unwrap_or("-");
        println!(
            "{:<20} {:>10.0} {:>10} {:>8}  {peer}",
            row.metric.name(),
            row.probe,
            show(row.peer, 0),
            show(row.ratio, 2)
        );
    }
    let file =
        args.report.clone().map_or_else(|| Ok::<_, anyhow::Error>(target_directory()?.join("bench/probe.json")), Ok)?;
    if let Some(parent) = file.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::write(&file, serde_json::to_string_pretty(&rows)?).with_context(|| format!("writing {}", file.display()))?;
    println!("\nreport: {}", file.display());
    Ok(())
}

fn show(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"))
}

/// A program on the path, or where cargo installs.
fn find_peer(name: &'static str) -> Option<PathBuf> {
    if let Ok(path) = find_program(name, name) {
        return Some(path);
    }
    let home = env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cargo")))?;
    Some(home.join("bin").join(name)).filter(|path| path.is_file())
}

impl Bench {
    fn probe(&self, metric: Metric) -> Result<f64> {
        match metric {
            Metric::KeepaliveRps => self.throughput(LaneKind::HttpKeepalive, self.http, CONNECTIONS),
            Metric::DnsQps => self.throughput(LaneKind::DnsFixed, self.dns, QUERIES),
            Metric::OpenKeepaliveRps => highest(|rate| self.keeps(LaneKind::HttpKeepalive, rate)),
            Metric::OpenNewRps => highest(|rate| self.keeps(LaneKind::Http, rate)),
            Metric::StallP99Ms => self.stall(),
            Metric::LagP99Us => {
                let measurement = self.open_loop(LaneKind::Http, LAG_RATE)?;
                let lane = measurement.lanes.first().context("no lane")?;
                ensure!(lane.failed == 0, "requests failed: {:?}", lane.errors);
                let lag = |quantile| measurement.lag.quantile(quantile).unwrap_or_default();
                eprintln!("own lag [50, 90, 99, 99.9, max]: {:?}", [0.5, 0.9, 0.99, 0.999, 1.0].map(lag));
                Ok(measurement.lag.quantile(0.99).context("no request")?.as_secs_f64() * 1e6)
            }
        }
    }

    /// Stops the server for a while during a run.
    fn stalled<T>(&self, run: impl FnOnce() -> Result<T>) -> Result<T> {
        thread::scope(|scope| {
            let stall = scope.spawn(|| -> Result<()> {
                thread::sleep(STALL_AT);
                self.nginx.signal(Signal::STOP)?;
                thread::sleep(STALL);
                self.nginx.signal(Signal::CONT)
            });
            let result = run();
            stall.join().map_err(|_| anyhow::anyhow!("stopping the server panicked"))??;
            result
        })
    }

    fn stall(&self) -> Result<f64> {
        let rate = NonZeroU32::new(STALL_RATE).context("no rate")?;
        let mut config = Config::new(vec![Lane::to(LaneKind::Http, self.http, rate)], STALL_RUN);
        config.timeout = STALL_RUN;
        let measurement = self.stalled(|| measure(config))?;
        let lane = measurement.lanes.first().context("no lane")?;
        ensure!(lane.failed == 0, "requests failed: {:?}", lane.errors);
        Ok(lane.latency.quantile(0.99).context("no request")?.as_secs_f64() * 1e3)
    }

    fn wrk_stall(&self, program: &Path) -> Result<f64> {
        let output = self.stalled(|| {
            let mut command = on_client(program);
            command.args(["-t1", &format!("-c{CONNECTIONS}"), &format!("-d{}s", STALL_RUN.as_secs()), "--latency"]);
            output(command.arg(format!("http://{}/", self.http)))
        })?;
        let text = output.lines().find_map(|line| line.trim().strip_prefix("99%")).context("no line 99%")?;
        Ok(super::wrk::microseconds(text.trim())? / 1e3)
    }

    fn throughput(&self, kind: LaneKind, target: SocketAddr, in_flight: u32) -> Result<f64> {
        let connections = NonZeroU32::new(in_flight).context("nothing in flight")?;
        let measurement = self.measure(Lane::to(kind, target, Rate::Max { connections }))?;
        let lane = measurement.lanes.first().context("no lane")?;
        ensure!(lane.failed == 0, "requests failed: {:?}", lane.errors);
        Ok(lane.succeeded as f64 / measurement.duration.as_secs_f64())
    }

    fn open_loop(&self, kind: LaneKind, rate: u32) -> Result<Measurement> {
        self.measure(Lane::to(kind, self.http, NonZeroU32::new(rate).context("no rate")?))
    }

    fn measure(&self, mut lane: Lane) -> Result<Measurement> {
        if lane.kind == LaneKind::DnsFixed {
            lane.path = "www.example.com".to_owned();
        }
        let mut config = Config::new(vec![lane], Duration::from_secs(self.seconds.into()));
        // As the peers do: where the server closes first, ports are held by the server's side.
        config.close = Close::Auto;
        measure(config)
    }

    /// Whether the prober keeps a rate: no failure, and by its own judgement valid.
    fn keeps(&self, kind: LaneKind, rate: u32) -> Result<bool> {
        let measurement = self.open_loop(kind, rate)?;
        let lane = measurement.lanes.first().context("no lane")?;
        let sent =
            lane.succeeded as f64 / measurement.ended.as_secs_f64().min(measurement.duration.as_secs_f64() + 0.05);
        Ok(measurement.invalid.is_empty() && lane.failed == 0 && sent >= f64::from(rate) * KEPT)
    }

    fn peer(&self, metric: Metric) -> Result<Option<f64>> {
        let Some((name, program)) = metric.peer().and_then(|name| Some((name, self.peers.get(name)?))) else {
            return Ok(None);
        };
        let value = match metric {
            Metric::KeepaliveRps => self.wrk(program),
            Metric::OpenKeepaliveRps => highest(|rate| self.oha_keeps(program, rate, true)),
            Metric::OpenNewRps => highest(|rate| self.oha_keeps(program, rate, false)),
            Metric::DnsQps => self.dnsperf(program),
            Metric::StallP99Ms => self.wrk_stall(program),
            Metric::LagP99Us => return Ok(None),
        };
        value.with_context(|| format!("measuring {name}")).map(Some)
    }

    fn wrk(&self, program: &Path) -> Result<f64> {
        let mut command = on_client(program);
        command.args(["-t1", &format!("-c{CONNECTIONS}"), &format!("-d{}s", self.seconds)]);
        let output = output(command.arg(format!("http://{}/", self.http)))?;
        number_after(&output, "Requests/sec:")
    }

    fn dnsperf(&self, program: &Path) -> Result<f64> {
        let mut command = on_client(program);
        command.args(["-s", &self.dns.ip().to_string(), "-p", &self.dns.port().to_string(), "-d"]).arg(&self.questions);
        // As the prober: one port, and no more queries in flight.
        command.args(["-c1", "-T1", "-q", &QUERIES.to_string(), "-l", &self.seconds.to_string()]);
        let output = output(&mut command)?;
        number_after(&output, "Queries per second:")
    }

    /// Whether oha keeps a rate, by what it says of itself: it does not measure its own lag.
    fn oha_keeps(&self, program: &Path, rate: u32, keepalive: bool) -> Result<bool> {
        let mut command = on_client(program);
        command.args(["--no-tui", "--output-format", "json", "--latency-correction", "-c", "64"]);
        command.args(["-z", &format!("{}s", self.seconds), "-q", &rate.to_string()]);
        if !keepalive {
            command.arg("--disable-keepalive");
        }
        command.arg(format!("http://{}/", self.http)).env("TOKIO_WORKER_THREADS", "1");
        let report: Value = serde_json::from_str(&output(&mut command)?).context("oha printed no JSON")?;
        let sent = report["summary"]["requestsPerSec"].as_f64().context("oha reports no rate")?;
        Ok(sent >= f64::from(rate) * KEPT)
    }
}

fn measure(config: Config) -> Result<Measurement> {
    let prober = Prober::new(config)?;
    pinned(CLIENT, move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(runtime.block_on(prober.measure(CancellationToken::new())))
    })
}

/// The highest rate that is kept, found from below: coarsely, then step by step. A rate counts as kept if it is so in one
/// of two runs, since the machine may do something else for a moment.
fn highest(keeps: impl Fn(u32) -> Result<bool>) -> Result<f64> {
    const LOWEST: f64 = 2_000.0;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "rates are far below the limits")]
    let keeps = |rate: f64| -> Result<bool> { Ok(keeps(rate as u32)? || keeps(rate as u32)?) };
    let mut kept = LOWEST;
    ensure!(keeps(kept)?, "not even {LOWEST} requests a second are kept");
    for factor in [1.5, STEP.powi(3), STEP] {
        while keeps(kept * factor)? {
            kept *= factor;
        }
    }
    Ok(kept)
}

/// Runs a closure on a thread that keeps to one processor; threads it starts do as well.
fn pinned<T: Send>(processor: usize, closure: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let result = thread::scope(|scope| {
        scope
            .spawn(|| {
                pin(processor)?;
                closure()
            })
            .join()
    });
    result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn pin(processor: usize) -> Result<()> {
    let mut set = rustix::thread::CpuSet::new();
    set.set(processor);
    Ok(rustix::thread::sched_setaffinity(None, &set)?)
}

fn on(processor: usize, program: &Path) -> Command {
    let mut command = Command::new("taskset");
    command.args(["-c", &processor.to_string()]).arg(program);
    command
}

fn on_client(program: &Path) -> Command {
    on(CLIENT, program)
}

fn output(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("starting {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn number_after(output: &str, label: &str) -> Result<f64> {
    output
        .lines()
        .find_map(|line| line.trim().strip_prefix(label))
        .and_then(|rest| rest.trim().parse().ok())
        .with_context(|| format!("no line `{label}` in:\n{output}"))
}

/// One nginx process.
struct Nginx {
    process: Child,
    address: SocketAddr,
}

impl Nginx {
    fn start(home: &Path) -> Result<Self> {
        // Free a moment ago; nobody else is likely to take it.
        let address = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let config = home.join("nginx.conf");
        let root = home.display();
        fs::write(
            &config,
            format!(
                "\
daemon off;
master_process off;
worker_rlimit_nofile 65535;
pid {root}/nginx.pid;
error_log stderr;
events {{ worker_connections 16384; }}
http {{
    access_log off;
    keepalive_requests 1000000000;
    client_body_temp_path {root}/body;
    proxy_temp_path {root}/proxy;
    fastcgi_temp_path {root}/fastcgi;
    uwsgi_temp_path {root}/uwsgi;
    scgi_temp_path {root}/scgi;
    server {{
        listen {address} backlog=16384;
        location = / {{ return 200 \"ok\\n\"; }}
    }}
}}
"
            ),
        )?;
        let mut command = on(SERVER, &find_program("nginx", "nginx-light")?);
        command.arg("-p").arg(home).arg("-c").arg(&config).args(["-e", "stderr"]);
        let process = command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().context("starting nginx")?;
        let nginx = Self { process, address };
        let deadline = Instant::now() + Duration::from_secs(10);
        while TcpStream::connect(address).is_err() {
            ensure!(Instant::now() < deadline, "nginx does not answer on {address}");
            thread::sleep(Duration::from_millis(10));
        }
        Ok(nginx)
    }
}

impl Nginx {
    fn signal(&self, signal: Signal) -> Result<()> {
        let id = i32::try_from(self.process.id()).ok().and_then(Pid::from_raw).context("no process id")?;
        Ok(rustix::process::kill_process(id, signal)?)
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

/// The prober's own target answers DNS, on a thread of its own until the program ends.
fn start_dns() -> Result<SocketAddr> {
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let (sender, receiver) = std::sync::mpsc::channel();
    thread::spawn(move || -> Result<()> {
        pin(SERVER)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let mut config = ServeConfig::new("bench".parse()?);
            config.dns = vec![any];
            let server = Server::bind(config)?;
            sender.send(server.dns_addresses()?[0])?;
            server.run(CancellationToken::new()).await;
            Ok(())
        })
    });
    let address = receiver.recv().context("the DNS server did not start")?;
    let socket = UdpSocket::bind(any)?;
    socket.connect(address)?;
    Ok(address)
}
