//! Every way a server can fail a request is told apart, against servers that fail on purpose.

use std::{collections::BTreeMap, future::Future, net::SocketAddr, time::Duration};

use evenkeel_probe::{Cause, Close, InvalidReason, LaneReport, Verdict};
use socket2::{Domain, Socket, Type};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream, UdpSocket},
};

use crate::common;

const SHORT: Duration = Duration::from_millis(200);

async fn probe(target: String, timeout: Duration) -> LaneReport {
    let mut config = common::config(&target, 50);
    config.timeout = timeout;
    common::run(config).await.lanes.remove(0)
}

/// All ten requests fail with `cause`.
async fn assert_all_fail(target: String, timeout: Duration, cause: Cause) {
    let lane = probe(target.clone(), timeout).await;
    assert_eq!(lane.causes, BTreeMap::from([(cause, 10)]), "{target}");
    assert_eq!((lane.requests, lane.failed), (10, 10));
    assert_eq!(
        lane.windows.iter().map(|window| (window.cause, window.failed)).collect::<Vec<_>>(),
        [(Some(cause), 10)]
    );
    assert_eq!(lane.latency_ms, None);
}

const LONG: Duration = Duration::from_secs(20);

/// Handles every connection with `handle`, for as long as the test runs.
async fn tcp_server<H, F>(handle: H) -> SocketAddr
where
    H: Fn(TcpStream) -> F + Send + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(handle(stream));
        }
    });
    address
}

/// Answers every datagram with what `reply` makes of it.
async fn udp_server(reply: fn(&str) -> Option<String>) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 2048];
        while let Ok((length, client)) = socket.recv_from(&mut buffer).await {
            if let Some(reply) = reply(std::str::from_utf8(&buffer[..length]).unwrap()) {
                socket.send_to(reply.as_bytes(), client).await.unwrap();
            }
        }
    });
    address
}

/// The head of a request; nothing else is sent by the prober.
async fn read_request(stream: &mut TcpStream) {
    let mut lines = BufReader::new(stream).lines();
    while lines.next_line().await.unwrap().is_some_and(|line| !line.is_empty()) {}
}

fn reset(stream: TcpStream) {
    stream.set_zero_linger().unwrap();
    drop(stream);
}

#[tokio::test]
async fn refused() {
    // Bound but not listening: nobody else can take the port.
    let held = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    held.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
    let address = held.local_addr().unwrap().as_socket().unwrap();
    for scheme in ["tcp", "tcp-banner", "http", "http-keepalive"] {
        assert_all_fail(format!("{scheme}://{address}"), LONG, Cause::Refused).await;
    }
}

#[tokio::test]
async fn datagrams_refused() {
    // Connected to itself: for anybody else the port is closed.
    let held = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = held.local_addr().unwrap();
    held.connect(address).await.unwrap();
    for scheme in ["udp", "udp-fixed"] {
        assert_all_fail(format!("{scheme}://{address}"), LONG, Cause::UnreachablePort).await;
    }
}

#[tokio::test]
async fn reset_when_established() {
    let address = tcp_server(async |mut stream| {
        read_request(&mut stream).await;
        reset(stream);
    })
    .await;
    for scheme in ["http", "http-keepalive"] {
        assert_all_fail(format!("{scheme}://{address}"), LONG, Cause::Reset).await;
    }

    let address = tcp_server(async |mut stream| {
        stream.write_all(b"alpha\n").await.unwrap();
        BufReader::new(&mut stream).lines().next_line().await.unwrap();
        reset(stream);
    })
    .await;
    assert_all_fail(format!("tcp-echo://{address}"), LONG, Cause::Reset).await;
}

#[tokio::test]
async fn reset_in_the_body() {
    let address = tcp_server(async |mut stream| {
        read_request(&mut stream).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nfive!").await.unwrap();
        reset(stream);
    })
    .await;
    for scheme in ["http", "http-keepalive"] {
        assert_all_fail(format!("{scheme}://{address}"), LONG, Cause::Reset).await;
    }
}

