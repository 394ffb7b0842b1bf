//! Beside what else is in a cluster's nodes: rules as kube-proxy's modes write them, a firewall that drops what conntrack
//! calls invalid, and a policy, as rules, that denies a port.

use std::{
    fmt::Write as _,
    fs,
    net::{IpAddr, SocketAddr, TcpStream},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use evenkeel_lab::Sandbox;
use evenkeel_probe::LaneKind;

use crate::{
    Test, client,
    cluster::{Cluster, DATAGRAMS, ECHO, Node, PORT, TARGET_PORT, VIP, VIP6},
    world::{self, eventually},
};

pub(crate) const TESTS: &[Test] = &[
    ("coexistence::with_kube_proxy_by_iptables", |sandbox| beside(sandbox, iptables)),
    ("coexistence::with_kube_proxy_by_nftables", |sandbox| beside(sandbox, nftables)),
    ("coexistence::ports_that_rest_are_the_hosts", ports_that_rest_are_the_hosts),
];

/// Puts the rules of one node in place, with these pods behind the service.
type Rules = fn(&Cluster, &Node) -> anyhow::Result<()>;

/// How long a connection that is denied is waited for.
const PATIENCE: Duration = Duration::from_millis(300);
const NODES: u8 = 3;

fn beside(sandbox: &Sandbox, rules: Rules) -> anyhow::Result<()> {
    let cluster = Cluster::start(sandbox, NODES)?;
    cluster.await_owner(VIP6, |_| true)?;
    for node in &cluster.nodes {
        rules(&cluster, node)?;
        deny(&cluster, node)?;
    }
    let vips = [IpAddr::from(VIP), VIP6.into()];
    let kinds = [LaneKind::Http, LaneKind::HttpKeepalive, LaneKind::Udp, LaneKind::UdpFixed];
    let load = cluster.load(&vips, &kinds)?;
    world::go_on(&load, 60)?;
    for vip in vips {
        // What is denied stays so on every node, whichever way it comes.
        eventually(&format!("every node has denied something to {vip}"), || {
            let target = SocketAddr::new(vip, ECHO);
            let connected = cluster.client.enter(|| TcpStream::connect_timeout(&target, PATIENCE))?;
            ensure!(connected.is_err(), "{target} is denied, and was reached");
            let denied = cluster.nodes.iter().map(|node| denied(node, vip)).collect::<anyhow::Result<Vec<_>>>()?;
            Ok(denied.iter().all(|denied| *denied > 0).then_some(()))
        })?;
        for node in &cluster.nodes {
            ensure!(of_kube_proxy(node, vip)? == 0, "kube-proxy's rules for {vip} met what came to {}", node.name);
        }
    }
    // Pods and nodes get there by kube-proxy's rules.
    for vip in vips {
        for node in &cluster.nodes {
            for from in [&node.pod, &node.namespace] {
                client::get(from, (vip, PORT)).with_context(|| format!("from {} to {vip}", from.name()))?;
            }
            ensure!(of_kube_proxy(node, vip)? > 0, "not by kube-proxy's rules on {}", node.name);
        }
        let mut met = std::collections::BTreeSet::new();
        eventually(&format!("every pod is met by way of {vip}"), || {
            met.insert(client::server_of(&cluster.client, (vip, PORT))?);
            Ok((met.len() == usize::from(NODES)).then_some(()))
        })?;
    }
    world::go_on(&load, 60)?;
    world::ensure_nothing_lost(load).with_context(|| cluster.counters())?;
    Ok(())
}

/// Connections of the host's by ports that stood for clients' a moment ago, as masquerading makes them (`--random-fully`).
fn ports_that_rest_are_the_hosts(sandbox: &Sandbox) -> anyhow::Result<()> {
    let cluster = Cluster::start(sandbox, 2)?;
    for vip in [IpAddr::from(VIP), VIP6.into()] {
        let owner = cluster.await_owner(vip, |_| true)?;
        // About half of them meet the pod of the other node, by an address and a port of the owner's.
        for _ in 0..100 {
            client::get(&cluster.client, (vip, PORT))?;
        }
        let (own, other) = (&cluster.nodes[owner], &cluster.nodes[1 - owner]);
        let family = usize::from(vip.is_ipv6());
        let (from, pod) = (own.addresses()[family], other.pod_addresses()[family]);
        for port in (61_000..=65_535).step_by(9) {
            let source = SocketAddr::new(from, port);
            client::get_from(&own.namespace, source, (pod, TARGET_PORT))
                .with_context(|| format!("from {source} to {pod}"))?;
        }
    }
    Ok(())
}

/// What drops by conntrack's opinion, and what a policy that denies a port of all pods comes to, in the table of a network plugin.
fn deny(cluster: &Cluster, node: &Node) -> anyhow::Result<()> {
    let rules = format!(
        "table inet plugin {{
            counter invalid {{}}
            counter denied4 {{}}
            counter denied6 {{}}
            chain forward {{
                type filter hook forward priority filter - 1; policy accept;
                ct state invalid counter name invalid drop
                oifname pods meta nfproto ipv4 tcp dport {ECHO} counter name denied4 drop
                oifname pods meta nfproto ipv6 tcp dport {ECHO} counter name denied6 drop
            }}
        }}"
    );
    nft(cluster, node, "plugin", &rules)
}

