//! The one counted outcome of every packet.

/// What happens to the packet besides being counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Goes on to the kernel as it came, or rewritten for the kernel to route.
    Pass,
    /// Left through an interface by the program's own hand.
    Redirect,
    /// Dropped, for the reason the outcome names.
    Drop,
}

macro_rules! outcomes {
    ($( $(#[$doc:meta])+ $variant:ident = $name:literal => $verdict:ident ),+ $(,)?) => {
        /// Every run of a program ends in exactly one of these; the names are those of status, metrics and tests.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u32)]
        pub enum Outcome { $( $(#[$doc])+ $variant ),+ }

        impl Outcome {
            /// All outcomes in the order of their counters.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The name shared by status, metrics and tests.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),+ }
            }

            /// What happens to the packet.
            #[inline(always)]
            #[must_use]
            pub const fn verdict(self) -> Verdict {
                match self { $(Self::$variant => Verdict::$verdict),+ }
            }
        }
    };
}

outcomes! {
    /// First packet of a flow, forwarded directly.
    ForwardNew = "forward_new" => Redirect,
    /// Packet of a known flow, forwarded directly.
    ForwardFlow = "forward_flow" => Redirect,
    /// Packet of a TCP flow that began elsewhere or was forgotten, forwarded directly to the backend the table gives.
    ForwardMidstream = "forward_midstream" => Redirect,
    /// First packet of a flow, rewritten and left to the kernel's routing.
    StackNew = "stack_new" => Pass,
    /// Packet of a known flow, rewritten and left to the kernel's routing.
    StackFlow = "stack_flow" => Pass,
    /// As `forward_midstream`, rewritten and left to the kernel's routing.
    StackMidstream = "stack_midstream" => Pass,
    /// Reply met at ingress: source restored to the VIP and sent on directly.
    ReplyDirect = "reply_direct" => Redirect,
    /// Reply met at ingress: restored, and left to the kernel's routing.
    ReplyStack = "reply_stack" => Pass,
    /// Reply met at egress: source restored to the VIP.
    ReplyRestored = "reply_restored" => Pass,
    /// ICMP error about a reply, sent on directly to the backend that sent the reply.
    IcmpForward = "icmp_forward" => Redirect,
    /// As `icmp_forward`, left to the kernel's routing.
    IcmpStack = "icmp_stack" => Pass,
    /// ICMP error about a client's packet: what it quotes is restored to what the client sent.
    IcmpRestored = "icmp_restored" => Pass,
    /// As `icmp_restored`, sent on directly.
    IcmpReply = "icmp_reply" => Redirect,
    /// ARP request for an owned VIP answered.
    ArpAnswered = "arp_answered" => Redirect,
    /// Another host claims a VIP that this node owns, by ARP.
    ArpConflict = "arp_conflict" => Pass,
    /// Neighbour solicitation for an owned VIP answered.
    NdpAnswered = "ndp_answered" => Redirect,
    /// Another host claims a VIP that this node owns, by a neighbour advertisement.
    NdpConflict = "ndp_conflict" => Pass,
    /// Echo request to an owned VIP answered.
    EchoAnswered = "echo_answered" => Redirect,
    /// To a VIP port that has no frontend: refused with a TCP reset.
    RefusedReset = "refused_reset" => Redirect,
    /// To a VIP port that has no frontend: refused with an ICMP error, port unreachable.
    RefusedUnreachable = "refused_unreachable" => Redirect,
    /// Packet of an established flow whose backend is gone: reset.
    ResetBackendGone = "reset_backend_gone" => Redirect,
    /// What would have been balanced, in observe-only mode.
    Observed = "observed" => Pass,
    /// Passed because of the bypass.
    Bypassed = "bypassed" => Pass,
    /// Neither IP nor ARP.
    PassNotIp = "pass_not_ip" => Pass,
    /// ARP that does not concern an owned VIP.
    PassArp = "pass_arp" => Pass,
    /// Carries a VLAN tag: belongs to another interface.
    PassVlan = "pass_vlan" => Pass,
    /// Addressed to another host's hardware address.
    PassOtherHost = "pass_other_host" => Pass,
    /// Shorter than its headers claim.
    PassMalformed = "pass_malformed" => Pass,
    /// To no VIP, and no reply.
    PassNotVip = "pass_not_vip" => Pass,
    /// SCTP to a VIP, which is not balanced.
    PassSctp = "pass_sctp" => Pass,
    /// Leaves the node and is no reply of a flow.
    PassEgress = "pass_egress" => Pass,
    /// To a VIP port that has no frontend; nothing answers it: a reset, or more refusals than allowed.
    DropNoFrontend = "drop_no_frontend" => Drop,
    /// No backend takes new flows.
    DropNoBackend = "drop_no_backend" => Drop,
    /// The flow's backend is gone and its slot belongs to another.
    DropBackendGone = "drop_backend_gone" => Drop,
    /// Every backend tried already talks to this client address and port for another frontend.
    DropTupleInUse = "drop_tuple_in_use" => Drop,
    /// No port is left that could stand for the client's towards this backend.
    DropSourcePorts = "drop_source_ports" => Drop,
    /// From an address that cannot be a client's: unspecified, loopback, multicast, broadcast, or the VIP itself.
    DropSource = "drop_source" => Drop,
    /// The client is in none of the service's source ranges.
    DropSourceRange = "drop_source_range" => Drop,
    /// The service has as many flows as it may have.
    DropConnectionLimit = "drop_connection_limit" => Drop,
    /// The service gets more new flows a second than it may.
    DropConnectionRate = "drop_connection_rate" => Drop,
    /// The flow table has no room that could be given away.
    DropFlowTable = "drop_flow_table" => Drop,
    /// Later fragment of a datagram whose first fragment, which alone has the ports, has not been seen.
    DropFragment = "drop_fragment" => Drop,
    /// To a VIP by a protocol that is not balanced.
    DropProtocol = "drop_protocol" => Drop,
    /// ICMP error to a VIP that quotes no packet of a flow.
    DropIcmp = "drop_icmp" => Drop,
    /// To a VIP, but shorter than its headers claim.
    DropMalformed = "drop_malformed" => Drop,
    /// Time to live used up.
    DropTtl = "drop_ttl" => Drop,
    /// The route to the backend or the client says unreachable, prohibited or blackhole.
    DropUnroutable = "drop_unroutable" => Drop,
    /// A header could not be rewritten.
    DropRewrite = "drop_rewrite" => Drop,
    /// ARP request or neighbour solicitation for an owned VIP, not answered because another host claims the VIP.
    PassYielded = "pass_yielded" => Pass,
    /// ARP request or neighbour solicitation for an owned VIP, not answered because no agent has attended to it for too long.
    PassUnattended = "pass_unattended" => Pass,
    /// ARP request or neighbour solicitation to all for an owned VIP, not answered because this node is withdrawing.
    PassWithdrawn = "pass_withdrawn" => Pass,
    /// A backend's refusal (RST) turned into the client's SYN again, and that sent to another backend; with `stack`, handed to
    /// the kernel as if it had just arrived.
    RescuedSyn = "rescued_syn" => Redirect,
    /// As `rescued_syn`, met where it arrived and left to the kernel's routing.
    RescuedSynStack = "rescued_syn_stack" => Pass,
    /// A SYN that came again without an answer, sent to another backend.
    RepickedSyn = "repicked_syn" => Redirect,
    /// As `repicked_syn`, left to the kernel's routing.
    RepickedSynStack = "repicked_syn_stack" => Pass,
    /// A backend's refusal that goes to the client, because no other backend is left to try.
    RescueExhausted = "rescue_exhausted" => Pass,
    /// A backend's refusal that is sent on to the client directly; among what its frontend refused, `rescue_exhausted` or
    /// `rescue_excluded_data` says why.
    RefusalDirect = "refusal_direct" => Redirect,
    /// A backend's refusal that goes to the client, because its SYN carried data.
    RescueExcludedData = "rescue_excluded_data" => Pass,
    /// Answer to a SYN from a backend that the flow has left: that backend is reset.
    ResetLateAnswer = "reset_late_answer" => Redirect,
    /// An ICMP error, port unreachable, turned into the datagram it quotes, and that sent to another backend.
    RescuedDatagram = "rescued_datagram" => Redirect,
    /// As `rescued_datagram`, left to the kernel's routing.
    RescuedDatagramStack = "rescued_datagram_stack" => Pass,
    /// A datagram of a service that balances each by itself, sent to the backend whose turn it was.
    ForwardTurn = "forward_turn" => Redirect,
    /// As `forward_turn`, left to the kernel's routing.
    StackTurn = "stack_turn" => Pass,
    /// Refusal from a backend that the flow has left.
    DropLateReset = "drop_late_reset" => Drop,
}

const _: () = assert!(Outcome::COUNT <= Outcome::ROW);

impl Outcome {
    /// Number of outcomes.
    pub const COUNT: usize = Self::ALL.len();

    /// Counters of one interface: a power of two, with room for more outcomes without another layout.
    pub const ROW: usize = 64;

    /// Index of the outcome's counter.
    #[inline(always)]
    #[must_use]
    pub const fn index(self) -> u32 {
        self as u32
    }

    /// The outcome with this index.
    #[expect(unsafe_code, reason = "the programs cannot afford to search a table")]
    #[inline(always)]
    #[must_use]
    pub const fn of(index: u32) -> Option<Self> {
        if (index as usize) < Self::COUNT {
            // SAFETY: outcomes are numbered from zero without a gap.
            Some(unsafe { core::mem::transmute::<u32, Self>(index) })
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn names_are_unique_and_tell_the_verdict() {
        let names: HashSet<_> = Outcome::ALL.iter().map(|outcome| outcome.name()).collect();
        assert_eq!(names.len(), Outcome::COUNT);
        for (position, outcome) in Outcome::ALL.iter().enumerate() {
            assert_eq!(outcome.index() as usize, position);
            assert_eq!(Outcome::of(outcome.index()), Some(*outcome));
            assert_eq!(outcome.verdict() == Verdict::Drop, outcome.name().starts_with("drop_"));
        }
    }
}
