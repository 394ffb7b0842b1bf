//! What a configuration comes to, whoever's it was.

use std::net::{IpAddr, SocketAddr};

use evenkeel_plan::range::IpFamily;

use crate::Options;
use crate::read::{Field, Reader, Values as _};

/// All that is to run on a node.
#[derive(Clone, Debug, Default)]
pub(crate) struct Setup {
    /// Whose configuration it was.
    pub(crate) origin: &'static str,
    pub(crate) services: Vec<Service>,
    /// Addresses of their own, with whether they are announced.
    pub(crate) vips: Vec<IpAddr>,
    pub(crate) announced: bool,
    /// Flags of `evenkeel run` that are part of it.
    pub(crate) interfaces: Vec<String>,
    pub(crate) listen: Option<SocketAddr>,
    pub(crate) shutdown_seconds: Option<u32>,
}

#[derive(Clone, Debug)]
pub(crate) struct Service {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) addresses: Addresses,
    pub(crate) ports: Vec<Port>,
    pub(crate) udp: bool,
    pub(crate) per_packet: bool,
    pub(crate) health: Option<Health>,
    pub(crate) endpoints: Endpoints,
}

#[derive(Clone, Debug)]
pub(crate) enum Addresses {
    /// The node's own: of these families, or some in particular.
    Node { only: Vec<IpAddr>, families: Vec<IpFamily> },
    /// Those given on the command line.
    Vips,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Port {
    pub(crate) name: String,
    pub(crate) port: u16,
    pub(crate) target: u16,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Health {
    pub(crate) check: &'static str,
    pub(crate) interval_seconds: u32,
    pub(crate) timeout_seconds: u32,
    /// Checks in a row that decide.
    pub(crate) rise: u32,
    pub(crate) fall: u32,
}

#[derive(Clone, Debug)]
pub(crate) enum Endpoints {
    /// Written down.
    Listed(Vec<Slice>),
    /// Those of a Service of the cluster's.
    Cluster,
}

/// Endpoints of one family with the same ports.
#[derive(Clone, Debug)]
pub(crate) struct Slice {
    pub(crate) family: IpFamily,
    pub(crate) ports: Vec<(String, u16)>,
    /// Each with what it is called.
    pub(crate) endpoints: Vec<(IpAddr, String)>,
}

impl Setup {
    pub(crate) fn new(origin: &'static str, options: &Options) -> Self {
        Self { origin, vips: options.vips.clone(), announced: !options.announced_elsewhere, ..Self::default() }
    }
}

/// The families of some addresses, IPv4 first.
pub(crate) fn families(addresses: impl Iterator<Item = IpAddr>) -> Vec<IpFamily> {
    let mut families: Vec<IpFamily> = addresses.map(IpFamily::of).collect();
    families.sort_unstable();
    families.dedup();
    families
}

/// Whether nothing can be reached there from outside.
pub(crate) fn is_unreachable(address: IpAddr) -> bool {
    address.is_loopback() || address.is_unspecified() || address.is_multicast()
}

/// A name that Kubernetes takes (RFC 1123 label) and starts with a letter, as those of Services do; one that was not is said.
pub(crate) fn label(reader: &mut Reader<'_>, field: &Field<'_>, prefix: &str) -> Option<String> {
    const MAX_LENGTH: usize = 63;
    let text = field.text(reader)?;
    let made = as_label(text, prefix, MAX_LENGTH);
    if made != text {
        let message = "this is no name that Kubernetes takes".to_owned();
        reader.not_translated(field, message, format!("it became `{made}`; call it otherwise there if you like"));
    }
    Some(made)
}

pub(crate) fn as_label(text: &str, prefix: &str, most: usize) -> String {
    let mut made = String::new();
    for c in text.chars().take(most) {
        match c.to_ascii_lowercase() {
            c @ ('a'..='z' | '0'..='9') => made.push(c),
            _ if made.ends_with('-') || made.is_empty() => {}
            _ => made.push('-'),
        }
    }
    if !made.starts_with(|c: char| c.is_ascii_lowercase()) {
        made = if made.is_empty() { prefix.to_owned() } else { format!("{prefix}-{made}") };
    }
    made.truncate(most);
    made.trim_end_matches('-').to_owned()
}
