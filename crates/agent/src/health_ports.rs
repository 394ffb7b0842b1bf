//! Health check node ports: where load balancers outside of the cluster ask a node for local endpoints of a service with
//! `externalTrafficPolicy: Local` (`spec.healthCheckNodePort`). kube-proxy answers there on the nodes that have one, and
//! this says the same in the same form.

use std::{
    collections::BTreeMap,
    io,
    net::{Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
};

use evenkeel_plan::world::ObjectName;
use evenkeel_process::http;
use hyper::{Response, StatusCode, header};
use serde_json::json;
use socket2::{Domain, Protocol, Socket, Type};
use tokio_util::sync::{CancellationToken, DropGuard};

/// Connections that wait to be accepted.
const BACKLOG: i32 = 128;

/// What is said at a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The service.
    pub service: ObjectName,
    /// Its ready endpoints on this node, each once however many addresses it has.
    pub local_endpoints: usize,
    /// Whether this node carries what it should.
    pub healthy: bool,
}

impl Report {
    /// As kube-proxy says it: balancers look at the status, some at the number in the header.
    fn response(&self) -> Response<Vec<u8>> {
        let body = json!({
            "service": { "namespace": self.service.namespace, "name": self.service.name },
            "localEndpoints": self.local_endpoints,
            "serviceProxyHealthy": self.healthy,
        });
        let mut response = Response::new(format!("{body:#}").into_bytes());
        if self.local_endpoints == 0 || !self.healthy {
            *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        }
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, header::HeaderValue::from_static("nosniff"));
        headers.insert("x-load-balancing-endpoint-weight", self.local_endpoints.into());
        response
    }
}

/// The ports that are served.
#[derive(Default)]
pub(crate) struct HealthPorts {
    open: BTreeMap<u16, Port>,
    wanted: BTreeMap<u16, Report>,
    problems: BTreeMap<u16, String>,
}

struct Port {
    report: Arc<Mutex<Report>>,
    _stop: DropGuard,
}

impl HealthPorts {
    /// Serves these ports and no others; within a Tokio runtime.
    pub(crate) fn set(&mut self, wanted: BTreeMap<u16, Report>) {
        self.open.retain(|port, _| wanted.contains_key(port));
        self.problems.retain(|port, _| wanted.contains_key(port));
        for (port, report) in &wanted {
            if let Some(open) = self.open.get(port) {
                report.clone_into(&mut open.report.lock().unwrap_or_else(PoisonError::into_inner));
            }
        }
        self.wanted = wanted;
        self.open();
    }

    /// Tries again to get the ports that others have.
    pub(crate) fn open(&mut self) {
        for (port, report) in &self.wanted {
            if self.open.contains_key(port) {
                continue;
            }
            match serve(*port, report.clone()) {
                Ok(open) => {
                    tracing::info!(port, service = %report.service, "serving the health check node port");
                    self.open.insert(*port, open);
                    self.problems.remove(port);
                }
                Err(error) => {
                    let text = format!(
                        "[health_check_port_taken] health check node port {port} of {} is not served: {error}; if kube-proxy \
                         has it, run without --health-check-node-ports",
                        report.service
                    );
                    if self.problems.get(port) != Some(&text) {
                        tracing::warn!("{text}");
                    }
                    self.problems.insert(*port, text);
                }
            }
        }
    }

    /// What keeps ports from being served.
    pub(crate) fn problems(&self) -> impl Iterator<Item = &String> {
        self.problems.values()
    }
}

fn serve(port: u16, report: Report) -> io::Result<Port> {
    let listener = tokio::net::TcpListener::from_std(listen(port)?.into())?;
    let report = Arc::new(Mutex::new(report));
    let stop = CancellationToken::new();
    let said = Arc::clone(&report);
    let answer = move |_: &str| Some(said.lock().unwrap_or_else(PoisonError::into_inner).response());
    tokio::spawn(http::serve_answers(listener, answer, stop.clone()));
    Ok(Port { report, _stop: stop.drop_guard() })
}

/// Listens on all addresses of both families, or of IPv4 where the kernel has no other.
fn listen(port: u16) -> io::Result<Socket> {
    let bind = |address: SocketAddr| -> io::Result<Socket> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        if address.is_ipv6() {
            socket.set_only_v6(false)?;
        }
        // An agent that starts again finds connections of the one before.
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        Ok(socket)
    };
    let all = (Ipv6Addr::UNSPECIFIED, port).into();
    bind(all).or_else(|error| http::without_ipv6(all, &error).map_or(Err(error), bind))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpStream,
    };

    use super::*;

    fn report(local_endpoints: usize, healthy: bool) -> Report {
        Report { service: ObjectName::new("shop", "web"), local_endpoints, healthy }
    }

    async fn get(address: SocketAddr) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text
    }

    #[test]
    fn balancers_are_told_as_kube_proxy_tells_them() {
        for (endpoints, healthy, status) in [(2, true, 200), (0, true, 503), (2, false, 503)] {
            let response = report(endpoints, healthy).response();
            assert_eq!(response.status(), status, "{endpoints} {healthy}");
            let header = |name: &str| response.headers()[name].to_str().unwrap().to_owned();
            assert_eq!(header("content-type"), "application/json");
            assert_eq!(header("x-content-type-options"), "nosniff");
            assert_eq!(header("x-load-balancing-endpoint-weight"), endpoints.to_string());
            let body: serde_json::Value = serde_json::from_slice(response.body()).unwrap();
            assert_eq!(
                body,
                json!({ "service": { "namespace": "shop", "name": "web" }, "localEndpoints": endpoints,
                    "serviceProxyHealthy": healthy })
            );
        }
    }

    #[tokio::test]
    async fn ports_are_served_over_both_families_and_left_again() {
        // One that nobody has, and that nobody takes before it is asked for.
        let port = {
            let free = std::net::TcpListener::bind("[::]:0").unwrap();
            free.local_addr().unwrap().port()
        };
        let mut ports = HealthPorts::default();
        ports.set([(port, report(1, true))].into());
        for address in [SocketAddr::from((Ipv4Addr::LOCALHOST, port)), (Ipv6Addr::LOCALHOST, port).into()] {
            assert!(get(address).await.starts_with("HTTP/1.1 200"), "{address}");
        }
        ports.set([(port, report(0, true))].into());
        assert!(get((Ipv4Addr::LOCALHOST, port).into()).await.starts_with("HTTP/1.1 503"));
        ports.set(BTreeMap::new());
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.is_ok() {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_port_that_another_has_is_taken_over_when_it_comes_free() {
        let other = std::net::TcpListener::bind("[::]:0").unwrap();
        let port = other.local_addr().unwrap().port();
        let mut ports = HealthPorts::default();
        ports.set([(port, report(1, true))].into());
        let problems: Vec<&String> = ports.problems().collect();
        assert!(problems.len() == 1 && problems[0].starts_with("[health_check_port_taken]"), "{problems:?}");
        drop(other);
        ports.open();
        assert_eq!(ports.problems().count(), 0);
        assert!(get((Ipv4Addr::LOCALHOST, port).into()).await.starts_with("HTTP/1.1 200"));
    }
}
