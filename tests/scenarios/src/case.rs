//! The table of what is measured: scenarios, and the rows they make with each subject.

use std::{fmt, str::FromStr, time::Duration};

use evenkeel_probe::LaneKind;

use crate::{
    load::Stream,
    site::{DNS, HTTP, TCP, UDP},
    subject::{Forwarding, Kind},
};

/// A SYN that is sent again costs its client a second, and one or two of a fault's are in no p99.9. Where nothing dies silently none
/// is lost, not even in S9, whose client resolves its neighbours anew within a round trip.
const NO_SYN_LOST: Duration = Duration::from_millis(900);

/// What happens to a service under load.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scenario {
    /// A pod is replaced, with a pause of 5 s before it is told to end.
    S1,
    /// A pod is replaced, and ends at the moment its endpoint begins to terminate.
    S2,
    /// A backend dies silently: its link goes down and its process is killed; a second later its endpoint goes.
    S3,
    /// As S3, with clients that use their source ports again; what is judged begins when the endpoint has gone.
    S4,
    /// A backend of UDP terminates, then is gone.
    S5,
    /// The load balancer is killed, and comes back after 10 s.
    S9,
    /// The load balancer is replaced by its next version.
    S10,
}

/// How servers end after SIGTERM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Servers {
    /// They accept and answer what has been connected, and refuse what comes later.
    Drain,
    /// They close their listeners at once, and the kernel resets what has not been accepted.
    CloseAtOnce,
}

/// What a scenario holds its subject to beyond what all are held to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bar {
    /// Not even what was in flight may fail.
    pub(crate) none_at_all: bool,
    /// Latency and gaps stay close to those without a fault.
    pub(crate) unnoticed: bool,
    /// The longest handshake.
    pub(crate) handshake: Option<Duration>,
}

/// One row: a scenario with a subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Case {
    /// What happens.
    pub scenario: Scenario,
    /// To servers of which kind.
    pub servers: Servers,
    /// Who carries the service.
    pub subject: Kind,
}

impl Scenario {
    /// All of them.
    pub const ALL: [Self; 7] = [Self::S1, Self::S2, Self::S3, Self::S4, Self::S5, Self::S9, Self::S10];

    /// Its name, as in the report.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::S1 => "S1",
            Self::S2 => "S2",
            Self::S3 => "S3",
            Self::S4 => "S4",
            Self::S5 => "S5",
            Self::S9 => "S9",
            Self::S10 => "S10",
        }
    }

    /// The load.
    pub(crate) fn streams(self) -> Vec<Stream> {
        let long = Stream::new(LaneKind::TcpLong, TCP, 60).wide(12);
        let tcp = vec![Stream::new(LaneKind::TcpEcho, TCP, 300), long];
        match self {
            Self::S1 => {
                vec![Stream::new(LaneKind::Http, HTTP, 200), Stream::new(LaneKind::HttpKeepalive, HTTP, 200)]
            }
            Self::S2 | Self::S3 | Self::S4 => tcp,
            Self::S5 => vec![
                Stream::new(LaneKind::UdpFixed, UDP, 240).wide(12),
                Stream::new(LaneKind::Udp, UDP, 100),
                Stream::new(LaneKind::Dns, DNS, 100),
                Stream::new(LaneKind::DnsFixed, DNS, 20),
            ],
            Self::S9 | Self::S10 => vec![
                Stream::new(LaneKind::TcpEcho, TCP, 100),
                long,
                Stream::new(LaneKind::Http, HTTP, 100),
                Stream::new(LaneKind::HttpKeepalive, HTTP, 100),
                Stream::new(LaneKind::Udp, UDP, 100),
                Stream::new(LaneKind::UdpFixed, UDP, 60).wide(6),
                Stream::new(LaneKind::Dns, DNS, 50),
            ],
        }
    }

    /// What it asks for beyond no rescuable failure, no other long-lived connection broken, no misroute.
    pub(crate) const fn bar(self) -> Bar {
        match self {
            Self::S1 | Self::S9 | Self::S10 => Bar { none_at_all: true, unnoticed: true, handshake: Some(NO_SYN_LOST) },
            Self::S2 => Bar { none_at_all: false, unnoticed: true, handshake: Some(NO_SYN_LOST) },
            Self::S5 => Bar { none_at_all: false, unnoticed: true, handshake: None },
            // A silent death costs whoever meets it one interval of detection: until its SYN is sent again.
            Self::S3 => Bar { none_at_all: false, unnoticed: false, handshake: Some(Duration::from_millis(1300)) },
            Self::S4 => Bar { none_at_all: false, unnoticed: false, handshake: None },
        }
    }

    /// Time without a fault before each fault. A machine's own pauses, which last for ten milliseconds and come every ten seconds,
    /// are to be in it as they are in a fault's time.
    pub(crate) const fn control(self) -> Duration {
        match self {
            Self::S9 => Duration::from_secs(8),
            Self::S1 => Duration::from_secs(5),
            _ => Duration::from_secs(3),
        }
    }

    /// Whether clients have a range of 2,000 source ports.
    pub(crate) const fn reuses_ports(self) -> bool {
        matches!(self, Self::S4)
    }

    /// Whether each fault needs a lab of its own: what an older version has left is there only once.
    pub(crate) const fn needs_fresh_site(self) -> bool {
        matches!(self, Self::S10)
    }
}

