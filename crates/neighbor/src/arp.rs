//! ARP for IPv4 over Ethernet, RFC 826, with the announcements of RFC 5227.

use std::net::Ipv4Addr;

use crate::Mac;

const BROADCAST: Mac = [0xff; 6];
const ETHER_TYPE: [u8; 2] = [0x08, 0x06];
/// Hardware type Ethernet, protocol type IPv4, and the lengths of their addresses.
const ETHERNET_IPV4: [u8; 6] = [0x00, 0x01, 0x08, 0x00, 6, 4];

/// Length of an ARP frame in bytes, without padding.
pub const FRAME_LENGTH: usize = 42;

/// What an ARP packet does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Asks for the target's hardware address.
    Request,
    /// Tells the sender's.
    Reply,
}

/// An Ethernet frame with an ARP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArpFrame {
    /// The frame's destination.
    pub destination: Mac,
    /// The frame's source.
    pub source: Mac,
    /// Request or reply.
    pub operation: Operation,
    /// Sender's hardware address.
    pub sender_mac: Mac,
    /// Sender's address.
    pub sender: Ipv4Addr,
    /// Target's hardware address; zero in requests.
    pub target_mac: Mac,
    /// Target's address.
    pub target: Ipv4Addr,
}

/// Why bytes are no ARP frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// Shorter than [`FRAME_LENGTH`].
    #[error("too short for an ARP frame: {0} bytes")]
    TooShort(usize),
    /// Another EtherType.
    #[error("EtherType {:#06x} is not ARP", u16::from_be_bytes(*.0))]
    NotArp([u8; 2]),
    /// Other hardware or protocol types, or lengths that do not fit them.
    #[error("not ARP for IPv4 over Ethernet")]
    NotEthernetIpv4,
    /// Neither request nor reply.
    #[error("ARP operation {0} is neither request nor reply")]
    Operation(u16),
}

impl ParseError {
    /// The reason's name in logs and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::TooShort(_) => "arp_too_short",
            Self::NotArp(_) => "not_arp",
            Self::NotEthernetIpv4 => "arp_not_ethernet_ipv4",
            Self::Operation(_) => "arp_operation",
        }
    }
}

impl ArpFrame {
    /// Announces to everyone that `mac` has `address` (gratuitous ARP): RFC 5227 section 2.3 announces by a request in
    /// which sender and target address are the same; some older hosts update their tables from replies only.
    #[must_use]
    pub const fn announcement(mac: Mac, address: Ipv4Addr, operation: Operation) -> Self {
        let target_mac = match operation {
            Operation::Request => [0; 6],
            Operation::Reply => mac,
        };
        Self {
            destination: BROADCAST,
            source: mac,
            operation,
            sender_mac: mac,
            sender: address,
            target_mac,
            target: address,
        }
    }

    /// Asks who has an address, without claiming one (the probe of RFC 5227 section 2.1.1).
    #[must_use]
    pub const fn probe(mac: Mac, address: Ipv4Addr) -> Self {
        Self { sender: Ipv4Addr::UNSPECIFIED, ..Self::announcement(mac, address, Operation::Request) }
    }

    /// Whether the sender claims the address for itself without being asked.
    #[must_use]
    pub fn is_announcement(&self) -> bool {
        self.sender == self.target && !self.sender.is_unspecified()
    }

