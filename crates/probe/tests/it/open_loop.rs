//! Requests start when they are due, latency counts from then, and the prober judges itself.

use std::{net::UdpSocket, num::NonZeroU32, thread, time::Duration};

use evenkeel_probe::{InvalidReason, Prober, Verdict};
use tokio_util::sync::CancellationToken;

use crate::common;

#[tokio::test]
async fn a_stall_shows_in_every_request_due_during_it() {
    const STALL: Duration = Duration::from_millis(300);
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    thread::spawn(move || {
        let mut buffer = [0; 2048];
        for request in 0.. {
            let Ok((length, client)) = socket.recv_from(&mut buffer) else { return };
            if request == 40 {
                thread::sleep(STALL);
            }
            socket.send_to(&buffer[..length], client).unwrap();
        }
    });
    for scheme in ["udp", "udp-fixed"] {
        let report = common::run(common::config(&format!("{scheme}://{address}"), 1000)).await;
        let lane = &report.lanes[0];
        assert_eq!((lane.requests, lane.failed), (200, 0), "none was held back: {:?}", lane.causes);
        if scheme == "udp" {
            let latency = lane.latency_ms.unwrap();
            assert!(latency.max >= 300.0, "{latency}");
            // 60 of the 200 were due during the stall, 40 of them at least 100 ms before its end. A prober that waits
            // for each answer would have seen one slow request.
            assert!(latency.p90 >= 100.0, "{latency}");
            assert!(lane.longest_gap_ms >= 290.0, "{}", lane.longest_gap_ms);
        }
    }
}

#[tokio::test]
async fn requests_start_while_earlier_ones_wait() {
    // Answers nobody until ten have asked: a prober that waits for an answer before the next request never gets one.
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    thread::spawn(move || {
        let mut waiting = Vec::new();
        let mut buffer = [0; 2048];
        while let Ok((length, client)) = socket.recv_from(&mut buffer) {
            waiting.push((buffer[..length].to_vec(), client));
            if waiting.len() == 10 {
                for (datagram, client) in waiting.drain(..) {
                    socket.send_to(&datagram, client).unwrap();
                }
            }
        }
    });
    for scheme in ["udp", "udp-fixed"] {
        let mut config = common::config(&format!("{scheme}://{address}"), 50);
        config.timeout = Duration::from_secs(5);
        let report = common::run(config).await;
        assert_eq!((report.requests, report.failed), (10, 0), "{report}");
    }
}

#[tokio::test]
async fn a_prober_asked_for_more_than_it_can_says_so() {
    let target = common::bind("127.0.0.1", Duration::from_secs(10));
    tokio::spawn(target.server.run(CancellationToken::new()));
    for scheme in [format!("tcp://{}", target.tcp), format!("udp-fixed://{}", target.udp)] {
        let mut config = common::config(&scheme, 400);
        config.lanes[0].rate = NonZeroU32::new(20_000_000).unwrap().into();
        config.timeout = Duration::from_millis(200);
        config.max_lag = Duration::from_millis(20);
        let report = common::run(config).await;
        assert_eq!(report.verdict(), Verdict::Invalid);
        assert!(report.invalid_reasons.contains(&InvalidReason::Lag), "{:?}", report.invalid_reasons);
    }
}

#[tokio::test]
async fn a_stopped_run_reports_what_it_sent() {
    let target = common::bind("127.0.0.1", Duration::from_secs(10));
    tokio::spawn(target.server.run(CancellationToken::new()));
    let mut config = common::config(&format!("http://{}", target.http), 1000);
    config.duration = Duration::from_secs(3600);
    let prober = Prober::new(config).unwrap();
    let (progress, stop) = (prober.progress(), CancellationToken::new());
    let run = tokio::spawn(prober.run(stop.clone()));
    while progress.lanes()[0].succeeded < 20 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    stop.cancel();
    let report = run.await.unwrap();
    let lane = &report.lanes[0];
    assert!(lane.requests >= 20);
    assert_eq!((lane.failed, lane.servers["alpha"]), (0, lane.requests));
    assert_eq!(progress.in_flight(), 0);
    assert_eq!(progress.lanes()[0].sent, lane.requests);
    assert!(progress.lanes()[0].recent_p99.is_some());
}

#[tokio::test]
async fn a_run_without_requests_is_invalid() {
    let stop = CancellationToken::new();
    stop.cancel();
    let report = Prober::new(common::config("tcp://127.0.0.1:9", 1000)).unwrap().run(stop).await;
    assert_eq!(report.invalid_reasons, [InvalidReason::NoRequests]);
    assert_eq!(report.lanes[0].failure_bound_95, None);
}
