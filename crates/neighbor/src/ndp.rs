//! Neighbour Discovery for IPv6 over Ethernet: neighbour solicitations and advertisements, RFC 4861.

use std::net::Ipv6Addr;

use crate::Mac;

/// All nodes on a link.
pub const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

const ETHER_TYPE: [u8; 2] = [0x86, 0xdd];
const ICMPV6: u8 = 58;
/// No router has passed it on: whoever sent it is on this link (RFC 4861 section 3.1).
const HOP_LIMIT: u8 = 255;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
const SOURCE_LINK_LAYER: u8 = 1;
const TARGET_LINK_LAYER: u8 = 2;
/// Flags of an advertisement, in the first byte after the checksum.
const ROUTER: u8 = 0x80;
const SOLICITED: u8 = 0x40;
const OVERRIDE: u8 = 0x20;

/// Lengths in bytes. Options count in units of eight.
const ETHERNET: usize = 14;
const IPV6: usize = 40;
const MESSAGE: usize = 24;
const OPTION_UNIT: usize = 8;

/// The solicited-node multicast group of an address, to which its neighbours send what they ask (RFC 4291 section 2.7.1).
#[must_use]
pub const fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let [.., high, low] = address.segments();
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | (high & 0xff), low)
}

/// The Ethernet address of an IPv6 multicast group (RFC 2464 section 7).
#[must_use]
pub const fn multicast_mac(group: Ipv6Addr) -> Mac {
    let [.., a, b, c, d] = group.octets();
    [0x33, 0x33, a, b, c, d]
}

/// An Ethernet frame with a neighbour solicitation or advertisement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NdpFrame {
    /// The frame's destination.
    pub destination: Mac,
    /// The frame's source.
    pub source: Mac,
    /// The packet's source; unspecified while the sender only finds out whether an address is taken.
    pub from: Ipv6Addr,
    /// The packet's destination.
    pub to: Ipv6Addr,
    /// What it says.
    pub message: Message,
}

/// What a frame says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    /// Asks who has an address.
    Solicitation {
        /// The address asked for.
        target: Ipv6Addr,
        /// The sender's hardware address, if it gives it.
        mac: Option<Mac>,
    },
    /// Tells who has an address.
    Advertisement {
        /// The address told of.
        target: Ipv6Addr,
        /// Its hardware address; an answer to a unicast solicitation may leave it out.
        mac: Option<Mac>,
        /// What the receiver may conclude.
        flags: Flags,
    },
}

/// Flags of an advertisement.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags {
    /// The sender forwards packets. A host that had the sender as its router and sees it cleared looks for another one.
    pub router: bool,
    /// It answers a solicitation, which proves that the sender is reachable.
    pub solicited: bool,
    /// It replaces a hardware address that the receiver knows already.
    pub overrides: bool,
}

/// Why bytes are no neighbour solicitation or advertisement, or one that RFC 4861 sections 7.1.1 and 7.1.2 let nobody
/// believe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// Shorter than the headers, or than the packet says it is.
    #[error("too short for a neighbour solicitation or advertisement: {0} bytes")]
    TooShort(usize),
    /// Another EtherType.
    #[error("EtherType {:#06x} is not IPv6", u16::from_be_bytes(*.0))]
    NotIpv6([u8; 2]),
    /// Another version in the header than in the EtherType.
    #[error("IP version {0} in an IPv6 frame")]
    Version(u8),
    /// Another protocol, or an extension header.
    #[error("next header {0} is not ICMPv6")]
    NotIcmpv6(u8),
    /// Neither solicitation nor advertisement.
    #[error("ICMPv6 type {0} is neither neighbour solicitation nor advertisement")]
    Type(u8),
    /// It may come from another link.
    #[error("hop limit {0}: a router may have passed it on")]
    HopLimit(u8),
    /// The code is not zero.
    #[error("ICMPv6 code {0} is not 0")]
    Code(u8),
    /// The checksum is wrong.
    #[error("wrong ICMPv6 checksum")]
    Checksum,
    /// A multicast group has no hardware address to ask for.
    #[error("the target {0} is a multicast group")]
    MulticastTarget(Ipv6Addr),
    /// An option of length zero, or beyond the packet's end.
    #[error("an option's length of {0} units is zero or leads beyond the end")]
    OptionLength(u8),
    /// A link-layer address that is not Ethernet's.
    #[error("a link-layer address option of {0} units is not Ethernet's")]
    LinkLayerLength(u8),
    /// A solicitation without source that asks others than those who may have the address.
    #[error("a probe for an address is sent to {0}, not to the address's solicited-node group")]
    ProbeDestination(Ipv6Addr),
    /// A solicitation without source that gives a hardware address.
    #[error("a probe for an address gives a hardware address")]
    ProbeOption,
    /// An answer to everyone that claims to have been asked for by the receiver.
    #[error("an advertisement to the group {0} claims to be solicited")]
    SolicitedMulticast(Ipv6Addr),
}