fn denied(node: &Node, vip: IpAddr) -> anyhow::Result<u64> {
    counter(node, "inet", "plugin", if vip.is_ipv4() { "denied4" } else { "denied6" })
}

/// Packets of connections that kube-proxy's rules for an address have met, in either mode.
fn of_kube_proxy(node: &Node, vip: IpAddr) -> anyhow::Result<u64> {
    if let Ok(count) = counter(node, if vip.is_ipv4() { "ip" } else { "ip6" }, "kube-proxy", "met") {
        return Ok(count);
    }
    let mut command = Command::new(if vip.is_ipv4() { "iptables" } else { "ip6tables" });
    command.args(["-t", "nat", "-nvx", "-L", "KUBE-EXT-SHOP"]);
    let listed = node.namespace.run(command)?;
    let first = listed.lines().nth(2).context("no rules")?;
    Ok(first.split_whitespace().next().unwrap_or_default().parse()?)
}

fn counter(node: &Node, family: &str, table: &str, name: &str) -> anyhow::Result<u64> {
    let mut command = Command::new("nft");
    command.args(["-j", "list", "counter", family, table, name]);
    let listed: serde_json::Value = serde_json::from_str(&node.namespace.run(command)?)?;
    listed["nftables"][1]["counter"]["packets"].as_u64().context("no counter")
}

fn nft(cluster: &Cluster, node: &Node, name: &str, rules: &str) -> anyhow::Result<()> {
    let file = cluster.directory.path().join(format!("{}-{name}.nft", node.name));
    fs::write(&file, rules)?;
    let mut command = Command::new("nft");
    command.arg("-f").arg(file);
    Ok(node.namespace.run(command).map(drop)?)
}

/// The service's ports: protocol, port, and port of the pods.
const PORTS: [(&str, u16, u16); 3] = [("tcp", PORT, TARGET_PORT), ("tcp", ECHO, ECHO), ("udp", DATAGRAMS, DATAGRAMS)];

fn pods(cluster: &Cluster, is_v4: bool) -> Vec<String> {
    let address = |node: &Node| node.pod_addresses()[usize::from(!is_v4)].to_string();
    cluster.nodes.iter().map(address).collect()
}

