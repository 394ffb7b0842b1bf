//! iptables DNAT, every nth connection.

use std::{fmt::Write as _, fs, path::PathBuf, process::Command, time::Duration};

use anyhow::Result;
use evenkeel_lab::{Namespace, find_program, manifests::Protocol};

use super::{Endpoint, RULE_LAG, Subject, own_vip, protocol, ready};
use crate::site::{PORTS, Site, VIP};

pub(super) struct Iptables {
    node: Namespace,
    restore: PathBuf,
    file: PathBuf,
}

impl Iptables {
    pub(super) fn new(site: &Site) -> Result<Self> {
        own_vip(site)?;
        let node = site.lab.node.clone();
        let program = find_program("iptables", "iptables")?;
        for arguments in [["-N", "LB"].as_slice(), &["-A", "PREROUTING", "-j", "LB"]] {
            let mut command = Command::new(&program);
            command.args(["-w", "-t", "nat"]).args(arguments);
            node.run(command)?;
        }
        let restore = find_program("iptables-restore", "iptables")?;
        Ok(Self { node, restore, file: site.directory.path().join("rules") })
    }
}

impl Subject for Iptables {
    fn carries(&self, _: Protocol) -> bool {
        true
    }

    fn lag(&self) -> Duration {
        RULE_LAG
    }

    fn set_endpoints(&mut self, endpoints: &[Endpoint]) -> Result<()> {
        fs::write(&self.file, rules(endpoints)?)?;
        let mut command = Command::new(&self.restore);
        command.args(["-w", "--noflush"]).arg(&self.file);
        self.node.run(command)?;
        Ok(())
    }
}

/// The whole chain, replaced in one transaction.
fn rules(endpoints: &[Endpoint]) -> Result<String> {
    let backends = ready(endpoints);
    let mut rules = "*nat\n:LB - [0:0]\n".to_owned();
    for port in PORTS {
        let (protocol, from, to) = (protocol(port), port.port, port.target_port);
        for (index, backend) in backends.iter().enumerate() {
            // The first rule takes every nth connection, the second every (n-1)th of the rest, the last what is left.
            let (every, address) = (backends.len() - index, backend.address);
            writeln!(
                rules,
                "-A LB -d {VIP} -p {protocol} --dport {from} -m statistic --mode nth --every {every} --packet 0 \
                 -j DNAT --to-destination {address}:{to}"
            )?;
        }
    }
    rules.push_str("COMMIT\n");
    Ok(rules)
}