impl FromStr for Scenario {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|scenario| scenario.name().eq_ignore_ascii_case(text));
        found.ok_or_else(|| format!("{text} is none of S1, S2, S3, S4, S5, S9, S10"))
    }
}

impl Case {
    /// The scenario's name in the report.
    #[must_use]
    pub fn scenario_name(&self) -> String {
        let servers = if self.servers == Servers::CloseAtOnce { "-no-drain" } else { "" };
        format!("{}{servers}", self.scenario.name())
    }

    /// Whether it has to pass. Peers are measured, and so is what rescue is good for, by leaving it out.
    #[must_use]
    pub const fn must_pass(&self) -> bool {
        matches!(self.subject, Kind::Evenkeel { rescue: true, .. })
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.scenario_name(), self.subject.name())
    }
}

/// The rows of these scenarios.
#[must_use]
pub fn cases(scenarios: &[Scenario]) -> Vec<Case> {
    const DIRECT: Kind = Kind::Evenkeel { forwarding: Forwarding::Direct, rescue: true };
    const STACK: Kind = Kind::Evenkeel { forwarding: Forwarding::Stack, rescue: true };
    const WITHOUT_RESCUE: Kind = Kind::Evenkeel { forwarding: Forwarding::Direct, rescue: false };
    let mut cases = Vec::new();
    for &scenario in scenarios {
        let mut add = |servers, subjects: &[Kind]| {
            cases.extend(subjects.iter().map(|&subject| Case { scenario, servers, subject }));
        };
        add(Servers::Drain, &[DIRECT, STACK]);
        match scenario {
            Scenario::S1 => add(Servers::Drain, &[Kind::Nft, Kind::Iptables, Kind::Haproxy, Kind::Nginx]),
            Scenario::S2 => {
                add(Servers::Drain, &[WITHOUT_RESCUE]);
                add(Servers::CloseAtOnce, &[DIRECT, WITHOUT_RESCUE]);
                add(Servers::Drain, &[Kind::Nft, Kind::Iptables, Kind::Haproxy, Kind::Nginx]);
            }
            Scenario::S3 => add(Servers::Drain, &[Kind::Nft, Kind::Haproxy, Kind::Nginx]),
            Scenario::S4 | Scenario::S5 => add(Servers::Drain, &[Kind::Nft, Kind::Iptables]),
            Scenario::S9 => add(Servers::Drain, &[Kind::Haproxy, Kind::Nginx]),
            Scenario::S10 => add(Servers::Drain, &[Kind::Haproxy, Kind::Nginx]),
        }
    }
    cases
}