    /// The frame's bytes.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; FRAME_LENGTH] {
        let mut bytes = [0; FRAME_LENGTH];
        bytes[..6].copy_from_slice(&self.destination);
        bytes[6..12].copy_from_slice(&self.source);
        bytes[12..14].copy_from_slice(&ETHER_TYPE);
        bytes[14..20].copy_from_slice(&ETHERNET_IPV4);
        bytes[21] = match self.operation {
            Operation::Request => 1,
            Operation::Reply => 2,
        };
        bytes[22..28].copy_from_slice(&self.sender_mac);
        bytes[28..32].copy_from_slice(&self.sender.octets());
        bytes[32..38].copy_from_slice(&self.target_mac);
        bytes[38..42].copy_from_slice(&self.target.octets());
        bytes
    }

    /// Reads a frame; bytes after the packet are padding.
    ///
    /// # Errors
    /// When the bytes are no ARP request or reply for IPv4 over Ethernet.
    pub fn parse(bytes: &[u8]) -> Result<Self, ParseError> {
        let frame: &[u8; FRAME_LENGTH] = bytes.first_chunk().ok_or(ParseError::TooShort(bytes.len()))?;
        let mac = |at: usize| -> Mac { std::array::from_fn(|index| frame[at + index]) };
        let address = |at: usize| Ipv4Addr::new(frame[at], frame[at + 1], frame[at + 2], frame[at + 3]);
        if frame[12..14] != ETHER_TYPE {
            return Err(ParseError::NotArp([frame[12], frame[13]]));
        }
        if frame[14..20] != ETHERNET_IPV4 {
            return Err(ParseError::NotEthernetIpv4);
        }
        let operation = match u16::from_be_bytes([frame[20], frame[21]]) {
            1 => Operation::Request,
            2 => Operation::Reply,
            other => return Err(ParseError::Operation(other)),
        };
        Ok(Self {
            destination: mac(0),
            source: mac(6),
            operation,
            sender_mac: mac(22),
            sender: address(28),
            target_mac: mac(32),
            target: address(38),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MAC: Mac = [2, 0, 0, 0, 0, 9];
    const VIP: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 53);

    #[test]
    fn an_announcement_is_what_another_implementation_reads() {
        for operation in [Operation::Request, Operation::Reply] {
            let bytes = ArpFrame::announcement(MAC, VIP, operation).to_bytes();
            let packet = etherparse::SlicedPacket::from_ethernet(&bytes).unwrap();
            let Some(etherparse::NetSlice::Arp(arp)) = packet.net else { panic!("not ARP: {packet:?}") };
            assert_eq!(arp.sender_hw_addr(), MAC);
            assert_eq!(arp.sender_protocol_addr(), VIP.octets());
            assert_eq!(arp.target_protocol_addr(), VIP.octets());
            assert_eq!(arp.operation().0, if operation == Operation::Request { 1 } else { 2 });
            assert_eq!(bytes[..6], BROADCAST);
        }
    }

    #[test]
    fn refusals_have_names() {
        let good = ArpFrame::announcement(MAC, VIP, Operation::Request).to_bytes();
        let with = |at: usize, value: u8| {
            let mut bytes = good;
            bytes[at] = value;
            ArpFrame::parse(&bytes).unwrap_err().name()
        };
        assert_eq!(ArpFrame::parse(&good[..41]).unwrap_err().name(), "arp_too_short");
        assert_eq!(with(12, 9), "not_arp");
        assert_eq!(with(18, 8), "arp_not_ethernet_ipv4");
        assert_eq!(with(21, 3), "arp_operation");
    }

    #[test]
    fn a_probe_is_no_announcement() {
        assert!(ArpFrame::announcement(MAC, VIP, Operation::Request).is_announcement());
        let probe = ArpFrame::probe(MAC, VIP);
        assert!(!probe.is_announcement());
        assert_eq!((probe.sender_mac, probe.target, probe.target_mac), (MAC, VIP, [0; 6]));
    }

    proptest! {
        #[test]
        fn what_is_read_is_written_again(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            if let Ok(frame) = ArpFrame::parse(&bytes) {
                prop_assert_eq!(&frame.to_bytes()[..], &bytes[..FRAME_LENGTH]);
            }
        }

        #[test]
        fn what_is_written_is_read_again(
            macs in any::<[Mac; 4]>(), addresses in any::<[Ipv4Addr; 2]>(), asks in any::<bool>()
        ) {
            let frame = ArpFrame {
                destination: macs[0], source: macs[1],
                operation: if asks { Operation::Request } else { Operation::Reply },
                sender_mac: macs[2], sender: addresses[0], target_mac: macs[3], target: addresses[1],
            };
            prop_assert_eq!(ArpFrame::parse(&frame.to_bytes()), Ok(frame));
        }
    }
}
