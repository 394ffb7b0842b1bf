//! `evenkeel probe`, `probe compare` and `probe serve` as scripts use them: output, files, exit status and signals.
#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    path::Path,
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant, SystemTime},
};

use rustix::process::{Pid, Signal, kill_process};

fn evenkeel(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_evenkeel"));
    command.arg("probe").args(arguments);
    command
}

/// A server with a socket of each kind on a free port of loopback.
struct Server {
    child: Child,
    targets: Vec<String>,
}

impl Server {
    fn start() -> Self {
        Self::serving(&["tcp", "http", "udp"])
    }

    fn serving(schemes: &[&str]) -> Self {
        let sockets = schemes.iter().flat_map(|scheme| [format!("--{scheme}"), "127.0.0.1:0".to_owned()]);
        let mut child = evenkeel(&["serve", "--name", "alpha"])
            .args(sockets)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut ready = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut ready).unwrap();
        assert_eq!(ready, "ready\n");
        let lines = BufReader::new(child.stderr.as_mut().unwrap()).lines().take(schemes.len());
        let targets = lines.map(|line| line.unwrap().strip_prefix("serving ").unwrap().to_owned()).collect();
        Self { child, targets }
    }

    fn probe(&self, arguments: &[&str]) -> Command {
        let mut command = evenkeel(arguments);
        // Whether the machine is busy is not what is tested here.
        command.args(&self.targets).args(["--max-lag", "1m", "--timeout", "20s"]);
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.probe(arguments).output().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Has ended already where the test passed.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Nobody answers there, and the kernel says so at once.
const UNREACHABLE: &str = "tcp://224.0.0.1:9";

fn json(output: &Output) -> serde_json::Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[test]
fn exit_status_tells_passed_breached_and_invalid() {
    let server = Server::start();

    let passed = server.run(&["--duration", "200ms", "-o", "json"]);
    assert_eq!(passed.status.code(), Some(0), "{passed:?}");
    let report = json(&passed);
    assert_eq!((&report["requests"], &report["failed"]), (&60.into(), &0.into()));
    assert_eq!(report["lanes"][1]["servers"]["alpha"], 20);
    assert_eq!(report["verdict"], "passed");

    let breached = server.run(&[UNREACHABLE, "--duration", "200ms"]);
    assert_eq!(breached.status.code(), Some(1), "{breached:?}");
    let report = text(&breached.stdout);
    assert!(report.contains("unreachable_net:20"), "{report}");
    assert!(report.ends_with("BREACHED: failed=0: 20 of 80 requests failed\n"), "{report}");

    let invalid = evenkeel(&[&server.targets[0], "--duration", "200ms", "--max-lag", "1ns"]).output().unwrap();
    assert_eq!(invalid.status.code(), Some(2), "{invalid:?}");
    assert!(text(&invalid.stdout).contains("INVALID: lag: "));
}

#[test]
fn every_kind_of_lane_is_answered() {
    let server = Server::serving(&["tcp", "tls", "http", "udp", "dns"]);
    let address = |scheme: &str| {
        let prefix = format!("{scheme}://");
        server.targets.iter().find_map(|target| target.strip_prefix(&prefix)).unwrap().to_owned()
    };
    let kinds = [
        ("tcp", "tcp", ""),
        ("tcp-banner", "tcp", ""),
        ("tcp-echo", "tcp", ""),
        ("tcp-long", "tcp", ""),
        ("tls", "tls", ""),
        ("http", "http", "/bytes/100"),
        ("http-keepalive", "http", ""),
        ("h2", "http", ""),
        ("h2-keepalive", "http", ""),
        ("udp", "udp", ""),
        ("udp-fixed", "udp", ""),
        ("dns", "dns", "/www.example.com"),
        ("dns-fixed", "dns", "/www.example.com?type=AAAA"),
        ("dns-tcp", "dns", "/www.example.com?type=TXT"),
    ];
    let targets: Vec<String> =
        kinds.iter().map(|(kind, scheme, path)| format!("{kind}={kind}://{}{path}", address(scheme))).collect();
    let output = evenkeel(&["--duration", "200ms", "--max-lag", "1m", "--timeout", "20s", "--insecure", "-o", "json"])
        .args(["--expect-server", "alpha", "--rate", "50"])
        .args(&targets)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stdout));
    let report = json(&output);
    for (lane, (kind, scheme, _)) in report["lanes"].as_array().unwrap().iter().zip(kinds) {
        assert_eq!((&lane["kind"], &lane["requests"]), (&kind.into(), &10.into()));
        let codes = match scheme {
            "http" => serde_json::json!({"200": 10}),
            "dns" => serde_json::json!({"NOERROR": 10}),
            _ => serde_json::json!({}),
        };
        assert_eq!(lane["codes"], codes, "{kind}");
    }

    let http = format!("http://{}", address("http"));
    let other =
        evenkeel(&[&http, "--duration", "200ms", "--max-lag", "1m", "--expect-server", "beta"]).output().unwrap();
    assert!(text(&other.stdout).contains("misroute:20"), "{other:?}");
}

