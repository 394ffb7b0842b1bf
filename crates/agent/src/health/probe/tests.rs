//! Every check against servers on loopback that are well, or ill in each way that has a name.

use std::{
    future::Future,
    sync::{Arc, Mutex},
    time::Duration,
};

use evenkeel_plan::world::HttpProbe;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpSocket, TcpStream, UdpSocket},
    task::AbortHandle,
};

use super::*;

const LOOPBACKS: [&str; 2] = ["127.0.0.1:0", "[::1]:0"];
/// For answers that come: long enough for a busy machine.
const PATIENT: Duration = Duration::from_secs(60);
/// For answers that never come.
const SHORT: Duration = Duration::from_millis(200);

/// How a check of this address ends, as the name of its reason.
async fn outcome(address: SocketAddr, probe: HealthProbe, timeout: Duration) -> &'static str {
    match check(address, &HealthCheck { timeout, ..HealthCheck::new(probe) }).await {
        Outcome::Healthy => "healthy",
        Outcome::Failed(Failure { reason, detail }) => {
            assert!(!detail.is_empty());
            reason.name()
        }
        Outcome::NotDone(because) => panic!("{because}"),
    }
}

/// A task that ends with the test.
struct Server {
    address: SocketAddr,
    task: AbortHandle,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A server that treats each connection like this.
async fn tcp_server<F>(at: &str, serve: impl Fn(TcpStream) -> F + Send + 'static) -> Server
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind(at).await.unwrap();
    let address = listener.local_addr().unwrap();
    let task = tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(serve(stream));
        }
    });
    Server { address, task: task.abort_handle() }
}

/// A server that answers each datagram with these.
async fn udp_server(at: &str, answer: impl Fn(&[u8]) -> Vec<Vec<u8>> + Send + 'static) -> Server {
    let socket = UdpSocket::bind(at).await.unwrap();
    let address = socket.local_addr().unwrap();
    let task = tokio::spawn(async move {
        let mut buffer = [0; 2048];
        loop {
            let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
            for answer in answer(&buffer[..length]) {
                socket.send_to(&answer, from).await.unwrap();
            }
        }
    });
    Server { address, task: task.abort_handle() }
}

/// Reads a request's head, answers, and keeps the connection open.
async fn answer_http(mut stream: TcpStream, answer: &[u8]) -> String {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        request.push(stream.read_u8().await.unwrap());
    }
    stream.write_all(answer).await.unwrap();
    tokio::spawn(async move {
        let _ = stream.read_u8().await;
    });
    String::from_utf8(request).unwrap()
}

async fn http_server(at: &str, answer: impl Into<Vec<u8>>) -> Server {
    let answer: Arc<[u8]> = answer.into().into();
    tcp_server(at, move |stream| {
        let answer = Arc::clone(&answer);
        async move { _ = answer_http(stream, &answer).await }
    })
    .await
}

fn http() -> HealthProbe {
    HealthProbe::Http(HttpProbe::default())
}

/// An address nobody listens at for as long as the socket lives.
fn refusing() -> (TcpSocket, SocketAddr) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

#[tokio::test]
async fn a_connection_is_accepted_or_refused() {
    for at in LOOPBACKS {
        let server = tcp_server(at, |stream| async move { drop(stream) }).await;
        assert_eq!(outcome(server.address, HealthProbe::Tcp, PATIENT).await, "healthy");
    }
    let (_socket, address) = refusing();
    for probe in [HealthProbe::Tcp, http(), HealthProbe::DnsTcp("a.b".parse().unwrap())] {
        assert_eq!(outcome(address, probe, PATIENT).await, "health_tcp_refused");
    }
}

#[tokio::test]
async fn a_status_is_among_those_expected_or_not() {
    for at in LOOPBACKS {
        for (status, expected) in [
            ("200 OK", "healthy"),
            ("204 No Content", "healthy"),
            ("302 Found", "healthy"),
            ("404 Not Found", "health_http_status"),
            ("500 Internal Server Error", "health_http_status"),
            ("503 ", "health_http_status"),
        ] {
            // The body never comes: nobody waits for it.
            let server = http_server(at, format!("HTTP/1.1 {status}\r\nContent-Length: 1000\r\n\r\n")).await;
            assert_eq!(outcome(server.address, http(), PATIENT).await, expected, "{status}");
        }
    }
    let server = http_server("127.0.0.1:0", "HTTP/1.0 404 Not Found\r\n\r\n").await;
    let probe = HttpProbe { expect: "404".parse().unwrap(), ..HttpProbe::default() };
    assert_eq!(outcome(server.address, HealthProbe::Http(probe), PATIENT).await, "healthy");
    let server = http_server("127.0.0.1:0", "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 500 No\r\n\r\n").await;
    assert_eq!(outcome(server.address, http(), PATIENT).await, "health_http_status", "100 is no answer");
}