#[tokio::test]
async fn early_eof() {
    let silent = tcp_server(async |mut stream| read_request(&mut stream).await).await;
    let cut = tcp_server(async |mut stream| {
        read_request(&mut stream).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nfive!").await.unwrap();
    })
    .await;
    for (address, cause) in [(silent, Cause::EarlyEof), (cut, Cause::TruncatedBody)] {
        for scheme in ["http", "http-keepalive"] {
            assert_all_fail(format!("{scheme}://{address}"), LONG, cause).await;
        }
    }
    let half_a_line = tcp_server(async |mut stream| stream.write_all(b"alp").await.unwrap()).await;
    assert_all_fail(format!("tcp-banner://{half_a_line}"), LONG, Cause::EarlyEof).await;
}

#[tokio::test]
async fn connect_timeout() {
    // A full accept queue makes the kernel drop further handshakes.
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    listener.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
    listener.listen(0).unwrap();
    let address = listener.local_addr().unwrap().as_socket().unwrap();
    let _filler = TcpStream::connect(address).await.unwrap();
    for scheme in ["tcp", "http"] {
        assert_all_fail(format!("{scheme}://{address}"), SHORT, Cause::ConnectTimeout).await;
    }
}

#[tokio::test]
async fn read_stall() {
    let address = tcp_server(async |stream| {
        std::future::pending::<()>().await;
        drop(stream);
    })
    .await;
    for scheme in ["tcp-banner", "http", "http-keepalive"] {
        assert_all_fail(format!("{scheme}://{address}"), SHORT, Cause::ReadStall).await;
    }
}

#[tokio::test]
async fn unreachable() {
    // The kernel has no TCP route to a multicast address, whatever the routing table.
    assert_all_fail("tcp://224.0.0.1:9".to_owned(), LONG, Cause::UnreachableNet).await;
}

#[tokio::test]
async fn http_status() {
    let address = tcp_server(async |mut stream| {
        read_request(&mut stream).await;
        stream.write_all(b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n").await.unwrap();
    })
    .await;
    for scheme in ["http", "http-keepalive"] {
        assert_all_fail(format!("{scheme}://{address}"), LONG, Cause::HttpStatus).await;
    }
}

#[tokio::test]
async fn redirects_are_answers() {
    let address = tcp_server(async |mut stream| {
        read_request(&mut stream).await;
        stream.write_all(b"HTTP/1.1 302 Found\r\ncontent-length: 0\r\n\r\n").await.unwrap();
    })
    .await;
    assert_eq!(probe(format!("http://{address}"), LONG).await.failed, 0);
}

#[tokio::test]
async fn wrong_body() {
    let not_http = tcp_server(async |mut stream| {
        read_request(&mut stream).await;
        stream.write_all(b"220 mail.example ESMTP\r\n").await.unwrap();
    })
    .await;
    assert_all_fail(format!("http://{not_http}"), LONG, Cause::WrongBody).await;

    let other_bytes = tcp_server(async |mut stream| {
        read_request(&mut stream).await;
        let answer = b"HTTP/1.1 200 OK\r\nx-evenkeel-server: alpha\r\ncontent-length: 5\r\n\r\nfive!";
        stream.write_all(answer).await.unwrap();
    })
    .await;
    for scheme in ["http", "http-keepalive"] {
        assert_all_fail(format!("{scheme}://{other_bytes}/bytes/5"), LONG, Cause::WrongBody).await;
    }

    let other_line = tcp_server(async |mut stream| stream.write_all(b"alpha\nwhat?\n").await.unwrap()).await;
    let lane = probe(format!("tcp-echo://{other_line}"), LONG).await;
    // The server does not read, so its close may become a reset before the second line is read.
    assert_eq!(lane.failed, 10);
    assert!(lane.causes.keys().all(|cause| matches!(cause, Cause::WrongBody | Cause::Reset)), "{:?}", lane.causes);
}

#[tokio::test]
async fn udp_timeout() {
    let address = udp_server(|_| None).await;
    for scheme in ["udp", "udp-fixed"] {
        assert_all_fail(format!("{scheme}://{address}"), SHORT, Cause::NoReply).await;
    }
}

#[tokio::test]
async fn udp_wrong_reply() {
    let garbage = udp_server(|_| Some("garbage".to_owned())).await;
    let other_run = udp_server(|request| {
        let sequence = request.rsplit(' ').next().unwrap();
        Some(format!("alpha evenkeel 0 {sequence}"))
    })
    .await;
    for address in [garbage, other_run] {
        for scheme in ["udp", "udp-fixed"] {
            assert_all_fail(format!("{scheme}://{address}"), LONG, Cause::WrongReply).await;
        }
    }
    // On a port used once, no other sequence number can be right.
    let other_sequence = udp_server(|request| Some(format!("{request}0"))).await;
    let lane = probe(format!("udp://{other_sequence}"), LONG).await;
    // Sequence number 0 comes back as 00, which is the same number.
    assert_eq!((lane.causes, lane.requests), (BTreeMap::from([(Cause::WrongReply, 9)]), 10));
}

#[tokio::test]
async fn duplicate_datagrams_are_not_failures() {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 2048];
        while let Ok((length, client)) = socket.recv_from(&mut buffer).await {
            for _ in 0..3 {
                socket.send_to(&buffer[..length], client).await.unwrap();
            }
        }
    });
    let lane = probe(format!("udp-fixed://{address}"), LONG).await;
    assert_eq!((lane.requests, lane.failed), (10, 0), "{:?}", lane.causes);
}