/// The rules of kube-proxy's mode `iptables` for the service's addresses.
fn iptables(cluster: &Cluster, node: &Node) -> anyhow::Result<()> {
    for (vip, program) in [(IpAddr::from(VIP), "iptables-restore"), (VIP6.into(), "ip6tables-restore")] {
        let is_v4 = vip.is_ipv4();
        let (length, pods) = (if is_v4 { 32 } else { 128 }, pods(cluster, is_v4));
        let mut rules = "*filter
:KUBE-FORWARD - [0:0]
:KUBE-PROXY-FIREWALL - [0:0]
-A INPUT -m conntrack --ctstate NEW -j KUBE-PROXY-FIREWALL
-A FORWARD -m conntrack --ctstate NEW -j KUBE-PROXY-FIREWALL
-A FORWARD -m comment --comment \"kubernetes forwarding rules\" -j KUBE-FORWARD
-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
-A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT
-A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
COMMIT
*nat
:KUBE-SERVICES - [0:0]
:KUBE-EXT-SHOP - [0:0]
:KUBE-MARK-MASQ - [0:0]
:KUBE-POSTROUTING - [0:0]
-A PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES
-A OUTPUT -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES
-A POSTROUTING -m comment --comment \"kubernetes postrouting rules\" -j KUBE-POSTROUTING
-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0
-A KUBE-POSTROUTING -j MASQUERADE --random-fully
-A KUBE-EXT-SHOP -m comment --comment \"masquerade traffic for default/shop external destinations\" -j KUBE-MARK-MASQ
"
        .to_owned();
        for (n, (protocol, port, target)) in PORTS.iter().enumerate() {
            writeln!(rules, ":KUBE-SVC-{n} - [0:0]")?;
            writeln!(
                rules,
                "-A KUBE-SERVICES -d {vip}/{length} -p {protocol} -m {protocol} --dport {port} -j KUBE-EXT-SHOP"
            )?;
            writeln!(rules, "-A KUBE-EXT-SHOP -p {protocol} -m {protocol} --dport {port} -j KUBE-SVC-{n}")?;
            for (pod, address) in pods.iter().enumerate() {
                let left = pods.len() - pod;
                let chance = match left {
                    1 => String::new(),
                    left => format!(
                        "-m statistic --mode random --probability {:.10} ",
                        1.0 / f64::from(u8::try_from(left)?)
                    ),
                };
                let to = SocketAddr::new(address.parse()?, *target);
                writeln!(rules, ":KUBE-SEP-{n}-{pod} - [0:0]")?;
                writeln!(rules, "-A KUBE-SVC-{n} {chance}-j KUBE-SEP-{n}-{pod}")?;
                writeln!(rules, "-A KUBE-SEP-{n}-{pod} -s {address}/{length} -j KUBE-MARK-MASQ")?;
                writeln!(rules, "-A KUBE-SEP-{n}-{pod} -p {protocol} -m {protocol} -j DNAT --to-destination {to}")?;
            }
        }
        rules.push_str("COMMIT\n");
        let file = cluster.directory.path().join(format!("{}-{program}", node.name));
        fs::write(&file, rules)?;
        let mut command = Command::new(program);
        command.arg("--noflush").arg(file);
        node.namespace.run(command)?;
    }
    Ok(())
}

/// The rules of kube-proxy's mode `nftables` for the service's addresses.
fn nftables(cluster: &Cluster, node: &Node) -> anyhow::Result<()> {
    for (vip, ip, kind) in [(IpAddr::from(VIP), "ip", "ipv4_addr"), (VIP6.into(), "ip6", "ipv6_addr")] {
        let pods = pods(cluster, vip.is_ipv4());
        let mut chains = String::new();
        let mut elements = Vec::new();
        for (n, (protocol, port, target)) in PORTS.iter().enumerate() {
            let mut endpoints = Vec::new();
            for (pod, address) in pods.iter().enumerate() {
                let to = SocketAddr::new(address.parse()?, *target);
                write!(
                    chains,
                    "chain endpoint-{n}-{pod} {{
                        {ip} saddr {address} jump mark-for-masquerade
                        meta l4proto {protocol} dnat to {to}
                    }}\n"
                )?;
                endpoints.push(format!("{pod} : goto endpoint-{n}-{pod}"));
            }
            write!(
                chains,
                "chain service-{n} {{ numgen random mod {} vmap {{ {} }}; }}
                chain external-{n} {{ counter name met; jump mark-for-masquerade; goto service-{n}; }}\n",
                pods.len(),
                endpoints.join(", ")
            )?;
            elements.push(format!("{vip} . {protocol} . {port} : goto external-{n}"));
        }
        let rules = format!(
            "table {ip} kube-proxy {{
                counter met {{}}
                chain mark-for-masquerade {{ meta mark set meta mark or 0x4000; }}
                {chains}
                map service-ips {{
                    type {kind} . inet_proto . inet_service : verdict
                    elements = {{ {} }}
                }}
                chain services {{ {ip} daddr . meta l4proto . th dport vmap @service-ips; }}
                chain nat-prerouting {{ type nat hook prerouting priority dstnat; policy accept; jump services; }}
                chain nat-output {{ type nat hook output priority -100; policy accept; jump services; }}
                chain nat-postrouting {{
                    type nat hook postrouting priority srcnat; policy accept;
                    meta mark & 0x4000 == 0 return
                    meta mark set meta mark xor 0x4000
                    masquerade fully-random
                }}
                chain filter-forward {{
                    type filter hook forward priority -110; policy accept;
                    ct state invalid drop
                }}
            }}",
            elements.join(", ")
        );
        nft(cluster, node, &format!("kube-proxy-{ip}"), &rules)?;
    }
    Ok(())
}