impl ParseError {
    /// The reason's name in logs and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::TooShort(_) => "ndp_too_short",
            Self::NotIpv6(_) => "not_ipv6",
            Self::Version(_) => "ndp_ip_version",
            Self::NotIcmpv6(_) => "not_icmpv6",
            Self::Type(_) => "not_ndp",
            Self::HopLimit(_) => "ndp_hop_limit",
            Self::Code(_) => "ndp_code",
            Self::Checksum => "ndp_checksum",
            Self::MulticastTarget(_) => "ndp_multicast_target",
            Self::OptionLength(_) => "ndp_option_length",
            Self::LinkLayerLength(_) => "ndp_link_layer_length",
            Self::ProbeDestination(_) => "ndp_probe_destination",
            Self::ProbeOption => "ndp_probe_option",
            Self::SolicitedMulticast(_) => "ndp_solicited_multicast",
        }
    }
}

impl NdpFrame {
    /// Announces to all nodes on the link that `mac` has `address` (RFC 4861 section 7.2.6). The address is a service's and no
    /// way to anywhere: it is not called a router, whether or not the node is one, and neither do the programs' answers,
    /// so that no neighbour sees a router come and go.
    #[must_use]
    pub const fn announcement(mac: Mac, address: Ipv6Addr) -> Self {
        Self {
            destination: multicast_mac(ALL_NODES),
            source: mac,
            // Proof of the address's place to switches that check sources, whatever other addresses the interface has.
            from: address,
            to: ALL_NODES,
            message: Message::Advertisement {
                target: address,
                mac: Some(mac),
                flags: Flags { router: false, solicited: false, overrides: true },
            },
        }
    }

    /// Asks who has an address, in the name of `from`, an address of the interface with hardware address `mac` (RFC 4861
    /// section 4.3).
    #[must_use]
    pub const fn solicitation(mac: Mac, from: Ipv6Addr, target: Ipv6Addr) -> Self {
        let group = solicited_node(target);
        Self {
            destination: multicast_mac(group),
            source: mac,
            from,
            to: group,
            message: Message::Solicitation { target, mac: Some(mac) },
        }
    }

    /// Whether the sender claims the address for itself without being asked.
    #[must_use]
    pub const fn is_announcement(&self) -> bool {
        matches!(self.message, Message::Advertisement { flags: Flags { solicited: false, overrides: true, .. }, .. })
            && self.to.is_multicast()
    }

    /// The address asked for or told of.
    #[must_use]
    pub const fn target(&self) -> Ipv6Addr {
        match self.message {
            Message::Solicitation { target, .. } | Message::Advertisement { target, .. } => target,
        }
    }

