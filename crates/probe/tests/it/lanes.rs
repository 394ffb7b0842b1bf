//! What each kind of lane measures, and what it holds against a server.

use std::{
    collections::BTreeMap,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    num::NonZeroU32,
    thread,
    time::Duration,
};

use evenkeel_probe::{Cause, LaneMeasurement, Measurement, Prober, Rate, TlsVerify, measure::Phase};
use tokio_util::sync::CancellationToken;

use crate::common;

const LONG: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(200);

async fn measure(config: evenkeel_probe::Config) -> Measurement {
    Prober::new(config).unwrap().measure(CancellationToken::new()).await
}

async fn lane(config: evenkeel_probe::Config) -> LaneMeasurement {
    measure(config).await.lanes.remove(0)
}

fn only(lane: &LaneMeasurement, cause: Cause) {
    assert_eq!(lane.causes, BTreeMap::from([(cause, lane.sent)]), "{:?}", lane.errors);
}

/// Handles connections with `handle`, given their number, each on a thread.
fn tcp_server(handle: impl Fn(TcpStream, usize) + Send + Sync + Clone + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for (number, stream) in listener.incoming().flatten().enumerate() {
            let handle = handle.clone();
            thread::spawn(move || handle(stream, number));
        }
    });
    address
}

/// What a server does to an answer.
type Change = fn(&mut Vec<u8>);

/// Answers each DNS query with itself, changed.
fn dns_server(change: Change) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    thread::spawn(move || {
        let mut buffer = [0; 2048];
        while let Ok((length, client)) = socket.recv_from(&mut buffer) {
            let mut answer = buffer[..length].to_vec();
            answer[2] |= 0x80;
            change(&mut answer);
            socket.send_to(&answer, client).unwrap();
        }
    });
    address
}

#[tokio::test]
async fn dns_faults_are_told_apart() {
    let servers: [(Change, Cause); 4] = [
        (|answer| answer[3] |= 2, Cause::DnsRcode),
        (|answer| answer[2] |= 2, Cause::DnsTruncated),
        (|answer| answer[0] ^= 0x40, Cause::DnsIdMismatch),
        (|answer| answer[13] ^= 1, Cause::WrongReply),
    ];
    for (change, cause) in servers {
        let address = dns_server(change);
        for scheme in ["dns", "dns-fixed"] {
            let lane = lane(common::config(&format!("{scheme}://{address}/www.example.com"), 50)).await;
            only(&lane, cause);
            assert_eq!((lane.connectionless, lane.rescuable, lane.in_flight), (10, 0, 0));
        }
    }
}

#[tokio::test]
async fn expected_response_codes_are_answers() {
    let address = dns_server(|answer| answer[3] |= 3);
    let mut config = common::config(&format!("dns://{address}/www.example.com"), 50);
    config.lanes[0].options.rcodes = [0, 3].into();
    let lane = lane(config).await;
    assert_eq!((lane.failed, &lane.codes), (0, &BTreeMap::from([("NXDOMAIN".to_owned(), 10)])));
}

#[tokio::test]
async fn failures_before_and_after_the_handshake_are_told_apart() {
    let address = tcp_server(|mut stream, _| {
        // Reading first keeps what is unread from making the close a reset.
        assert!(stream.read(&mut [0; 1024]).unwrap() > 0);
    });
    let after = lane(common::config(&format!("http://{address}"), 50)).await;
    assert_eq!((after.failed, after.rescuable, after.in_flight, after.connections), (10, 0, 10, 10));

    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let before = lane(common::config(&format!("http://{free}"), 50)).await;
    only(&before, Cause::Refused);
    assert_eq!((before.failed, before.rescuable, before.in_flight, before.connections), (10, 10, 0, 0));
    assert_eq!(before.windows[0].rescuable, 10);
}

#[tokio::test]
async fn other_servers_than_expected_are_misroutes() {
    let target = common::bind("127.0.0.1", LONG);
    tokio::spawn(target.server.run(CancellationToken::new()));
    for scheme in [
        format!("http://{}", target.http),
        format!("h2-keepalive://{}", target.http),
        format!("tcp-banner://{}", target.tcp),
        format!("tcp-long://{}", target.tcp),
        format!("udp-fixed://{}", target.udp),
        format!("dns://{}/a", target.dns),
    ] {
        let mut config = common::config(&scheme, 50);
        config.lanes[0].options.servers = ["beta".to_owned()].into();
        let lane = lane(config).await;
        only(&lane, Cause::Misroute);
        assert_eq!(lane.servers["alpha"].failed, 10);
        assert_eq!(lane.windows[0].server(), Some("alpha"));
    }
}