#[tokio::test]
async fn the_request_is_the_one_configured() {
    let requests = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&requests);
    let server = tcp_server("[::1]:0", move |stream| {
        let seen = Arc::clone(&seen);
        async move {
            let request = answer_http(stream, b"HTTP/1.1 200 OK\r\n\r\n").await;
            seen.lock().unwrap().push(request);
        }
    })
    .await;
    let probe = HttpProbe {
        path: "/ready?full=1".parse().unwrap(),
        host: Some("web.example:80".parse().unwrap()),
        ..HttpProbe::default()
    };
    assert_eq!(outcome(server.address, HealthProbe::Http(probe), PATIENT).await, "healthy");
    assert_eq!(outcome(server.address, http(), PATIENT).await, "healthy");
    let requests = requests.lock().unwrap();
    assert!(requests[0].starts_with("GET /ready?full=1 HTTP/1.1\r\nhost: web.example:80\r\n"), "{}", requests[0]);
    assert!(requests[1].starts_with(&format!("GET / HTTP/1.1\r\nhost: {}\r\n", server.address)), "{}", requests[1]);
}

#[tokio::test]
async fn what_is_no_response_is_named() {
    let long = format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "x".repeat(64 << 10));
    for answer in ["SSH-2.0-OpenSSH_9.9\r\n", "HTTP/1.1 2x0 OK\r\n\r\n", "HTTP/1.1 200 OK\r\n: x\r\n\r\n", &long] {
        let server = http_server("127.0.0.1:0", answer).await;
        assert_eq!(outcome(server.address, http(), PATIENT).await, "health_http_invalid", "{answer:.20}");
    }
    let closing = tcp_server("127.0.0.1:0", |mut stream| async move {
        let mut buffer = [0; 1024];
        let _ = stream.read(&mut buffer).await;
    })
    .await;
    assert_eq!(outcome(closing.address, http(), PATIENT).await, "health_tcp_reset");
    assert_eq!(outcome(closing.address, HealthProbe::DnsTcp("a".parse().unwrap()), PATIENT).await, "health_tcp_reset");
}

#[tokio::test]
async fn who_hangs_is_not_waited_for() {
    // Accepted by the kernel, never by the server; an answer that begins and goes no further.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    for probe in [http(), HealthProbe::DnsTcp("a.b".parse().unwrap())] {
        assert_eq!(outcome(address, probe, SHORT).await, "health_timeout");
    }
    let slow = http_server("127.0.0.1:0", "HTTP/1.1 200 O").await;
    assert_eq!(outcome(slow.address, http(), SHORT).await, "health_timeout");
    let silent = udp_server("127.0.0.1:0", |_| Vec::new()).await;
    for probe in [HealthProbe::UdpEcho, HealthProbe::DnsUdp("a.b".parse().unwrap())] {
        assert_eq!(outcome(silent.address, probe, SHORT).await, "health_timeout");
    }
}

#[tokio::test]
async fn a_datagram_comes_back_or_not() {
    for at in LOOPBACKS {
        let server = udp_server(at, |sent| vec![sent.to_owned()]).await;
        assert_eq!(outcome(server.address, HealthProbe::UdpEcho, PATIENT).await, "healthy");
    }
    for answer in [&b""[..], b"evenkeel health \0\0\0\0\0\0\0\0", &[0; 100]] {
        let server = udp_server("127.0.0.1:0", move |_| vec![answer.to_owned()]).await;
        assert_eq!(outcome(server.address, HealthProbe::UdpEcho, PATIENT).await, "health_echo_mismatch");
    }
    // A TCP socket keeps the number, and no UDP socket has it: an address of its own, that nobody else binds.
    let nobody: SocketAddr = "127.77.0.1:7".parse().unwrap();
    for probe in [HealthProbe::UdpEcho, HealthProbe::DnsUdp("a.b".parse().unwrap())] {
        assert_eq!(outcome(nobody, probe, PATIENT).await, "health_udp_refused");
    }
}

/// What a name server answers.
fn dns_answer(rcode: u8) -> impl Fn(&[u8]) -> Vec<u8> + Clone {
    move |query| {
        let data = (rcode == 0).then_some(&[192, 0, 2, 1][..]);
        evenkeel_dns::query(query).unwrap().answer(rcode, data, b"")
    }
}

