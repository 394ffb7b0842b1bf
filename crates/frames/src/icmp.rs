//! Words for ICMP and ICMPv6 types and codes.

use crate::frame::Icmp;

/// What the four bytes after the checksum are.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rest {
    /// Zero.
    Unused,
    /// Identifier and sequence number.
    Echo,
    /// MTU in the lower half.
    ShortMtu,
    /// MTU.
    Mtu,
    /// Pointer in the first byte.
    ShortPointer,
    /// Pointer.
    Pointer,
    /// R, S and O flags in the upper three bits.
    Advertisement,
}

/// A type, with its codes and what follows.
pub(crate) struct Kind {
    pub(crate) number: u8,
    pub(crate) name: &'static str,
    pub(crate) codes: &'static [(u8, &'static str)],
    pub(crate) rest: Rest,
}

const fn kind(number: u8, name: &'static str, codes: &'static [(u8, &'static str)], rest: Rest) -> Kind {
    Kind { number, name, codes, rest }
}

const V4: &[Kind] = &[
    kind(0, "echo-reply", &[], Rest::Echo),
    kind(
        3,
        "unreachable",
        &[(0, "net"), (1, "host"), (2, "protocol"), (3, "port"), (4, "frag-needed"), (13, "prohibited")],
        Rest::ShortMtu,
    ),
    kind(4, "source-quench", &[], Rest::Unused),
    kind(8, "echo-request", &[], Rest::Echo),
    kind(11, "time-exceeded", &[(0, "transit"), (1, "reassembly")], Rest::Unused),
    kind(12, "parameter-problem", &[(0, "pointed")], Rest::ShortPointer),
];

const V6: &[Kind] = &[
    kind(
        1,
        "unreachable",
        &[
            (0, "no-route"),
            (1, "prohibited"),
            (2, "beyond-scope"),
            (3, "address"),
            (4, "port"),
            (5, "policy"),
            (6, "reject-route"),
        ],
        Rest::Unused,
    ),
    kind(2, "too-big", &[], Rest::Mtu),
    kind(3, "time-exceeded", &[(0, "transit"), (1, "reassembly")], Rest::Unused),
    kind(4, "parameter-problem", &[(0, "header"), (1, "next"), (2, "option")], Rest::Pointer),
    kind(128, "echo-request", &[], Rest::Echo),
    kind(129, "echo-reply", &[], Rest::Echo),
    kind(ROUTER_SOLICITATION, "router-solicitation", &[], Rest::Unused),
    kind(NEIGHBOR_SOLICITATION, "neighbor-solicitation", &[], Rest::Unused),
    kind(NEIGHBOR_ADVERTISEMENT, "neighbor-advertisement", &[], Rest::Advertisement),
];

const ROUTER_SOLICITATION: u8 = 133;
const NEIGHBOR_SOLICITATION: u8 = 135;
const NEIGHBOR_ADVERTISEMENT: u8 = 136;

pub(crate) const fn kinds(v6: bool) -> &'static [Kind] {
    if v6 { V6 } else { V4 }
}

/// The kind with a name, if `icmp` is no more than its words say.
pub(crate) fn named(icmp: &Icmp, v6: bool) -> Option<&'static Kind> {
    let kind = kinds(v6).iter().find(|kind| kind.number == icmp.kind)?;
    let [a, b, c, d] = icmp.rest;
    let sayable = match kind.rest {
        Rest::Unused => (a, b, c, d) == (0, 0, 0, 0),
        Rest::ShortMtu => (a, b) == (0, 0),
        Rest::ShortPointer => (b, c, d) == (0, 0, 0),
        Rest::Advertisement => (a & 0x1f, b, c, d) == (0, 0, 0, 0),
        Rest::Echo | Rest::Mtu | Rest::Pointer => true,
    };
    sayable.then_some(kind)
}

/// Whether a message of this type carries the packet it is about.
pub(crate) const fn quotes(kind: u8, v6: bool) -> bool {
    if v6 { matches!(kind, 1..=4) } else { matches!(kind, 3 | 4 | 5 | 11 | 12) }
}

/// Whether an ICMPv6 message of this type has the options of neighbour discovery.
pub(crate) const fn is_discovery(kind: u8) -> bool {
    matches!(kind, ROUTER_SOLICITATION | NEIGHBOR_SOLICITATION | NEIGHBOR_ADVERTISEMENT)
}

/// Whether an ICMPv6 message of neighbour discovery names a target.
pub(crate) const fn has_target(kind: u8) -> bool {
    matches!(kind, NEIGHBOR_SOLICITATION | NEIGHBOR_ADVERTISEMENT)
}
