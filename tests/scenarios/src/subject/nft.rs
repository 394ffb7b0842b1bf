//! nftables DNAT, round robin.

use std::{fmt::Write as _, path::PathBuf, process::Command, time::Duration};

use anyhow::Result;
use evenkeel_lab::{Namespace, find_program, manifests::Protocol};

use super::{Endpoint, RULE_LAG, Subject, own_vip, protocol, ready};
use crate::site::{PORTS, Site, VIP};

pub(super) struct Nft {
    node: Namespace,
    program: PathBuf,
}

impl Nft {
    pub(super) fn new(site: &Site) -> Result<Self> {
        own_vip(site)?;
        Ok(Self { node: site.lab.node.clone(), program: find_program("nft", "nftables")? })
    }
}

impl Subject for Nft {
    fn carries(&self, _: Protocol) -> bool {
        true
    }

    fn lag(&self) -> Duration {
        RULE_LAG
    }

    fn set_endpoints(&mut self, endpoints: &[Endpoint]) -> Result<()> {
        let mut command = Command::new(&self.program);
        command.arg(rules(endpoints)?);
        self.node.run(command)?;
        Ok(())
    }
}

/// The whole table, replaced in one transaction.
fn rules(endpoints: &[Endpoint]) -> Result<String> {
    let backends = ready(endpoints);
    let mut rules = "add table ip lb\ndelete table ip lb\ntable ip lb {\n".to_owned();
    let mut entry = "chain prerouting { type nat hook prerouting priority dstnat;\n".to_owned();
    for port in PORTS {
        let (protocol, name, target) = (protocol(port), port.name, port.target_port);
        let mut verdicts = Vec::new();
        for (index, backend) in backends.iter().enumerate() {
            writeln!(rules, "chain {name}{index} {{ ip protocol {protocol} dnat to {}:{target}; }}", backend.address)?;
            verdicts.push(format!("{index} : goto {name}{index}"));
        }
        writeln!(
            entry,
            "ip daddr {VIP} {protocol} dport {} numgen inc mod {} vmap {{ {} }};",
            port.port,
            verdicts.len(),
            verdicts.join(", ")
        )?;
    }
    Ok(format!("{rules}{entry}}}\n}}"))
}