#[test]
fn usage_errors_teach_and_are_invalid_runs() {
    for (arguments, says) in [
        (&["tcp://example.com"][..], "host and port"),
        (&[], "required"),
        (&["serve"], "required"),
        (&["tcp://127.0.0.1:9", "--duration", "0s"], "more than zero"),
        (&["tcp://127.0.0.1:9", "--slo", "p99>=20ms"], "write p99<=VALUE"),
        (&["tcp://127.0.0.1:9", "--slo", "p42<=20ms"], "there are failed, success"),
        (&["tcp://127.0.0.1:9", "--slo", "web:failed=0"], "no lane is called web; there are tcp://127.0.0.1:9"),
        (&["tcp://127.0.0.1:9", "tcp://127.0.0.1:9"], "NAME=TARGET"),
        (&["tcp://127.0.0.1:9", "--report", "pdf=x"], "there are text, json"),
        (&["tcp://127.0.0.1:9", "--report", "html=/no/such/directory/x"], "cannot write --report html="),
        (&["tcp://127.0.0.1:9", "--events", "/no/such/file"], "cannot read --events"),
        (&["tcp://127.0.0.1:9", "--tail", "1s"], "--exec"),
        (&["tcp://127.0.0.1:9", "--rate", "fast"], "or `max`"),
        (&["compare", "/no/such/a", "/no/such/b"], "/no/such/a"),
    ] {
        let output = evenkeel(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(text(&output.stderr).contains(says), "{arguments:?}: {}", text(&output.stderr));
    }
}

#[test]
fn objectives_of_lanes_and_kinds_are_judged_apart() {
    let server = Server::start();
    let run = |slo: &str| server.run(&["odd=tcp://224.0.0.1:9", "--duration", "200ms", "-o", "json", "--slo", slo]);

    let held = run("http:failed=0,udp:max<=1m,failed<=20,odd:unreachable_net=20,success>=0%");
    assert_eq!(held.status.code(), Some(0), "{}", text(&held.stdout));

    let breached = run("http:failed=0,odd:success>=50%,odd:p99<=1s");
    assert_eq!(breached.status.code(), Some(1), "{}", text(&breached.stdout));
    let report = json(&breached);
    let held: Vec<_> = report["objectives"].as_array().unwrap().iter().map(|result| result["held"] == true).collect();
    assert_eq!(held, [true, false, false]);
    assert_eq!(report["objectives"][2]["note"], "no request of odd succeeded");
}

#[test]
fn one_run_writes_every_format() {
    let server = Server::start();
    let directory = tempfile::tempdir().unwrap();
    let path = |format: &str| directory.path().join(format);
    let formats = ["text", "json", "ndjson", "hdr", "junit", "prometheus", "html"];
    let reports: Vec<String> = formats
        .iter()
        .flat_map(|format| ["--report".to_owned(), format!("{format}={}", path(format).display())])
        .collect();
    let mut command = server.probe(&["--duration", "300ms", "-o", "ndjson"]);
    let output = command.args(&reports).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let read = |format: &str| fs::read_to_string(path(format)).unwrap();

    let report: serde_json::Value = serde_json::from_str(&read("json")).unwrap();
    assert_eq!(report["requests"], 90);
    assert_eq!(text(&output.stdout), read("ndjson"));
    let results: Vec<serde_json::Value> =
        read("ndjson").lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(results.len(), 90);
    for result in &results {
        let lane = result["lane"].as_str().unwrap();
        assert!(result["ok"] == true && server.targets.iter().any(|target| lane.starts_with(target)), "{result}");
    }
    assert!(read("hdr").starts_with("#[Histogram log format version 1.3]\n"));
    assert!(read("hdr").contains(&format!("Tag={}", server.targets[0])));
    assert!(read("junit").contains("<testsuites name=\"evenkeel probe\" tests=\"2\" failures=\"0\""));
    assert!(read("prometheus").contains("evenkeel_probe_verdict{verdict=\"passed\"} 1\n"));
    assert!(read("html").starts_with("<!DOCTYPE html>") && read("html").ends_with("</html>\n"));
    assert!(read("text").starts_with("Requests "));
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), formats.len(), "nothing else is left");
}

