//! Frames written and read with etherparse, an implementation that shares no code with the programs.

use std::net::{Ipv4Addr, SocketAddrV4};

use anyhow::ensure;
use etherparse::{ArpOperation, ArpPacket, EtherType, NetSlice, PacketBuilder, SlicedPacket, TransportSlice};

/// A frame's Ethernet addresses: from, to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Macs(pub(crate) [u8; 6], pub(crate) [u8; 6]);

/// What the tests look at in a frame. Reading one verifies all its checksums.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) source: SocketAddrV4,
    pub(crate) destination: SocketAddrV4,
    pub(crate) ttl: u8,
    pub(crate) payload: Vec<u8>,
}

pub(crate) fn udp(macs: Macs, from: SocketAddrV4, to: SocketAddrV4, payload: &[u8]) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(macs.0, macs.1)
        .ipv4(from.ip().octets(), to.ip().octets(), 64)
        .udp(from.port(), to.port());
    write(|frame| builder.write(frame, payload))
}

/// Flags as in tcpdump: S, A, F, R.
pub(crate) fn tcp(macs: Macs, from: SocketAddrV4, to: SocketAddrV4, sequence: u32, flags: &str) -> Vec<u8> {
    let mut builder = PacketBuilder::ethernet2(macs.0, macs.1).ipv4(from.ip().octets(), to.ip().octets(), 64).tcp(
        from.port(),
        to.port(),
        sequence,
        64_000,
    );
    for flag in flags.chars() {
        builder = match flag {
            'S' => builder.syn(),
            'A' => builder.ack(1),
            'F' => builder.fin(),
            _ => builder.rst(),
        };
    }
    write(|frame| builder.write(frame, b"payload"))
}

pub(crate) fn arp_request(sender: ([u8; 6], Ipv4Addr), target: Ipv4Addr) -> Vec<u8> {
    let mut frame = Vec::new();
    frame.extend_from_slice(&[0xff; 6]);
    frame.extend_from_slice(&sender.0);
    frame.extend_from_slice(&EtherType::ARP.0.to_be_bytes());
    let packet = ArpPacket::new(
        etherparse::ArpHardwareId::ETHERNET,
        EtherType::IPV4,
        ArpOperation::REQUEST,
        &sender.0,
        &sender.1.octets(),
        &[0; 6],
        &target.octets(),
    );
    if let Ok(packet) = packet {
        frame.extend_from_slice(&packet.to_bytes());
    }
    frame
}

/// Reads a TCP or UDP frame and checks the checksums of IPv4 and of the transport.
pub(crate) fn read(frame: &[u8]) -> anyhow::Result<Seen> {
    let packet = SlicedPacket::from_ethernet(frame)?;
    let Some(NetSlice::Ipv4(ip)) = packet.net else { anyhow::bail!("not IPv4: {packet:?}") };
    let header = ip.header().to_header();
    ensure!(header.calc_header_checksum() == header.header_checksum, "the IPv4 checksum is wrong");
    let (source, destination) = (header.source, header.destination);
    let (source_port, destination_port, payload) = match packet.transport {
        Some(TransportSlice::Tcp(tcp)) => {
            let expected = tcp.calc_checksum_ipv4(source, destination)?;
            ensure!(tcp.checksum() == expected, "the TCP checksum is {:#06x}, not {expected:#06x}", tcp.checksum());
            (tcp.source_port(), tcp.destination_port(), tcp.payload().to_vec())
        }
        Some(TransportSlice::Udp(udp)) => {
            let expected = udp.to_header().calc_checksum_ipv4_raw(source, destination, udp.payload())?;
            ensure!(udp.checksum() == 0 || udp.checksum() == expected, "the UDP checksum is wrong");
            (udp.source_port(), udp.destination_port(), udp.payload().to_vec())
        }
        other => anyhow::bail!("neither TCP nor UDP: {other:?}"),
    };
    Ok(Seen {
        source: SocketAddrV4::new(source.into(), source_port),
        destination: SocketAddrV4::new(destination.into(), destination_port),
        ttl: header.time_to_live,
        payload,
    })
}

fn write<E: std::fmt::Debug>(write: impl FnOnce(&mut Vec<u8>) -> Result<(), E>) -> Vec<u8> {
    let mut frame = Vec::new();
    // Writing to a vector fails only for payloads no test uses.
    if let Err(error) = write(&mut frame) {
        eprintln!("{error:?}");
    }
    frame
}