#[tokio::test]
async fn the_probers_own_failures_make_the_run_invalid() {
    let address = udp_server(|_| None).await;
    let mut config = common::config(&format!("udp://{address}"), 50);
    config.timeout = SHORT;
    config.max_in_flight = 4;
    let report = common::run(config).await;
    assert_eq!(report.lanes[0].causes, BTreeMap::from([(Cause::NoReply, 4), (Cause::LocalError, 6)]));
    assert_eq!((report.verdict(), report.invalid_reasons), (Verdict::Invalid, vec![InvalidReason::LocalError]));
}

#[tokio::test]
async fn a_closed_kept_connection_is_replaced() {
    // Claims to keep the connection, but does not.
    let address = tcp_server(async |mut stream| {
        read_request(&mut stream).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
    })
    .await;
    let lane = probe(format!("http-keepalive://{address}"), LONG).await;
    assert_eq!((lane.requests, lane.failed), (10, 0), "{:?}", lane.causes);
}

#[tokio::test]
async fn an_answer_lost_on_a_kept_connection_is_asked_for_again() {
    // Reads a second request on the same connection, and closes instead of answering it.
    let address = tcp_server(async |mut stream| {
        read_request(&mut stream).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        read_request(&mut stream).await;
    })
    .await;
    let lane = probe(format!("http-keepalive://{address}"), LONG).await;
    assert_eq!((lane.requests, lane.failed), (10, 0), "{:?}", lane.causes);
    assert!(lane.retried > 0);
}

#[tokio::test]
async fn resetting_ones_own_connections_is_no_failure() {
    let target = common::bind("127.0.0.1", LONG);
    tokio::spawn(target.server.run(tokio_util::sync::CancellationToken::new()));
    for scheme_address in [format!("tcp-echo://{}", target.tcp), format!("http://{}", target.http)] {
        let mut config = common::config(&scheme_address, 50);
        config.close = Close::Reset;
        let report = common::run(config).await;
        assert_eq!((report.requests, report.failed), (10, 0), "{:?}", report.lanes[0].causes);
    }
}