    /// The frame's bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let (kind, flags, option, mac) = match self.message {
            Message::Solicitation { mac, .. } => (SOLICITATION, 0, SOURCE_LINK_LAYER, mac),
            Message::Advertisement { mac, flags, .. } => (ADVERTISEMENT, flags.to_byte(), TARGET_LINK_LAYER, mac),
        };
        let mut message = vec![kind, 0, 0, 0, flags, 0, 0, 0];
        message.extend(self.target().octets());
        if let Some(mac) = mac {
            message.extend([option, 1]);
            message.extend(mac);
        }
        let sum = checksum(self.from, self.to, &message);
        message[2..4].copy_from_slice(&sum.to_be_bytes());

        let mut bytes = Vec::with_capacity(ETHERNET + IPV6 + message.len());
        bytes.extend(self.destination);
        bytes.extend(self.source);
        bytes.extend(ETHER_TYPE);
        bytes.extend([0x60, 0, 0, 0]);
        bytes.extend(length_field(message.len()).to_be_bytes());
        bytes.extend([ICMPV6, HOP_LIMIT]);
        bytes.extend(self.from.octets());
        bytes.extend(self.to.octets());
        bytes.extend(message);
        bytes
    }

    /// Reads a frame; bytes after the packet are padding, and options other than link-layer addresses are passed over.
    ///
    /// # Errors
    /// When the bytes are no neighbour solicitation or advertisement over Ethernet, or are not to be believed.
    pub fn parse(bytes: &[u8]) -> Result<Self, ParseError> {
        let too_short = ParseError::TooShort(bytes.len());
        let (ethernet, packet) = bytes.split_first_chunk::<ETHERNET>().ok_or(too_short)?;
        let [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, ether_type @ ..] = *ethernet;
        if ether_type != ETHER_TYPE {
            return Err(ParseError::NotIpv6(ether_type));
        }
        let (header, rest) = packet.split_first_chunk::<IPV6>().ok_or(too_short)?;
        let [version, _, _, _, length0, length1, next_header, hop_limit, addresses @ ..] = *header;
        if version >> 4 != 6 {
            return Err(ParseError::Version(version >> 4));
        }
        if next_header != ICMPV6 {
            return Err(ParseError::NotIcmpv6(next_header));
        }
        let length = usize::from(u16::from_be_bytes([length0, length1]));
        let message = rest.get(..length).ok_or(too_short)?;
        let (fixed, options) = message.split_first_chunk::<MESSAGE>().ok_or(too_short)?;
        let [kind, code, _, _, flags, _, _, _, target @ ..] = *fixed;
        if !matches!(kind, SOLICITATION | ADVERTISEMENT) {
            return Err(ParseError::Type(kind));
        }
        if hop_limit != HOP_LIMIT {
            return Err(ParseError::HopLimit(hop_limit));
        }
        if code != 0 {
            return Err(ParseError::Code(code));
        }
        let (from, to) = (address(&addresses, 0), address(&addresses, 16));
        // Over a message that carries its checksum the sum is zero.
        if checksum(from, to, message) != 0 {
            return Err(ParseError::Checksum);
        }
        let target = Ipv6Addr::from(target);
        if target.is_multicast() {
            return Err(ParseError::MulticastTarget(target));
        }
        let message = if kind == SOLICITATION {
            let mac = link_layer_address(options, SOURCE_LINK_LAYER)?;
            if from.is_unspecified() {
                if to != solicited_node(target) {
                    return Err(ParseError::ProbeDestination(to));
                }
                if mac.is_some() {
                    return Err(ParseError::ProbeOption);
                }
            }
            Message::Solicitation { target, mac }
        } else {
            let flags = Flags::from_byte(flags);
            if flags.solicited && to.is_multicast() {
                return Err(ParseError::SolicitedMulticast(to));
            }
            Message::Advertisement { target, mac: link_layer_address(options, TARGET_LINK_LAYER)?, flags }
        };
        Ok(Self { destination: [d0, d1, d2, d3, d4, d5], source: [s0, s1, s2, s3, s4, s5], from, to, message })
    }
}

impl Flags {
    const fn to_byte(self) -> u8 {
        let mut byte = 0;
        if self.router {
            byte |= ROUTER;
        }
        if self.solicited {
            byte |= SOLICITED;
        }
        if self.overrides {
            byte |= OVERRIDE;
        }
        byte
    }

    const fn from_byte(byte: u8) -> Self {
        Self { router: byte & ROUTER != 0, solicited: byte & SOLICITED != 0, overrides: byte & OVERRIDE != 0 }
    }
}

/// The first link-layer address of this kind among the options; all of them are checked.
fn link_layer_address(mut options: &[u8], wanted: u8) -> Result<Option<Mac>, ParseError> {
    let mut found = None;
    while let [kind, units, ..] = *options {
        let length = usize::from(units) * OPTION_UNIT;
        if length == 0 || length > options.len() {
            return Err(ParseError::OptionLength(units));
        }
        let (option, others) = options.split_at(length);
        if kind == wanted {
            let [_, _, mac @ ..] =
                <[u8; OPTION_UNIT]>::try_from(option).map_err(|_| ParseError::LinkLayerLength(units))?;
            found = found.or(Some(mac));
        }
        options = others;
    }
    if options.is_empty() { Ok(found) } else { Err(ParseError::OptionLength(0)) }
}

