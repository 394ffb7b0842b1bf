//! The load balancer's data plane with thousands of services, as the real loader sets it up.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Context as _, Result, ensure};
use aya::programs::ProgramFd;
use evenkeel_loader::{
    BackendSpec, DataPath, FrontendSpec, Hook as Attached, HookChoice, Interface, Options, Others, PIN_ROOT, State,
};
use evenkeel_maps::{FrontendKey, Outcome, SCHEMA_VERSION, TCP, UDP, Vip, map, program};
use evenkeel_plan::maglev::{Member, Roster, Seed, Table};

use super::{
    Forwarding,
    site::{self, SERVICE_PORT},
};
use crate::bench::harness::{self, Family, Hook};

/// The node's name, which is part of the pins' path.
const NODE: &str = "bench";
/// The services that packets go to, in the midst of the others.
const DIRECT: u16 = 2_500;
const STACK: u16 = 2_501;

/// The data plane, loaded and filled.
pub(super) struct Carrier {
    data_path: DataPath,
}

impl Carrier {
    /// Carries `services` services of each family in the namespace the calling thread is in.
    pub(super) fn load(services: u16, flows: u32) -> Result<Self> {
        let mut options = Options::new(NODE, 0x5eed);
        options.flows = flows;
        // An interface takes frames from another's XDP only if it has XDP too. The program for tc is loaded all the same.
        options.hooks = HookChoice { all: Some(Attached::Xdp), ..HookChoice::default() };
        let mut data_path = DataPath::open(&options)?;
        data_path.attach(&[Interface::look_up(site::UPLINK)?, Interface::look_up(site::DOWNLINK)?])?;
        let mut specs = Vec::new();
        let mut vips = HashMap::new();
        for service in 0..services {
            let near = service == DIRECT || service == STACK;
            // Of IPv6 those alone that packets go to: the others are there to fill the maps.
            for family in [Family::Ipv4, Family::Ipv6].into_iter().filter(|family| near || *family == Family::Ipv4) {
                let backends: Vec<SocketAddr> =
                    if near { site::backends(family).collect() } else { site::other_backends(service).collect() };
                let vip = site::vip(family, service);
                vips.insert(vip, Vip { answer_on: 1 });
                specs.push(frontend(vip, TCP, service != STACK, &backends));
                if near {
                    specs.push(frontend(vip, UDP, service != STACK, &backends));
                }
            }
        }
        let failures = data_path.set_frontends(&specs, Others::Remove, Instant::now());
        ensure!(failures.is_empty(), "{failures:?}");
        data_path.set_vips(&vips, Others::Remove)?;
        Ok(Self { data_path })
    }

    /// The program of a hook.
    pub(super) fn program(&self, hook: Hook) -> Result<ProgramFd> {
        let name = match hook {
            Hook::Xdp => program::XDP,
            Hook::Tc => program::INGRESS,
        };
        harness::program_on(&pin(map::VIPS), name)
    }

    /// Packets that ended so, all processors together.
    pub(super) fn counted(&self, outcome: Outcome) -> Result<u64> {
        let counters = self.data_path.counters()?;
        counters.iter().find(|(other, _)| *other == outcome).map(|(_, count)| *count).context("no such counter")
    }

    /// All outcomes, for messages.
    pub(super) fn counters(&self) -> Result<Vec<(Outcome, u64)>> {
        Ok(self.data_path.counters()?)
    }

    pub(super) fn uninstall(self) -> Result<()> {
        Ok(self.data_path.uninstall()?)
    }
}

/// The address and port of the service that is forwarded so.
pub(super) fn service(family: Family, forwarding: Forwarding) -> SocketAddr {
    let number = if forwarding == Forwarding::Direct { DIRECT } else { STACK };
    SocketAddr::new(site::vip(family, number), SERVICE_PORT)
}

fn pin(map: &str) -> PathBuf {
    Path::new(PIN_ROOT).join(NODE).join(format!("v{SCHEMA_VERSION}")).join(map)
}

fn frontend(vip: IpAddr, protocol: u8, direct: bool, backends: &[SocketAddr]) -> FrontendSpec {
    let members = backends.iter().map(|backend| Member { address: *backend, weight: 1 });
    let table = Table::new(Roster::new(members), Seed::default());
    FrontendSpec {
        direct,
        backends: table.members().iter().map(|member| BackendSpec::new(member.address, State::Active)).collect(),
        table: table.slots().to_vec(),
        ..FrontendSpec::new(FrontendKey::new(vip, SERVICE_PORT, protocol))
    }
}