/// Waits until something is so; the run under test goes on for an hour.
fn eventually(mut so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !so() {
        assert!(start.elapsed() < Duration::from_secs(60));
        std::thread::yield_now();
    }
}

#[test]
fn results_can_be_followed_and_an_interrupted_run_still_reports() {
    let server = Server::start();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("results");
    let mut child = server
        .probe(&["--duration", "1h", "-o", "json", "--rate", "1000", "--report", &format!("ndjson={}", path.display())])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // The first progress line: the run is on its way.
    let mut line = String::new();
    BufReader::new(child.stderr.as_mut().unwrap()).read_line(&mut line).unwrap();
    assert!(line.contains(" s  tcp://") && line.contains("failed 0"), "{line}");
    eventually(|| fs::metadata(&path).is_ok_and(|metadata| metadata.len() > 0));
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let requests = json(&output)["requests"].as_u64().unwrap();
    let dropped = json(&output)["results_dropped"].as_u64().unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap().lines().count() as u64 + dropped, requests);
}

#[test]
fn a_commands_run_is_probed_and_its_exit_counts() {
    let server = Server::start();
    let run = |command: &str| server.run(&["--exec", command, "--tail", "100ms", "-o", "json"]);

    let succeeded = run("echo to stdout; echo to stderr >&2; sleep 0.2");
    assert_eq!(succeeded.status.code(), Some(0), "{succeeded:?}");
    let report = json(&succeeded);
    let command = &report["command"];
    assert_eq!(command["end"], serde_json::json!({"how": "exited", "status": 0}));
    let (from, to) = (command["started_ms"].as_f64().unwrap(), command["ended_ms"].as_f64().unwrap());
    assert!(to - from >= 200.0 && report["duration_ms"].as_f64().unwrap() >= to + 100.0, "{command}");
    let stderr = text(&succeeded.stderr);
    assert!(stderr.contains("to stdout\n") && stderr.contains("to stderr\n"), "{stderr}");
    let events: Vec<_> =
        report["events"].as_array().unwrap().iter().map(|event| event["text"].as_str().unwrap()).collect();
    assert!(events == ["command started", "command exited with 0"], "{events:?}");

    let failed = run("exit 3");
    assert_eq!(failed.status.code(), Some(1), "{failed:?}");
    assert_eq!(json(&failed)["command"]["end"], serde_json::json!({"how": "exited", "status": 3}));

    let killed = server.run(&["--exec", "kill -KILL $$", "--tail", "1ms", "-o", "text"]);
    assert!(text(&killed.stdout).ends_with("BREACHED: the command was ended by signal 9\n"), "{killed:?}");
}

