//! The target server: what it answers, and that a stop loses nothing.

use std::{collections::BTreeMap, net::SocketAddr, num::NonZeroU32, time::Duration};

use evenkeel_probe::{Cause, Config, Lane, Prober, TlsVerify, Verdict};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_util::sync::CancellationToken;

use crate::common;

const GRACE: Duration = Duration::from_secs(20);

#[tokio::test]
async fn every_lane_passes_and_names_the_server() {
    for loopback in ["127.0.0.1", "[::1]"] {
        let target = common::bind(loopback, GRACE);
        tokio::spawn(target.server.run(CancellationToken::new()));
        let targets = [
            format!("tcp://{}", target.tcp),
            format!("tcp-banner://{}", target.tcp),
            format!("tcp-echo://{}", target.tcp),
            format!("http://{}/bytes/200000", target.http),
            format!("http-keepalive://{}/bytes/3", target.http),
            format!("udp://{}", target.udp),
            format!("udp-fixed://{}", target.udp),
            format!("tcp-long://{}", target.tcp),
            format!("tls://{}", target.tls),
            format!("h2://{}/bytes/200000", target.http),
            format!("h2-keepalive://{}/bytes/3", target.http),
            format!("dns://{}/www.example.com", target.dns),
            format!("dns-fixed://{}/www.example.com?type=AAAA", target.dns),
            format!("dns-tcp://{}/www.example.com?type=TXT", target.dns),
        ];
        let mut config = common::config(&targets[0], 200);
        config.lanes = targets
            .iter()
            .map(|target| Lane::new(&target.parse().unwrap(), NonZeroU32::new(50).unwrap()).unwrap())
            .collect();
        for lane in &mut config.lanes {
            lane.options.tls = TlsVerify::Off;
        }
        let report = common::run(config).await;
        assert_eq!((report.requests, report.failed, report.verdict()), (140, 0, Verdict::Passed), "{report}");
        for (lane, target) in report.lanes.iter().zip(targets) {
            assert_eq!(lane.lane, target);
            let named = if target.starts_with("tcp://") || target.starts_with("tls://") {
                BTreeMap::new()
            } else {
                [("alpha".to_owned(), 10)].into()
            };
            assert_eq!(lane.servers, named);
            assert_eq!(lane.failure_bound_95, Some(0.3));
        }
    }
}