#[tokio::test]
async fn two_servers_on_one_connection_are_a_split_flow() {
    let address = tcp_server(|mut stream, _| {
        let mut buffer = [0; 1024];
        for server in ["alpha", "beta"].into_iter().cycle() {
            if !matches!(stream.read(&mut buffer), Ok(1..)) {
                return;
            }
            let answer = format!("HTTP/1.1 200 OK\r\nx-evenkeel-server: {server}\r\ncontent-length: 0\r\n\r\n");
            stream.write_all(answer.as_bytes()).unwrap();
        }
    });
    let mut config = common::config(&format!("http-keepalive://{address}"), 50);
    let split = lane(config.clone()).await;
    // The second request of each connection, which is not used again.
    assert_eq!(split.causes.keys().copied().collect::<Vec<_>>(), [Cause::SplitFlow], "{:?}", split.errors);
    assert!(split.succeeded >= split.failed);
    config.lanes[0].options.allow_split = true;
    assert_eq!(lane(config).await.failed, 0);
}

/// What a server makes of five records.
type Rearrange = fn(&[&[u8]]) -> Vec<u8>;

/// A server of long-lived connections that sends back what `change` makes of each five records.
fn record_server(change: Rearrange) -> SocketAddr {
    tcp_server(move |mut stream, _| {
        const RECORD: usize = 16;
        stream.write_all(b"alpha\n").unwrap();
        let mut records = vec![0; 5 * RECORD];
        while stream.read_exact(&mut records).is_ok() {
            let pieces: Vec<&[u8]> = records.chunks(RECORD).collect();
            // The prober may have closed it after a fault.
            if stream.write_all(&change(&pieces)).is_err() {
                return;
            }
        }
    })
}

#[tokio::test]
async fn lost_repeated_and_swapped_bytes_are_told_apart() {
    let faults: [(Rearrange, Cause); 4] = [
        (
            |records| [records[0], &records[1][..9], &records[2][9..], records[3], records[4]].concat(),
            Cause::SequenceLost,
        ),
        (|records| [records[0], records[2], records[3], records[4]].concat(), Cause::SequenceLost),
        (|records| [records[0], records[0], records[1]].concat(), Cause::SequenceDuplicated),
        (|records| [records[0], records[2], records[1], records[3]].concat(), Cause::SequenceReordered),
    ];
    for (change, cause) in faults {
        let mut config = common::config(&format!("tcp-long://{}", record_server(change)), 50);
        config.lanes[0].options.connections = NonZeroU32::MIN;
        config.timeout = Duration::from_secs(2);
        let lane = lane(config).await;
        assert!(lane.causes.contains_key(&cause), "{cause}: {:?}", lane.causes);
        assert!(lane.broken > 0 && lane.succeeded > 0);
    }
}

#[tokio::test]
async fn broken_long_connections_are_counted_and_replaced() {
    let address = tcp_server(|mut stream, number| {
        stream.write_all(b"alpha\n").unwrap();
        let mut record = [0; 16];
        // The first two connections end after two records.
        for answered in 0.. {
            if stream.read_exact(&mut record).is_err() || (number < 2 && answered == 2) {
                return;
            }
            stream.write_all(&record).unwrap();
        }
    });
    let mut config = common::config(&format!("tcp-long://{address}"), 200);
    config.lanes[0].options.connections = NonZeroU32::new(2).unwrap();
    let lane = lane(config).await;
    assert_eq!((lane.broken, lane.connections), (2, 4));
    assert!(lane.failed >= 2 && lane.succeeded >= 30, "{:?}", lane.causes);
    assert!(lane.causes.keys().all(|cause| matches!(cause, Cause::EarlyEof | Cause::Reset)), "{:?}", lane.causes);
    assert_eq!(lane.in_flight, lane.failed);
}

#[tokio::test]
async fn untrusted_certificates_and_other_protocols_fail_tls() {
    let target = common::bind("127.0.0.1", LONG);
    tokio::spawn(target.server.run(CancellationToken::new()));
    let mut config = common::config(&format!("tls://{}", target.tls), 50);
    only(&lane(config.clone()).await, Cause::Tls);
    config.lanes[0].options.tls = TlsVerify::Off;
    assert_eq!(lane(config).await.failed, 0);

    let mut config = common::config(&format!("tls://{}", target.tcp), 50);
    config.lanes[0].options.tls = TlsVerify::Off;
    only(&lane(config).await, Cause::Tls);
}