#[test]
fn a_command_does_not_outlast_the_run() {
    let server = Server::start();
    let directory = tempfile::tempdir().unwrap();
    let pid = directory.path().join("pid");
    // A grandchild, which only a signal to the whole group reaches.
    let command = format!("sleep 1000 & echo $! > {}; wait", pid.display());
    let output = server.run(&["--exec", &command, "--duration", "500ms", "-o", "json"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert_eq!(json(&output)["command"]["end"]["how"], "out_of_time");
    let pid = fs::read_to_string(pid).unwrap();
    let stat = format!("/proc/{}/stat", pid.trim());
    // Gone, or a zombie that nobody has waited for yet.
    eventually(|| fs::read_to_string(&stat).map_or(true, |stat| stat.contains(") Z ")));
}

#[test]
fn an_interrupted_run_interrupts_its_command() {
    let server = Server::start();
    let mut child = server
        .probe(&["--exec", "echo started; exec sleep 1000", "-o", "json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stderr.as_mut().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "started\n");
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let report = json(&output);
    assert_eq!((&report["command"]["end"]["how"], &report["failed"]), (&"interrupted".into(), &0.into()));
}

fn now_ms() -> u128 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis()
}

#[test]
fn events_are_laid_over_the_run_and_blamed() {
    let server = Server::start();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("events");
    writeln!(fs::File::create(&path).unwrap(), "{{\"ts\":{},\"msg\":\"before\"}}\nno event", now_ms() - 60_000)
        .unwrap();
    let append = format!("printf '{{\"ts\":%s,\"msg\":\"rollout\"}}\\n' $(date +%s%3N) >> {}", path.display());
    let path = path.to_str().unwrap();
    let output =
        server.run(&["odd=tcp://224.0.0.1:9", "--events", path, "--exec", &append, "--tail", "300ms", "-o", "json"]);
    let report = json(&output);
    let events = report["events"].as_array().unwrap();
    let at = |text: &str| events.iter().find(|event| event["text"] == text).unwrap()["at_ms"].as_f64().unwrap();
    assert!(at("before") < -59_000.0 && at("rollout") >= 0.0, "{events:?}");
    assert_eq!(report["events_refused"], serde_json::json!({"not_an_object": 1}));
    let odd = report["lanes"].as_array().unwrap().iter().find(|lane| lane["lane"] == "odd").unwrap();
    let blame = &odd["windows"][0]["blame"];
    assert!(blame["before_ms"].is_number() && blame["event"].is_number(), "{odd}");
}

#[test]
fn events_may_come_through_stdin() {
    let server = Server::start();
    let mut child = server
        .probe(&["--events", "-", "--duration", "300ms", "-o", "json"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    writeln!(child.stdin.as_mut().unwrap(), "{{\"time\":{},\"event\":\"piped\"}}", now_ms()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(json(&output)["events"][0]["text"], "piped", "{output:?}");
}

#[test]
fn reports_are_compared() {
    let server = Server::start();
    let directory = tempfile::tempdir().unwrap();
    let report = |name: &str, target: &str| {
        let path = directory.path().join(name);
        let output = evenkeel(&[&format!("lane={target}"), "--duration", "300ms", "--max-lag", "1m", "-o", "json"])
            .output()
            .unwrap();
        fs::write(&path, output.stdout).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (good, bad) = (report("good", &server.targets[0]), report("bad", UNREACHABLE));
    let compare = |a: &str, b: &str| evenkeel(&["compare", a, b]).output().unwrap();

    let worse = compare(&good, &bad);
    assert_eq!(worse.status.code(), Some(1), "{worse:?}");
    assert!(text(&worse.stdout).ends_with("B IS WORSE\n"), "{}", text(&worse.stdout));
    assert_eq!(compare(&bad, &good).status.code(), Some(0));
    assert_eq!(compare(&good, &good).status.code(), Some(0));
    let as_json = evenkeel(&["compare", &good, &bad, "-o", "json"]).output().unwrap();
    assert_eq!(json(&as_json)["worse"], "b");

    fs::write(Path::new(&bad), "{\"version\":99}").unwrap();
    let unknown = compare(&good, &bad);
    assert_eq!(unknown.status.code(), Some(2));
    assert!(text(&unknown.stderr).contains("version 99"), "{unknown:?}");
}

#[test]
fn a_terminated_server_exits_with_success() {
    let mut server = Server::start();
    kill_process(Pid::from_child(&server.child), Signal::TERM).unwrap();
    assert_eq!(server.child.wait().unwrap().code(), Some(0));
    let mut rest = String::new();
    server.child.stdout.take().unwrap().read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "");
}
