//! `evenkeel probe` and `evenkeel probe serve` as scripts use them: output, exit status and signals.
#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

use std::{
    io::{BufRead, BufReader, Read},
    process::{Child, Command, Output, Stdio},
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
        let any = "127.0.0.1:0";
        let mut child = evenkeel(&["serve", "--tcp", any, "--http", any, "--udp", any, "--name", "alpha"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut ready = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut ready).unwrap();
        assert_eq!(ready, "ready\n");
        let lines = BufReader::new(child.stderr.as_mut().unwrap()).lines().take(3);
        let targets = lines.map(|line| line.unwrap().strip_prefix("serving ").unwrap().to_owned()).collect();
        Self { child, targets }
    }

    fn probe(&self, arguments: &[&str]) -> Command {
        let mut command = evenkeel(arguments);
        // Whether the machine is busy is not what is tested here.
        command.args(&self.targets).args(["--max-lag", "1m", "--timeout", "20s"]);
        command
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Has ended already where the test passed.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn json(output: &Output) -> serde_json::Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

#[test]
fn exit_status_tells_passed_failed_and_invalid() {
    let server = Server::start();
    let run = |arguments: &[&str]| server.probe(arguments).output().unwrap();

    let passed = run(&["--duration", "200ms", "-o", "json"]);
    assert_eq!(passed.status.code(), Some(0), "{passed:?}");
    let report = json(&passed);
    assert_eq!((&report["requests"], &report["failed"]), (&60.into(), &0.into()));
    assert_eq!(report["lanes"][1]["servers"]["alpha"], 20);

    let failed = run(&["tcp://224.0.0.1:9", "--duration", "200ms"]);
    assert_eq!(failed.status.code(), Some(1), "{failed:?}");
    let text = String::from_utf8(failed.stdout).unwrap();
    assert!(text.contains("unreachable 20") && text.ends_with("FAILED: 20 of 80 requests\n"), "{text}");

    let invalid = evenkeel(&[&server.targets[0], "--duration", "200ms", "--max-lag", "1ns"]).output().unwrap();
    assert_eq!(invalid.status.code(), Some(2), "{invalid:?}");
    assert!(String::from_utf8(invalid.stdout).unwrap().contains("INVALID: lag: "));

    for usage in [&["tcp://example.com:80"][..], &[], &["serve"], &["tcp://127.0.0.1:9", "--duration", "0s"]] {
        assert_eq!(evenkeel(usage).output().unwrap().status.code(), Some(2), "{usage:?}");
    }
}

#[test]
fn an_interrupted_run_still_reports() {
    let server = Server::start();
    let mut child = server
        .probe(&["--duration", "1h", "-o", "json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // The first progress line: the run is on its way.
    let mut line = String::new();
    BufReader::new(child.stderr.as_mut().unwrap()).read_line(&mut line).unwrap();
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(json(&output)["requests"].as_u64().unwrap() >= 3);
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