fn address(addresses: &[u8; 32], at: usize) -> Ipv6Addr {
    Ipv6Addr::from(std::array::from_fn::<u8, 16, _>(|index| addresses[at + index]))
}

/// A message's length as headers have it. What is written here is shorter than 100 bytes, what is read came with such a
/// field.
fn length_field(length: usize) -> u16 {
    u16::try_from(length).unwrap_or(u16::MAX)
}

/// The ICMPv6 checksum (RFC 4443 section 2.3) with the pseudo-header of RFC 8200 section 8.1; over a message that has its
/// checksum already, zero if that is right.
fn checksum(from: Ipv6Addr, to: Ipv6Addr, message: &[u8]) -> u16 {
    let pseudo_header = [length_field(message.len()), u16::from(ICMPV6)];
    let words = message.chunks(2).map(|pair| match *pair {
        [high, low] => u16::from_be_bytes([high, low]),
        [high] => u16::from_be_bytes([high, 0]),
        _ => 0,
    });
    let sum: u64 =
        from.segments().into_iter().chain(to.segments()).chain(pseudo_header).chain(words).map(u64::from).sum();
    !fold(sum)
}

/// The ones' complement sum of 16-bit words from their plain sum.
fn fold(mut sum: u64) -> u16 {
    loop {
        match u16::try_from(sum) {
            Ok(folded) => return folded,
            Err(_) => sum = (sum & 0xffff) + (sum >> 16),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MAC: Mac = [2, 0, 0, 0, 0, 9];
    const VIP: Ipv6Addr = Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0x12, 0x3456);
    const CLIENT: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
    /// Where things are in a frame.
    const HOP_LIMIT_AT: usize = 21;
    const FROM_AT: usize = 22;
    const TO_AT: usize = 38;
    const TYPE_AT: usize = 54;
    const FLAGS_AT: usize = 58;
    const TARGET_AT: usize = 62;
    const OPTION_AT: usize = 78;

    fn solicitation() -> NdpFrame {
        let to = solicited_node(VIP);
        let message = Message::Solicitation { target: VIP, mac: Some(MAC) };
        NdpFrame { destination: multicast_mac(to), source: MAC, from: CLIENT, to, message }
    }

    fn probe() -> NdpFrame {
        let message = Message::Solicitation { target: VIP, mac: None };
        NdpFrame { from: Ipv6Addr::UNSPECIFIED, message, ..solicitation() }
    }

    /// Changes a frame and makes its checksum right again, by the other implementation.
    fn changed(frame: NdpFrame, change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut bytes = frame.to_bytes();
        change(&mut bytes);
        let length = u16::try_from(bytes.len() - TYPE_AT).unwrap();
        bytes[18..20].copy_from_slice(&length.to_be_bytes());
        let (header, message) = bytes[ETHERNET..].split_at_mut(IPV6);
        message[2..4].fill(0);
        let sum = etherparse::checksum::Sum16BitWords::new()
            .add_16bytes(header[8..24].try_into().unwrap())
            .add_16bytes(header[24..40].try_into().unwrap())
            .add_4bytes(u32::from(length).to_be_bytes())
            .add_4bytes([0, 0, 0, ICMPV6])
            .add_slice(message)
            .ones_complement();
        message[2..4].copy_from_slice(&sum.to_ne_bytes());
        bytes
    }

    fn refusal(bytes: &[u8]) -> &'static str {
        NdpFrame::parse(bytes).unwrap_err().name()
    }

    #[test]
    fn an_announcement_is_what_another_implementation_reads() {
        let bytes = NdpFrame::announcement(MAC, VIP).to_bytes();
        assert_eq!(bytes[..6], [0x33, 0x33, 0, 0, 0, 1]);
        assert_eq!(bytes[6..12], MAC);
        let packet = etherparse::SlicedPacket::from_ethernet(&bytes).unwrap();
        let Some(etherparse::NetSlice::Ipv6(ip)) = packet.net else { panic!("not IPv6") };
        let header = ip.header().to_header();
        assert_eq!((header.source_addr(), header.destination_addr()), (VIP, "ff02::1".parse().unwrap()));
        assert_eq!(header.hop_limit, 255);
        let Some(etherparse::TransportSlice::Icmpv6(icmp)) = packet.transport else { panic!("not ICMPv6") };
        assert!(icmp.is_checksum_valid(header.source, header.destination));
        assert_eq!((icmp.type_u8(), icmp.code_u8()), (136, 0));
        assert_eq!(icmp.slice()[4..8], [0x20, 0, 0, 0]);
        assert_eq!(icmp.slice()[8..24], VIP.octets());
        assert_eq!(icmp.slice()[24..], [2, 1, 2, 0, 0, 0, 0, 9]);
    }

    #[test]
    fn groups_are_those_of_the_standards() {
        // The example of RFC 4291 section 2.7.1.
        let address = "4037::1:800:200e:8c6c".parse().unwrap();
        assert_eq!(solicited_node(address), "ff02::1:ff0e:8c6c".parse::<Ipv6Addr>().unwrap());
        assert_eq!(multicast_mac(solicited_node(address)), [0x33, 0x33, 0xff, 0x0e, 0x8c, 0x6c]);
    }

    #[test]
    fn what_is_no_neighbour_discovery_is_refused_by_name() {
        let good = solicitation().to_bytes();
        let with = |at: usize, value: u8| {
            let mut bytes = good.clone();
            bytes[at] = value;
            NdpFrame::parse(&bytes).unwrap_err().name()
        };
        assert_eq!(refusal(&[]), "ndp_too_short");
        assert_eq!(refusal(&good[..TYPE_AT]), "ndp_too_short");
        assert_eq!(refusal(&good[..good.len() - 1]), "ndp_too_short", "shorter than the header says");
        assert_eq!(with(13, 0), "not_ipv6");
        assert_eq!(with(ETHERNET, 0x45), "ndp_ip_version");
        assert_eq!(with(20, 44), "not_icmpv6", "fragments are not put together: RFC 6980");
        assert_eq!(with(TYPE_AT, 128), "not_ndp");
        assert_eq!(with(19, 20), "ndp_too_short", "a message without a whole target");
    }

    #[test]
    fn what_nobody_may_believe_is_refused_by_name() {
        let announcement = NdpFrame::announcement(MAC, VIP);
        for frame in [solicitation(), announcement] {
            assert_eq!(refusal(&changed(frame, |bytes| bytes[HOP_LIMIT_AT] = 254)), "ndp_hop_limit");
            assert_eq!(refusal(&changed(frame, |bytes| bytes[TYPE_AT + 1] = 1)), "ndp_code");
            assert_eq!(refusal(&changed(frame, |bytes| bytes[TARGET_AT] = 0xff)), "ndp_multicast_target");
            assert_eq!(refusal(&changed(frame, |bytes| bytes[OPTION_AT + 1] = 0)), "ndp_option_length");
            assert_eq!(refusal(&changed(frame, |bytes| bytes[OPTION_AT + 1] = 2)), "ndp_option_length");
            assert_eq!(refusal(&changed(frame, |bytes| bytes.truncate(OPTION_AT + 1))), "ndp_option_length");
            assert_eq!(refusal(&changed(frame, |bytes| bytes.truncate(OPTION_AT + 7))), "ndp_option_length");
            let longer = changed(frame, |bytes| {
                bytes[OPTION_AT + 1] = 2;
                bytes.extend([0; 8]);
            });
            assert_eq!(refusal(&longer), "ndp_link_layer_length");
            let mut bytes = frame.to_bytes();
            bytes[OPTION_AT + 7] ^= 1;
            assert_eq!(refusal(&bytes), "ndp_checksum");
        }
        assert_eq!(refusal(&changed(announcement, |bytes| bytes[FLAGS_AT] |= 0x40)), "ndp_solicited_multicast");
    }

    #[test]
    fn a_probe_asks_whoever_may_have_the_address_and_gives_nothing_away() {
        assert_eq!(NdpFrame::parse(&probe().to_bytes()), Ok(probe()));
        assert_eq!(
            refusal(&changed(probe(), |bytes| bytes[TO_AT..TO_AT + 16].copy_from_slice(&ALL_NODES.octets()))),
            "ndp_probe_destination"
        );
        let with_mac = changed(solicitation(), |bytes| bytes[FROM_AT..FROM_AT + 16].fill(0));
        assert_eq!(refusal(&with_mac), "ndp_probe_option");
    }

    #[test]
    fn other_options_and_padding_are_passed_over() {
        let nonce = [14, 1, 1, 2, 3, 4, 5, 6];
        let with_nonce = changed(probe(), |bytes| bytes.extend(nonce));
        assert_eq!(NdpFrame::parse(&with_nonce), Ok(probe()));
        let first = changed(solicitation(), |bytes| {
            bytes.splice(OPTION_AT..OPTION_AT, nonce);
            bytes.extend([SOURCE_LINK_LAYER, 1, 9, 9, 9, 9, 9, 9]);
        });
        assert_eq!(NdpFrame::parse(&first), Ok(solicitation()), "of two link-layer addresses the first counts");
        let padded = [solicitation().to_bytes(), vec![0; 20]].concat();
        assert_eq!(NdpFrame::parse(&padded), Ok(solicitation()));
    }

    #[test]
    fn an_answer_is_no_announcement() {
        assert!(NdpFrame::announcement(MAC, VIP).is_announcement());
        assert!(!solicitation().is_announcement() && !probe().is_announcement());
        let flags = Flags { solicited: true, overrides: true, router: true };
        let message = Message::Advertisement { target: VIP, mac: Some(MAC), flags };
        let answer = NdpFrame { destination: MAC, source: MAC, from: VIP, to: CLIENT, message };
        assert!(!answer.is_announcement());
    }

    fn mac() -> impl Strategy<Value = Option<Mac>> {
        any::<Option<Mac>>()
    }

    fn unicast() -> impl Strategy<Value = Ipv6Addr> {
        any::<Ipv6Addr>().prop_filter("unicast", |address| !address.is_multicast() && !address.is_unspecified())
    }

    fn frame() -> impl Strategy<Value = NdpFrame> {
        let solicitation = (unicast(), mac()).prop_map(|(target, mac)| Message::Solicitation { target, mac });
        let advertisement = (unicast(), mac(), any::<[bool; 3]>()).prop_map(|(target, mac, flags)| {
            let [router, solicited, overrides] = flags;
            Message::Advertisement { target, mac, flags: Flags { router, solicited, overrides } }
        });
        let message = prop_oneof![solicitation, advertisement];
        (any::<[Mac; 2]>(), [unicast(), unicast()], message).prop_map(|([destination, source], [from, to], message)| {
            NdpFrame { destination, source, from, to, message }
        })
    }

    #[test]
    fn a_solicitation_is_what_a_node_asks_by() {
        let from: Ipv6Addr = "fe80::1".parse().unwrap();
        let target: Ipv6Addr = "fd77::100".parse().unwrap();
        let frame = NdpFrame::solicitation([2, 0, 0, 0, 0, 9], from, target);
        assert_eq!(NdpFrame::parse(&frame.to_bytes()), Ok(frame));
        assert_eq!(frame.destination, [0x33, 0x33, 0xff, 0, 1, 0]);
        assert!(!frame.is_announcement());
    }

    proptest! {
        #[test]
        fn reading_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..120)) {
            let _ = NdpFrame::parse(&bytes);
        }

        #[test]
        fn what_is_written_is_read_again(frame in frame()) {
            prop_assert_eq!(NdpFrame::parse(&frame.to_bytes()), Ok(frame));
        }

        #[test]
        fn what_is_read_despite_damage_is_written_and_read_alike(
            frame in frame(), at in ETHERNET..86_usize, value in any::<u8>(), cut in 0..10_usize
        ) {
            let damaged = changed(frame, |bytes| {
                let at = at.min(bytes.len() - 1);
                bytes[at] = value;
                bytes.truncate(bytes.len() - cut);
            });
            if let Ok(read) = NdpFrame::parse(&damaged) {
                prop_assert_eq!(NdpFrame::parse(&read.to_bytes()), Ok(read));
            }
        }

        #[test]
        fn a_changed_bit_is_noticed(frame in frame(), bit in 0..32 * 8_usize) {
            // Anywhere in the addresses: they are in no other check than the checksum.
            let mut bytes = frame.to_bytes();
            bytes[FROM_AT + bit / 8] ^= 1 << (bit % 8);
            prop_assert!(NdpFrame::parse(&bytes).is_err());
        }
    }
}