/// Under load, a stopped server refuses connections, but answers every one it has let in.
async fn assert_stop_loses_nothing(target: impl Fn(SocketAddr, SocketAddr) -> String) {
    let served = common::bind("127.0.0.1", GRACE);
    let stop = CancellationToken::new();
    let lane = Lane::new(&target(served.tcp, served.http).parse().unwrap(), NonZeroU32::new(500).unwrap()).unwrap();
    let mut config = Config::new(vec![lane], Duration::from_secs(3600));
    config.timeout = GRACE;
    let prober = Prober::new(config).unwrap();
    let (progress, end) = (prober.progress(), CancellationToken::new());
    let run = tokio::spawn(prober.run(end.clone()));
    let server = tokio::spawn(served.server.run(stop.clone()));
    let wait_for = async |condition: fn(u64, u64) -> bool| {
        loop {
            let lane = progress.lanes().remove(0);
            if condition(lane.succeeded, lane.failed) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    wait_for(|succeeded, _| succeeded >= 100).await;
    stop.cancel();
    wait_for(|_, failed| failed >= 100).await;
    let summary = server.await.unwrap();
    end.cancel();
    let report = run.await.unwrap();
    assert_eq!(report.lanes[0].causes.keys().copied().collect::<Vec<_>>(), [Cause::Refused], "{report}");
    assert_eq!(summary.cut, 0);
}

#[tokio::test]
async fn a_stop_under_http_load_loses_nothing() {
    assert_stop_loses_nothing(|_, http| format!("http://{http}/delay/50")).await;
}

#[tokio::test]
async fn a_stop_under_keepalive_load_loses_nothing() {
    assert_stop_loses_nothing(|_, http| format!("http-keepalive://{http}/delay/50")).await;
}

#[tokio::test]
async fn a_stop_under_http2_load_loses_nothing() {
    assert_stop_loses_nothing(|_, http| format!("h2://{http}/delay/50")).await;
}

#[tokio::test]
async fn a_stop_under_kept_http2_load_loses_nothing() {
    assert_stop_loses_nothing(|_, http| format!("h2-keepalive://{http}/delay/50")).await;
}

#[tokio::test]
async fn a_server_that_does_not_empty_its_accept_queue_resets_it() {
    let mut config = evenkeel_probe::ServeConfig::new("alpha".parse().unwrap());
    config.tcp = vec!["127.0.0.1:0".parse().unwrap()];
    (config.drain, config.grace) = (false, Duration::from_millis(100));
    let server = evenkeel_probe::Server::bind(config).unwrap();
    let address = server.tcp_addresses().unwrap()[0];
    let mut queued = TcpStream::connect(address).await.unwrap();
    let stop = CancellationToken::new();
    stop.cancel();
    server.run(stop).await;
    // It may have been accepted before the stop was noticed; then it is served.
    let mut answer = Vec::new();
    match queued.read_to_end(&mut answer).await {
        Ok(_) => assert_eq!(answer, b"alpha\n"),
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
    }
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn a_stop_under_tcp_load_loses_nothing() {
    assert_stop_loses_nothing(|tcp, _| format!("tcp-echo://{tcp}")).await;
}

#[tokio::test]
async fn the_accept_queue_is_emptied_before_the_listener_closes() {
    let served = common::bind("127.0.0.1", GRACE);
    // All complete their handshake before the server runs at all, and it is told to stop at once.
    let mut clients = Vec::new();
    for _ in 0..200 {
        clients.push(TcpStream::connect(served.http).await.unwrap());
    }
    let stop = CancellationToken::new();
    stop.cancel();
    let server = tokio::spawn(served.server.run(stop));
    for client in &mut clients {
        client.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    }
    for mut client in clients {
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\nalpha\n"), "{answer}");
        assert!(answer.contains("connection: close\r\n"), "{answer}");
    }
    assert_eq!(server.await.unwrap().cut, 0);
}

#[tokio::test]
async fn a_request_on_a_kept_connection_is_answered_after_the_stop() {
    let served = common::bind("127.0.0.1", GRACE);
    let stop = CancellationToken::new();
    let server = tokio::spawn(served.server.run(stop.clone()));
    let mut client = TcpStream::connect(served.http).await.unwrap();
    client.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\nalpha\n") {
        assert!(client.read_buf(&mut answer).await.unwrap() > 0, "closed early");
    }
    stop.cancel();
    while TcpStream::connect(served.http).await.is_ok() {}
    client.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut last = String::new();
    client.read_to_string(&mut last).await.unwrap();
    assert!(last.contains("connection: close\r\n") && last.ends_with("\r\n\r\nalpha\n"), "{last}");
    assert_eq!(server.await.unwrap().cut, 0);
}

#[tokio::test]
async fn an_idle_kept_connection_does_not_use_up_the_grace_time() {
    let served = common::bind("127.0.0.1", Duration::from_secs(3600));
    let stop = CancellationToken::new();
    let server = tokio::spawn(served.server.run(stop.clone()));
    let mut client = TcpStream::connect(served.http).await.unwrap();
    client.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut start = [0; 15];
    client.read_exact(&mut start).await.unwrap();
    assert_eq!(&start, b"HTTP/1.1 200 OK");
    stop.cancel();
    assert_eq!(server.await.unwrap().cut, 0);
    let mut rest = Vec::new();
    client.read_to_end(&mut rest).await.unwrap();
}

#[tokio::test]
async fn a_connection_in_use_is_cut_when_the_grace_time_is_over() {
    let served = common::bind("127.0.0.1", Duration::from_millis(100));
    let stop = CancellationToken::new();
    let server = tokio::spawn(served.server.run(stop.clone()));
    let mut client = TcpStream::connect(served.tcp).await.unwrap();
    let mut banner = [0; 6];
    client.read_exact(&mut banner).await.unwrap();
    assert_eq!(&banner, b"alpha\n");
    stop.cancel();
    client.write_all(b"still here\n").await.unwrap();
    let mut echo = String::new();
    client.read_to_string(&mut echo).await.unwrap();
    assert_eq!(echo, "still here\n");
    assert_eq!(server.await.unwrap().cut, 1);
}

#[tokio::test]
async fn http_reports_the_client_it_saw() {
    let served = common::bind("[::1]", GRACE);
    tokio::spawn(served.server.run(CancellationToken::new()));
    let mut client = TcpStream::connect(served.http).await.unwrap();
    client.write_all(b"GET /x HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    let address = client.local_addr().unwrap();
    assert!(answer.contains(&format!("x-evenkeel-client: {address}\r\n")), "{answer}");
    assert!(answer.contains("x-evenkeel-server: alpha\r\n"), "{answer}");
}

#[tokio::test]
async fn only_get_is_allowed() {
    let served = common::bind("127.0.0.1", GRACE);
    tokio::spawn(served.server.run(CancellationToken::new()));
    let mut client = TcpStream::connect(served.http).await.unwrap();
    client.write_all(b"DELETE /bytes/5 HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 405 "), "{answer}");
}

#[tokio::test]
async fn an_address_in_use_is_named() {
    let served = common::bind("127.0.0.1", GRACE);
    let config = evenkeel_probe::ServeConfig {
        tcp: vec![served.http],
        ..evenkeel_probe::ServeConfig::new("beta".parse().unwrap())
    };
    let error = evenkeel_probe::Server::bind(config).unwrap_err().to_string();
    assert!(error.contains(&format!("tcp {}", served.http)), "{error}");
}
