//! Who carries the service: Evenkeel and its peers behind one interface.

mod evenkeel;
mod haproxy;
mod iptables;
mod nft;
mod nginx;
mod proxy;

use std::{collections::BTreeMap, net::IpAddr, path::Path, time::Duration};

use anyhow::{Result, bail};
use evenkeel_lab::{
    manifests::{Condition, Port, Protocol},
    topology::{Backend, UPLINK},
};
use ipnet::{IpNet, Ipv4Net};

use crate::{
    attached::Attached,
    site::{PORTS, Site, VIP},
};

pub use evenkeel::Forwarding;

/// How long a subject may take until it answers.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// What kube-proxy and its like take at least until their rules follow an endpoint.
const RULE_LAG: Duration = Duration::from_secs(1);

/// The subjects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// This load balancer.
    Evenkeel {
        /// How packets go on.
        forwarding: Forwarding,
        /// Whether refused connections are brought elsewhere.
        rescue: bool,
    },
    /// nftables DNAT, round robin; rules follow a second later.
    Nft,
    /// iptables DNAT, every nth; rules follow a second later.
    Iptables,
    /// haproxy in TCP mode, with retries and redispatch; reloaded for each change.
    Haproxy,
    /// nginx's stream module, which tries the next server; reloaded for each change.
    Nginx,
}

impl Kind {
    /// Its name in the report.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Evenkeel { forwarding: Forwarding::Direct, rescue: true } => "evenkeel-direct",
            Self::Evenkeel { forwarding: Forwarding::Direct, rescue: false } => "evenkeel-direct-no-rescue",
            Self::Evenkeel { forwarding: Forwarding::Stack, rescue: true } => "evenkeel-stack",
            Self::Evenkeel { forwarding: Forwarding::Stack, rescue: false } => "evenkeel-stack-no-rescue",
            Self::Nft => "nft",
            Self::Iptables => "iptables",
            Self::Haproxy => "haproxy",
            Self::Nginx => "nginx",
        }
    }

    /// Whether clients' connections end at the subject: a complete handshake then says nothing of a backend.
    #[must_use]
    pub const fn is_proxy(self) -> bool {
        matches!(self, Self::Haproxy | Self::Nginx)
    }

    pub(crate) fn make(self, site: &Site, program: &Path) -> Result<Box<dyn Subject>> {
        Ok(match self {
            Self::Evenkeel { forwarding, rescue } => {
                Box::new(evenkeel::Evenkeel::new(site, program, forwarding, rescue)?)
            }
            Self::Nft => Box::new(nft::Nft::new(site)?),
            Self::Iptables => Box::new(iptables::Iptables::new(site)?),
            Self::Haproxy => Box::new(haproxy::new(site)?),
            Self::Nginx => Box::new(nginx::new(site)?),
        })
    }
}

/// A backend as a subject is told of it.
#[derive(Debug, Clone)]
pub(crate) struct Endpoint {
    pub(crate) backend: Backend,
    pub(crate) condition: Condition,
}

impl Endpoint {
    pub(crate) fn ready(backend: &Backend) -> Self {
        Self { backend: backend.clone(), condition: Condition::Ready }
    }
}

/// Those that take new connections.
fn ready(endpoints: &[Endpoint]) -> Vec<&Backend> {
    let ready = endpoints.iter().filter(|endpoint| endpoint.condition == Condition::Ready);
    ready.map(|endpoint| &endpoint.backend).collect()
}

/// What a scenario asks of a subject. What its kind cannot do is never asked of it: `case::cases` says who takes part where.
pub(crate) trait Subject {
    /// Where its service is reached.
    fn addresses(&self) -> Vec<IpAddr> {
        vec![VIP.into()]
    }

    /// Whether it balances this protocol.
    fn carries(&self, protocol: Protocol) -> bool;

    /// How much later than the scenario it hears of endpoints.
    fn lag(&self) -> Duration {
        Duration::ZERO
    }

    /// From now on, these are the service's endpoints.
    fn set_endpoints(&mut self, endpoints: &[Endpoint]) -> Result<()>;

    /// Starts it, also after a crash, and waits until it answers.
    fn start(&mut self) -> Result<()> {
        Ok(())
    }

    /// Starts what its upgrade replaces.
    fn start_former(&mut self, endpoints: &[Endpoint]) -> Result<()> {
        self.set_endpoints(endpoints)?;
        self.start()
    }

    /// Kills it with SIGKILL.
    fn crash(&mut self) -> Result<()> {
        bail!("it has no process")
    }

    /// Replaces it by its next version, or at least by another process of it.
    fn upgrade(&mut self) -> Result<()> {
        bail!("it has no process")
    }

    /// Packets by outcome, if it counts them.
    fn counters(&self) -> Result<Option<BTreeMap<String, u64>>> {
        Ok(None)
    }

    /// What of it is in the kernel.
    fn attached(&self) -> Result<Attached> {
        Ok(Attached::default())
    }
}

/// The kernel's own load balancing and proxies need the address on the node.
fn own_vip(site: &Site) -> Result<()> {
    Ok(site.lab.node.address(UPLINK, IpNet::V4(Ipv4Net::new(VIP, 32)?))?)
}

fn tcp_ports() -> impl Iterator<Item = Port> {
    PORTS.into_iter().filter(|port| port.protocol == Protocol::Tcp)
}

const fn protocol(port: Port) -> &'static str {
    match port.protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
    }
}