#[tokio::test]
async fn http2_faults_are_told_apart() {
    let silent = tcp_server(|mut stream, _| while matches!(stream.read(&mut [0; 1024]), Ok(1..)) {});
    let closing = tcp_server(|mut stream, _| assert!(stream.read(&mut [0; 1024]).unwrap() > 0));
    let other = tcp_server(|mut stream, _| {
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap();
        while matches!(stream.read(&mut [0; 1024]), Ok(1..)) {}
    });
    for scheme in ["h2", "h2-keepalive"] {
        let mut config = common::config(&format!("{scheme}://{silent}"), 50);
        config.timeout = SHORT;
        only(&lane(config).await, Cause::ReadStall);
        let lane_of = async |address| lane(common::config(&format!("{scheme}://{address}"), 50)).await;
        let closed = lane_of(closing).await;
        assert!(
            closed.failed == 10 && closed.causes.keys().all(|cause| matches!(cause, Cause::EarlyEof | Cause::Reset)),
            "{:?}",
            closed.errors
        );
        only(&lane_of(other).await, Cause::WrongBody);
    }
}

#[tokio::test]
async fn http2_streams_share_a_connection() {
    let target = common::bind("127.0.0.1", LONG);
    tokio::spawn(target.server.run(CancellationToken::new()));
    let shared = lane(common::config(&format!("h2-keepalive://{}/delay/20", target.http), 200)).await;
    assert_eq!((shared.failed, shared.connections), (0, 1), "{:?}", shared.errors);
    let own = lane(common::config(&format!("h2://{}", target.http), 100)).await;
    assert_eq!((own.failed, own.connections), (0, 20), "{:?}", own.errors);
}

#[tokio::test]
async fn a_closed_loop_keeps_so_many_requests_under_way() {
    let target = common::bind("127.0.0.1", LONG);
    tokio::spawn(target.server.run(CancellationToken::new()));
    for scheme in [
        format!("http-keepalive://{}", target.http),
        format!("http://{}", target.http),
        format!("h2-keepalive://{}", target.http),
        format!("dns-fixed://{}/a", target.dns),
        format!("udp-fixed://{}", target.udp),
        format!("tcp-echo://{}", target.tcp),
    ] {
        let mut config = common::config(&scheme, 200);
        config.lanes[0].rate = Rate::Max { connections: NonZeroU32::new(4).unwrap() };
        let measurement = measure(config).await;
        let lane = &measurement.lanes[0];
        assert!(lane.failed == 0 && lane.succeeded > 100, "{scheme}: {} {:?}", lane.succeeded, lane.errors);
        assert!(measurement.lag.is_empty(), "there is no schedule to be late for");
        if scheme.starts_with("http-keepalive") {
            assert_eq!(lane.connections, 4);
        }
    }
}

#[tokio::test]
async fn results_of_single_requests_are_handed_out() {
    let target = common::bind("127.0.0.1", LONG);
    tokio::spawn(target.server.run(CancellationToken::new()));
    let mut config = common::config(&format!("http://{}", target.http), 100);
    let refused = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    config.lanes.extend(common::config(&format!("tcp://{refused}"), 100).lanes);
    let mut prober = Prober::new(config).unwrap();
    let results = prober.results(10_000);
    let reader = thread::spawn(move || results.collect::<Vec<_>>());
    let measurement = prober.measure(CancellationToken::new()).await;
    let results = reader.join().unwrap();
    assert_eq!((results.len(), measurement.results_dropped), (40, 0));
    for result in results {
        assert!(result.intended <= result.sent && result.sent <= result.end, "{result:?}");
        if result.lane == 0 {
            let first_byte = result.first_byte.unwrap();
            assert!(result.sent <= first_byte && first_byte <= result.end, "{result:?}");
            assert_eq!(
                (result.cause, result.server.as_deref(), result.code.as_deref()),
                (None, Some("alpha"), Some("200"))
            );
            assert!(result.bytes_in > 50 && result.bytes_out > 50);
        } else {
            assert_eq!((result.cause, result.phase), (Some(Cause::Refused), Phase::Connecting));
            assert!(result.error.unwrap().contains("refused"));
        }
    }
}