async fn dns_over_tcp(answer: impl Fn(&[u8]) -> Vec<u8> + Clone + Send + 'static) -> Server {
    tcp_server("[::1]:0", move |mut stream| {
        let answer = answer.clone();
        async move {
            let mut query = vec![0; usize::from(stream.read_u16().await.unwrap())];
            stream.read_exact(&mut query).await.unwrap();
            let answer = answer(&query);
            stream.write_u16(u16::try_from(answer.len()).unwrap()).await.unwrap();
            stream.write_all(&answer).await.unwrap();
        }
    })
    .await
}

#[tokio::test]
async fn a_query_is_answered_without_an_error_or_not() {
    for (rcode, expected) in
        [(0, "healthy"), (2, "health_dns_rcode"), (3, "health_dns_rcode"), (15, "health_dns_rcode")]
    {
        let answer = dns_answer(rcode);
        let udp = udp_server("127.0.0.1:0", move |query| vec![answer(query)]).await;
        let tcp = dns_over_tcp(dns_answer(rcode)).await;
        for name in ["www.example.com", ".", "www.example.com?type=AAAA"] {
            let question: evenkeel_dns::Question = name.parse().unwrap();
            assert_eq!(outcome(udp.address, HealthProbe::DnsUdp(question.clone()), PATIENT).await, expected);
            assert_eq!(outcome(tcp.address, HealthProbe::DnsTcp(question), PATIENT).await, expected);
        }
    }
}

#[tokio::test]
async fn answers_that_are_none_are_told_apart() {
    let question: evenkeel_dns::Question = "www.example.com".parse().unwrap();
    // With another identifier it is no answer, whoever sent it; the right one comes after.
    let forged = udp_server("127.0.0.1:0", |query| {
        let right = dns_answer(0)(query);
        let mut wrong = dns_answer(2)(query);
        wrong[0] ^= 1;
        vec![wrong, vec![1], right]
    })
    .await;
    assert_eq!(outcome(forged.address, HealthProbe::DnsUdp(question.clone()), PATIENT).await, "healthy");
    let echo = udp_server("127.0.0.1:0", |query| vec![query.to_owned()]).await;
    assert_eq!(outcome(echo.address, HealthProbe::DnsUdp(question.clone()), PATIENT).await, "health_dns_invalid");
    let truncated = udp_server("127.0.0.1:0", |query| {
        let mut answer = dns_answer(0)(query);
        answer[2] |= 2;
        answer.truncate(answer.len() - 5);
        vec![answer]
    })
    .await;
    assert_eq!(outcome(truncated.address, HealthProbe::DnsUdp(question.clone()), PATIENT).await, "healthy");
    let other = dns_over_tcp(|query| {
        let mut answer = dns_answer(0)(query);
        answer[1] ^= 1;
        answer
    })
    .await;
    assert_eq!(outcome(other.address, HealthProbe::DnsTcp(question.clone()), PATIENT).await, "health_dns_invalid");
    let empty = dns_over_tcp(|_| Vec::new()).await;
    assert_eq!(outcome(empty.address, HealthProbe::DnsTcp(question), PATIENT).await, "health_dns_invalid");
}

/// Who may send echo requests differs: an unprivileged user needs a range of groups, and then no capability.
#[tokio::test]
async fn loopback_answers_pings_of_those_who_may_ping() {
    for address in ["127.0.0.1:1", "[::1]:1"] {
        let check = HealthCheck { timeout: PATIENT, ..HealthCheck::new(HealthProbe::Icmp) };
        let raw = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::RAW, Some(socket2::Protocol::ICMPV4));
        match super::check(address.parse().unwrap(), &check).await {
            Outcome::Healthy => {}
            Outcome::NotDone(because) => assert!(raw.is_err(), "{because}"),
            Outcome::Failed(failure) => panic!("{failure}"),
        }
    }
}

#[test]
fn this_hosts_own_trouble_is_told_apart() {
    for errno in [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::EACCES, libc::EPERM, libc::EADDRNOTAVAIL] {
        let error = io::Error::from_raw_os_error(errno);
        assert!(matches!(Transport::Tcp.trouble(&error), Trouble::NotDone(_)), "{error}");
    }
    for errno in [libc::EHOSTUNREACH, libc::ENETUNREACH, libc::EHOSTDOWN] {
        let error = io::Error::from_raw_os_error(errno);
        let Trouble::Failed(failure) = Transport::Udp.trouble(&error) else { panic!("{error}") };
        assert_eq!(failure.reason, Reason::Unreachable);
    }
}
