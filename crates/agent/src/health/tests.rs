//! The driver from frontends to views, with backends on loopback.

use std::{
    collections::BTreeSet,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use evenkeel_health::{BackendHealth, Member, Reason, State, Symptom};
use evenkeel_plan::world::{HealthCheck, HealthProbe, HttpProbe, ObjectName, Protocol};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use super::*;

fn frontend() -> FrontendKey {
    FrontendKey { address: [192, 0, 2, 10].into(), port: 80, protocol: Protocol::Tcp }
}

fn member(address: SocketAddr) -> Member {
    Member { address, uid: None, is_checked: true, is_eligible: true, weight: 1 }
}

fn group(check: HealthCheck, members: impl IntoIterator<Item = SocketAddr>) -> Group {
    Group {
        frontend: frontend(),
        service: ObjectName::new("default", "web"),
        check: check.into(),
        members: members.into_iter().map(member).collect(),
    }
}

/// Ten checks a second, patient ones.
fn http() -> HealthCheck {
    HealthCheck {
        interval: Duration::from_millis(100),
        timeout: Duration::from_secs(30),
        slow_start: Duration::from_millis(500),
        ..HealthCheck::new(HealthProbe::Http(HttpProbe::default()))
    }
}

/// Waits for a view like this; the views on the way, for what is to be said about them.
async fn until(
    views: &mut watch::Receiver<Arc<View>>,
    backend: SocketAddr,
    is_met: impl Fn(&BackendHealth) -> bool,
) -> Vec<BackendHealth> {
    let mut seen = Vec::new();
    let waiting = async {
        loop {
            let view = Arc::clone(&views.borrow_and_update());
            if let Some(health) = view.get(&frontend(), backend) {
                seen.push(health.clone());
                if is_met(health) {
                    return;
                }
            }
            views.changed().await.unwrap();
        }
    };
    let in_time = time::timeout(Duration::from_secs(60), waiting).await;
    assert!(in_time.is_ok(), "{seen:?}");
    seen
}

/// A web server that is well or not.
async fn web(is_well: &'static AtomicBool) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let status = if is_well.load(Ordering::Relaxed) { "200 OK" } else { "500 Ill" };
            tokio::spawn(async move {
                let mut request = [0; 1024];
                let _ = stream.read(&mut request).await;
                let _ = stream.write_all(format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n").as_bytes()).await;
            });
        }
    });
    address
}

#[tokio::test]
async fn a_backend_goes_and_comes_back_slowly() {
    static WELL: AtomicBool = AtomicBool::new(true);
    static OTHER: AtomicBool = AtomicBool::new(true);
    let (ill, other) = (web(&WELL).await, web(&OTHER).await);
    let checker = Checker::start().unwrap();
    let mut views = checker.view();
    checker.set(vec![group(http(), [ill, other])]);
    until(&mut views, ill, |health| health.share == 255).await;
    WELL.store(false, Ordering::Relaxed);
    let seen = until(&mut views, ill, |health| health.share == 0).await;
    assert_eq!(seen.last().unwrap().failure.as_ref().unwrap().reason, Reason::HttpStatus);
    WELL.store(true, Ordering::Relaxed);
    let seen = until(&mut views, ill, |health| health.state == State::Active && health.share == 255).await;
    let shares: Vec<u8> = seen.iter().map(|health| health.share).collect();
    assert!(shares.is_sorted() && shares.iter().any(|share| (1..255).contains(share)), "{shares:?}");
    assert_eq!(checker.view().borrow().share(&frontend(), other), 255);
}

#[tokio::test]
async fn clients_failures_are_followed_up_at_once() {
    static WELL: AtomicBool = AtomicBool::new(false);
    static OTHER: AtomicBool = AtomicBool::new(true);
    let (ill, other) = (web(&WELL).await, web(&OTHER).await);
    let checker = Checker::start().unwrap();
    let mut views = checker.view();
    // Checks alone would take minutes.
    let minutes = Duration::from_mins(2);
    let check = HealthCheck { interval: minutes, unhealthy_after: 100, passive_ejection: true, ..http() };
    checker.set(vec![group(check, [ill, other])]);
    until(&mut views, ill, |health| health.share == 255).await;
    for client in 1..=3 {
        let failure = Observation::Failure { source: [198, 51, 100, client].into(), symptom: Symptom::RstToSyn };
        checker.observe(frontend(), ill, failure);
        checker.observe(frontend(), other, failure);
    }
    let seen = until(&mut views, ill, |health| health.share == 0).await;
    assert!(seen.last().unwrap().is_ejected);
    assert_eq!(checker.view().borrow().share(&frontend(), other), 255);
}

/// Four hundred backends that hang, at as many addresses of one server: each is asked, and only so many at once.
#[tokio::test]
async fn only_so_many_are_asked_at_once() {
    const BACKENDS: u8 = 200;
    static OPEN: AtomicUsize = AtomicUsize::new(0);
    static MOST: AtomicUsize = AtomicUsize::new(0);
    let asked: Arc<Mutex<BTreeSet<SocketAddr>>> = Arc::default();
    let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let seen = Arc::clone(&asked);
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            seen.lock().unwrap().insert(stream.local_addr().unwrap());
            MOST.fetch_max(OPEN.fetch_add(1, Ordering::Relaxed) + 1, Ordering::Relaxed);
            tokio::spawn(async move {
                let mut rest = Vec::new();
                let _ = stream.read_to_end(&mut rest).await;
                OPEN.fetch_sub(1, Ordering::Relaxed);
            });
        }
    });
    let members = [1, 2]
        .into_iter()
        .flat_map(|third| (1..=BACKENDS).map(move |last| SocketAddr::from(([127, 1, third, last], port))));
    let check = HealthCheck { timeout: Duration::from_secs(1), interval: Duration::from_secs(1), ..http() };
    let checker = Checker::start().unwrap();
    checker.set(vec![group(check, members)]);
    let all = async {
        while asked.lock().unwrap().len() < 2 * usize::from(BACKENDS) {
            time::sleep(Duration::from_millis(20)).await;
        }
    };
    time::timeout(Duration::from_secs(120), all).await.unwrap();
    let most = MOST.load(Ordering::Relaxed);
    // The server hears of a connection's end a little after its begin is another's.
    assert!(most > MOST_AT_ONCE / 4 && most <= MOST_AT_ONCE * 5 / 4, "{most} at once");
}

#[tokio::test]
async fn the_same_frontends_again_are_no_news() {
    let checker = Checker::start().unwrap();
    let nobody = SocketAddr::from(([127, 77, 0, 1], 9));
    let check = HealthCheck { unhealthy_after: 1, ..http() };
    let mut views = checker.view();
    checker.set(vec![group(check.clone(), [nobody])]);
    // Everybody is down, so all serve.
    let seen = until(&mut views, nobody, |health| health.state == State::Down).await;
    assert!(seen.last().unwrap().is_last_resort && seen.last().unwrap().share == 255);
    checker.set(vec![group(check, [nobody])]);
    checker.set(Vec::new());
    let gone = async {
        while views.borrow_and_update().get(&frontend(), nobody).is_some() {
            views.changed().await.unwrap();
        }
    };
    time::timeout(Duration::from_secs(60), gone).await.unwrap();
}
