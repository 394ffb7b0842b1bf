//! Evenkeel at tcx, fed by a directory.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    path::Path,
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use evenkeel_lab::{
    Balancer, Child, Namespace, find_program,
    manifests::{self, Manifests, Protocol, Service, pool},
    topology::{NODE_NAME, POD_BRIDGE, UPLINK},
};
use evenkeel_maps::SCHEMA_VERSION;
use rustix::process::Signal;

use super::{Endpoint, START_TIMEOUT, Subject};
use crate::{
    attached::{Attached, pin_directory},
    processors::Side,
    site::{PORTS, Site, VIP, VIP6},
    version_1,
};

/// How packets go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forwarding {
    /// Straight to the backend's interface.
    Direct,
    /// Through the kernel's routing and firewall.
    Stack,
}

const ENDPOINTS_FILE: &str = "endpoints.yaml";
/// How long the process may take to be gone after SIGKILL.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

pub(super) struct Evenkeel {
    node: Namespace,
    manifests: Manifests,
    service: Service,
    balancer: Balancer,
    agent: Option<Child>,
}

impl Evenkeel {
    pub(super) fn new(site: &Site, program: &Path, forwarding: Forwarding, rescue: bool) -> Result<Self> {
        let directory = site.directory.path();
        let manifests = Manifests::create(directory)?;
        let service = Service {
            name: "scenario".to_owned(),
            addresses: vec![VIP.into(), VIP6.into()],
            ports: PORTS.into(),
            forwarding: None,
        };
        manifests.write("pool.yaml", &pool("scenario"))?;
        manifests.write("service.yaml", &service.manifest())?;
        let mut balancer = Balancer::new(program, manifests.directory(), directory);
        let forwarding = match forwarding {
            Forwarding::Direct => "direct",
            Forwarding::Stack => "stack",
        };
        let rescue = if rescue { "on" } else { "off" };
        balancer.arguments = ["--forwarding", forwarding, "--rescue", rescue].map(str::to_owned).into();
        Ok(Self { node: site.lab.node.clone(), manifests, service, balancer, agent: None })
    }
}

impl Subject for Evenkeel {
    fn addresses(&self) -> Vec<IpAddr> {
        self.service.addresses.clone()
    }

    fn carries(&self, _: Protocol) -> bool {
        true
    }

    fn set_endpoints(&mut self, endpoints: &[Endpoint]) -> Result<()> {
        let endpoints: Vec<manifests::Endpoint> = endpoints
            .iter()
            .map(|Endpoint { backend, condition }| manifests::Endpoint {
                name: backend.name.clone(),
                addresses: backend.addresses().into(),
                node: NODE_NAME.to_owned(),
                condition: *condition,
            })
            .collect();
        Ok(self.manifests.write(ENDPOINTS_FILE, &self.service.endpoint_slices(&endpoints))?)
    }

    /// With ordinary priority, whatever the lab has: no packet waits for the agent, and loading its programs takes a processor
    /// for a second.
    fn start(&mut self) -> Result<()> {
        let run = self.balancer.command();
        let mut command = Command::new(find_program("chrt", "util-linux")?);
        command.args(["--other", "0"]).arg(run.get_program()).args(run.get_args());
        let agent = self.node.spawn(Side::Agent.command(&command)?)?;
        agent.wait_for_line("ready", START_TIMEOUT)?;
        self.agent = Some(agent);
        Ok(())
    }

    /// What the release with the first layout of the maps left behind when its agent ended: its real object in the kernel.
    fn start_former(&mut self, endpoints: &[Endpoint]) -> Result<()> {
        self.set_endpoints(endpoints)?;
        let backends: Vec<Ipv4Addr> = endpoints.iter().map(|endpoint| endpoint.backend.address).collect();
        version_1::start(&self.node, &PORTS, &backends, &[UPLINK, POD_BRIDGE], "tcx")
    }

    fn crash(&mut self) -> Result<()> {
        let agent = self.agent.take().context("it does not run")?;
        agent.signal(Signal::KILL)?;
        agent.wait(STOP_TIMEOUT)?;
        Ok(())
    }

    fn upgrade(&mut self) -> Result<()> {
        ensure!(pin_directory(&self.node, 1).exists(), "the former version is not there");
        self.start()?;
        ensure!(!pin_directory(&self.node, 1).exists(), "the former version has left pins");
        ensure!(pin_directory(&self.node, SCHEMA_VERSION).exists(), "nothing is pinned");
        Ok(())
    }

    fn counters(&self) -> Result<Option<BTreeMap<String, u64>>> {
        let mut command = Command::new(&self.balancer.program);
        command.args(["status", "-o", "json", "--admin"]).arg(format!("unix:{}", self.balancer.admin.display()));
        let text = self.node.run(command)?;
        let status: serde_json::Value = serde_json::from_str(&text).context("the status is not JSON")?;
        Ok(Some(serde_json::from_value(status["counters"].clone()).context("the status has no counters")?))
    }

    fn attached(&self) -> Result<Attached> {
        Attached::of(&self.node)
    }
}
