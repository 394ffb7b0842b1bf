//! A [`Setup`] as manifests that people can read.

use std::fmt::Write as _;
use std::net::IpAddr;

use evenkeel_manifest::diagnostic::printable;
use evenkeel_plan::range::IpFamily;

use crate::setup::{Addresses, Endpoints, Health, Service, Setup, Slice, families};

/// The name of the pool of addresses of their own, and the key by which services share them. Each import's is its own: there may
/// be several in one directory.
fn pool_name(setup: &Setup) -> String {
    let address = setup.vips.first().map(ToString::to_string).unwrap_or_default();
    format!("imported-{}", address.replace(['.', ':'], "-").trim_end_matches('-'))
}

pub(crate) fn manifests(setup: &Setup) -> String {
    let mut text = format!("# From {}. To carry this:\n#   {}\n", setup.origin, command(setup));
    let at_vips = setup.services.iter().any(|service| matches!(service.addresses, Addresses::Vips));
    if at_vips {
        pool(&mut text, setup);
    }
    for one in &setup.services {
        text += "---\n";
        service(&mut text, one, setup);
        if let Endpoints::Listed(slices) = &one.endpoints {
            for (n, one_slice) in slices.iter().enumerate() {
                text += "---\n";
                slice(&mut text, one, one_slice, n + 1);
            }
        }
    }
    text
}

/// The command line that goes with it.
fn command(setup: &Setup) -> String {
    let mut command = "evenkeel run DIRECTORY --node NAME".to_owned();
    if !setup.interfaces.is_empty() {
        _ = write!(command, " --interface {}", setup.interfaces.join(","));
    }
    if let Some(listen) = setup.listen {
        _ = write!(command, " --listen {listen}");
    }
    if let Some(seconds) = setup.shutdown_seconds {
        _ = write!(command, " --shutdown-timeout {seconds}s");
    }
    command
}

fn pool(text: &mut String, setup: &Setup) {
    let name = pool_name(setup);
    *text += "---\napiVersion: metallb.io/v1beta1\nkind: IPAddressPool\nmetadata:\n";
    _ = writeln!(text, "  name: {name}\n  namespace: metallb-system\nspec:\n  autoAssign: false\n  addresses:");
    for vip in &setup.vips {
        _ = writeln!(text, "  - {vip}/{}", if vip.is_ipv4() { 32 } else { 128 });
    }
    if setup.announced {
        *text += "---\napiVersion: metallb.io/v1beta1\nkind: L2Advertisement\nmetadata:\n";
        _ = writeln!(text, "  name: {name}\n  namespace: metallb-system\nspec:\n  ipAddressPools:\n  - {name}");
    }
}

fn service(text: &mut String, service: &Service, setup: &Setup) {
    if matches!(service.endpoints, Endpoints::Cluster) {
        *text += "# This Service is there already: merge this into its manifest, which has its selector.\n";
    }
    let Service { namespace, name, .. } = service;
    _ = writeln!(text, "apiVersion: v1\nkind: Service\nmetadata:\n  name: {name}\n  namespace: {namespace}");
    *text += "  annotations:\n";
    let families = match &service.addresses {
        Addresses::Node { only, families } => {
            *text += "    evenkeel.io/addresses: node # its own, which other ports keep\n";
            addresses(text, only);
            families.clone()
        }
        Addresses::Vips => {
            addresses(text, &setup.vips);
            // With each other, and with whatever else is to be there.
            _ = writeln!(text, "    metallb.io/allow-shared-ip: {}", pool_name(setup));
            families(setup.vips.iter().copied())
        }
    };
    if service.per_packet {
        *text += "    evenkeel.io/balancing: per-packet # each datagram to the next receiver; nobody answers\n";
    }
    if let Some(checks) = &service.health {
        health(text, checks);
    }
    *text += "spec:\n  type: LoadBalancer\n";
    family_policy(text, &families);
    *text += "  ports:\n";
    let protocol = if service.udp { "UDP" } else { "TCP" };
    for port in &service.ports {
        _ = writeln!(text, "  - name: {}\n    protocol: {protocol}\n    port: {}", port.name, port.port);
        if port.target != port.port {
            _ = writeln!(text, "    targetPort: {}", port.target);
        }
    }
}

fn addresses(text: &mut String, addresses: &[IpAddr]) {
    if !addresses.is_empty() {
        let shown: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        _ = writeln!(text, "    metallb.io/loadBalancerIPs: \"{}\"", shown.join(","));
    }
}

fn family_policy(text: &mut String, families: &[IpFamily]) {
    let policy = if families.len() > 1 { "PreferDualStack" } else { "SingleStack" };
    _ = writeln!(text, "  ipFamilyPolicy: {policy}\n  ipFamilies:");
    for family in families {
        _ = writeln!(text, "  - {family}");
    }
}

fn health(text: &mut String, Health { check, interval_seconds, timeout_seconds, rise, fall }: &Health) {
    _ = writeln!(text, "    evenkeel.io/health-check: {check}");
    _ = writeln!(text, "    evenkeel.io/health-interval: {interval_seconds}s");
    _ = writeln!(text, "    evenkeel.io/health-timeout: {timeout_seconds}s");
    _ = writeln!(text, "    evenkeel.io/health-healthy-after: \"{rise}\"");
    _ = writeln!(text, "    evenkeel.io/health-unhealthy-after: \"{fall}\"");
}

fn slice(text: &mut String, service: &Service, slice: &Slice, n: usize) {
    let Service { namespace, name, .. } = service;
    *text += "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n";
    _ = writeln!(text, "  name: {name}-{n}\n  namespace: {namespace}");
    if service.health.is_none() {
        *text += "  annotations:\n    lint.evenkeel.io/ZD28: \"nobody checked these before either (health.enabled: false)\"\n";
    }
    _ = writeln!(text, "  labels:\n    kubernetes.io/service-name: {name}\naddressType: {}\nports:", slice.family);
    let protocol = if service.udp { "UDP" } else { "TCP" };
    for (name, port) in &slice.ports {
        _ = writeln!(text, "- name: {name}\n  protocol: {protocol}\n  port: {port}");
    }
    *text += "endpoints:\n";
    for (address, name) in &slice.endpoints {
        let name = printable(name);
        let comment = if name.trim().is_empty() { String::new() } else { format!(" # {}", name.trim()) };
        _ = writeln!(text, "- addresses: [\"{address}\"]{comment}\n  conditions: {{ready: true}}");
    }
}
