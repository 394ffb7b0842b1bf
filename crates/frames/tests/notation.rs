//! Text to bytes to text, with frames of every kind and with damaged ones; and another implementation's opinion.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::net::{Ipv4Addr, Ipv6Addr};

use evenkeel_frames::{Frame, Layer, Names, sums};
use proptest::prelude::*;

/// One of each kind of layer. Read and written again, each is the same text.
const TEXTS: &[&str] = &[
    r#"eth client > node / ip client > vip ttl 63 / tcp 40000 > 80 SA seq 1000 ack 7 win 64240 mss 1460 nop wscale 7 sackok ts 1 2 / "pay\"load\n""#,
    r#"eth client > node / ip client > vip tos 16 id 7 df options 0x94040000 / udp 40000 > 53 checksum none / "x""#,
    "eth client > node / ip client > vip id 7 mf offset 1480 proto udp / bytes 1480",
    "eth client > node / vlan 7 pcp 3 / ip client > vip / tcp 1 > 2 - / zeros 100",
    "eth client > node / qinq 100 / vlan 7 dei / ip6 client > vip hlim 2 class 8 flow 0xabcde / tcp 1 > 2 PA sack 1-2,5-9",
    "eth client > node / ip6 client > vip / hopopts / routing 0x0000000000 00 / dstopts / udp 1 > 2 / 0x00",
    "eth client > node / ip6 client > vip / frag offset 0 id 9 mf / udp 1 > 2 len 3000 / bytes 100",
    "eth client > node / ip6 client > vip / frag offset 1448 id 9 next udp / bytes 100",
    "eth client > node / ip router > vip / icmp unreachable frag-needed mtu 1400 / \
     [ip vip > client ttl 60 df len 1500 / tcp 80 > 40000 - seq 9 / cut 28]",
    "eth client > node / ip router > vip / icmp time-exceeded transit / [ip vip > client / udp 53 > 40000 / 0xff]",
    "eth client > node / ip6 router > vip / icmp6 too-big mtu 1280 / [ip6 vip > client / tcp 80 > 40000 A / bytes 50]",
    "eth client > node / ip client > vip / icmp echo-request id 7 seq 1 / bytes 56",
    "eth client > node / ip client > vip / icmp type 13 code 0 rest 0x00010002 / zeros 20",
    "eth client > node / ip6 client > vip-group hlim 255 / icmp6 neighbor-solicitation target vip slla client",
    "eth node > client / ip6 vip > client hlim 255 / icmp6 neighbor-advertisement router solicited override target vip tlla node",
    "eth client > node / ip6 client > vip hlim 255 / icmp6 router-solicitation opt 0x0e01000000000000",
    "eth client > broadcast / arp request client at client > vip / trailer 0x0000",
    "eth node > client / arp reply vip at node > client at client",
    "eth client > node / ip client > vip / sctp 1 > 2 tag 0x12345678 / 0x01000008",
    "eth client > node / ip client > vip / ip6 client > vip / tcp 1 > 2 R",
    "eth client > node / ip client > vip checksum bad 0x1234 / tcp 1 > 2 S checksum bad 0x4321",
    "eth client > node / ip client > vip ihl 4 / tcp 1 > 2 S",
    "eth client > node / ip client > vip / tcp 1 > 2 S doff 3",
    "eth client > node / ip client > vip version 9 / udp 1 > 2 len 7",
    "eth client > node type 0x1234 / 0x00",
];

/// Texts of bytes that can be said in another way, too, so that reading them gives that.
const ALIKE: &[&str] = &[
    "eth client > node / ip client > vip len 30 / tcp 1 > 2 S",
    "eth client > node / ip client > vip / tcp 1 > 2 S opt 0x0203 / cut 50",
    "eth client > node / cut 9",
];

fn names() -> Names {
    Names::default()
        .mac("client", [2, 0, 0, 0, 0, 0xc1])
        .mac("node", [2, 0, 0, 0, 0, 1])
        .mac("broadcast", [0xff; 6])
        .address("client", Ipv4Addr::new(10, 77, 0, 10))
        .address("client", "fd77::10".parse::<Ipv6Addr>().unwrap())
        .address("router", Ipv4Addr::new(10, 77, 0, 1))
        .address("router", "fd77::1".parse::<Ipv6Addr>().unwrap())
        .address("vip", Ipv4Addr::new(10, 77, 0, 100))
        .address("vip", "fd77::100".parse::<Ipv6Addr>().unwrap())
        .address("vip-group", "ff02::1:ff00:100".parse::<Ipv6Addr>().unwrap())
}

fn text(text: &str) -> String {
    // The routing header's bytes are written in two words above only to keep its line short.
    text.replace("0000000000 00", "000000000000")
}

#[test]
fn every_kind_of_layer_is_read_as_it_was_written() {
    for wanted in TEXTS.iter().map(|wanted| text(wanted)) {
        let frame = Frame::parse(&wanted, &names()).unwrap_or_else(|error| panic!("{wanted}: {error}"));
        let bytes = frame.to_bytes();
        let read = Frame::read(&bytes);
        assert_eq!(read.text(&names()), wanted);
        assert_eq!(read.to_bytes(), bytes, "{wanted}");
        let spelt = read.text(&Names::default());
        assert_eq!(Frame::parse(&spelt, &Names::default()).unwrap().to_bytes(), bytes, "{spelt}");
    }
}

#[test]
fn what_can_be_said_in_two_ways_is_the_same_bytes() {
    for wanted in ALIKE {
        let bytes = Frame::parse(wanted, &names()).unwrap().to_bytes();
        let read = Frame::read(&bytes);
        assert_ne!(read.text(&names()), *wanted);
        assert_eq!(read.to_bytes(), bytes, "{wanted}");
    }
}

#[test]
fn another_implementation_agrees_on_lengths_and_checksums() {
    let mut transports = 0;
    for wanted in TEXTS.iter().map(|wanted| text(wanted)) {
        if ["bad", "ihl", "len", "doff", "version", "type ", "cut", "frag", "offset", "routing"]
            .iter()
            .any(|word| wanted.contains(word))
        {
            continue;
        }
        let bytes = Frame::parse(&wanted, &names()).unwrap().to_bytes();
        let packet =
            etherparse::PacketHeaders::from_ethernet_slice(&bytes).unwrap_or_else(|error| panic!("{wanted}: {error}"));
        let (Some(net), Some(transport)) = (packet.net, packet.transport) else { continue };
        let payload = packet.payload.slice();
        transports += 1;
        match (net, transport) {
            (etherparse::NetHeaders::Ipv4(ip, _), transport) => {
                assert_eq!(ip.calc_header_checksum(), ip.header_checksum, "{wanted}");
                let (mut again, sum) = (transport.clone(), checksum(&transport));
                again.update_checksum_ipv4(&ip, payload).unwrap();
                assert!(sum == 0 || sum == checksum(&again), "{wanted}");
            }
            (etherparse::NetHeaders::Ipv6(ip, _), transport) => {
                let mut again = transport.clone();
                again.update_checksum_ipv6(&ip, payload).unwrap();
                assert_eq!(checksum(&transport), checksum(&again), "{wanted}");
            }
            (net, _) => panic!("{wanted}: {net:?}"),
        }
    }
    assert!(transports > 8, "only {transports} were compared");
}

fn checksum(transport: &etherparse::TransportHeader) -> u16 {
    match transport {
        etherparse::TransportHeader::Udp(udp) => udp.checksum,
        etherparse::TransportHeader::Tcp(tcp) => tcp.checksum,
        etherparse::TransportHeader::Icmpv4(icmp) => icmp.checksum,
        etherparse::TransportHeader::Icmpv6(icmp) => icmp.checksum,
        etherparse::TransportHeader::Igmp(igmp) => igmp.checksum,
    }
}

#[test]
fn wrong_checksums_are_seen_by_both_readers() {
    for wanted in TEXTS.iter().map(|wanted| text(wanted)) {
        let bytes = Frame::parse(&wanted, &names()).unwrap().to_bytes();
        let quick = sums(&bytes);
        assert_eq!(quick.hold(), !wanted.contains("checksum bad"), "{wanted}: {quick:?}");
    }
    let bad =
        "eth client > node / ip router > vip / icmp unreachable port / [ip vip > client checksum bad / udp 53 > 9]";
    let bytes = Frame::parse(bad, &names()).unwrap().to_bytes();
    assert_eq!(sums(&bytes).quoted, Some(false));
    assert!(Frame::read(&bytes).text(&names()).contains("checksum bad 0x"));
}

#[test]
fn a_single_damaged_bit_is_shown() {
    let whole = Frame::parse(TEXTS[0], &names()).unwrap().to_bytes();
    // From the IP header on: every bit is covered by one checksum or the other.
    for bit in 14 * 8..whole.len() * 8 {
        let mut damaged = whole.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        let shown = Frame::read(&damaged).text(&names());
        let said = ["checksum", "len", "ihl", "version", "proto"].iter().any(|word| shown.contains(word));
        assert!(said || shown.contains("offset") || shown.contains("mf"), "bit {bit} changed unnoticed: {shown}");
    }
}

#[test]
fn errors_name_the_word_and_the_layer() {
    for (text, wanted) in [
        ("eth client > node / ipx a > b", "there is no layer `ipx`"),
        ("ip client > vip ttl many", "`many` in `ip` is not a number in range"),
        ("ip client > vip ttl 300", "`300` in `ip` is not a number in range"),
        ("ip client > vip tttl 3", "`tttl` says nothing in `ip`"),
        ("tcp 1 > 2 SX", "`SX` in `tcp` is not flags such as SA, or -"),
        ("tcp 1 >", "`tcp` lacks a number in range"),
        ("ip client > stranger", "`stranger` in `ip` is not an IPv4 address or its name"),
        ("icmp unreachable port / [ip client > vip", "`[` is not closed"),
        ("ip client > vip / ", "a layer is expected before and after ` / `"),
        ("ip client > vip ]", "there is a `]` too many"),
        ("\"open", "`\"` is not closed"),
    ] {
        let error = Frame::parse(text, &names()).unwrap_err().to_string();
        assert!(error.starts_with(wanted), "{text}: {error}");
    }
}

/// Frames of the list, with some bytes changed and the end cut off or something appended.
fn damaged() -> impl Strategy<Value = Vec<u8>> {
    let changes = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6);
    (0..TEXTS.len(), changes, prop::option::of(any::<prop::sample::Index>()), prop::collection::vec(any::<u8>(), 0..9))
        .prop_map(|(text_index, changes, end, more)| {
            let mut bytes = Frame::parse(&text(TEXTS[text_index]), &names()).unwrap().to_bytes();
            for (place, value) in changes {
                let place = place.index(bytes.len());
                bytes[place] = value;
            }
            if let Some(end) = end {
                bytes.truncate(end.index(bytes.len()));
            }
            bytes.extend(more);
            bytes
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn whatever_is_read_is_written_again(bytes in damaged()) {
        let frame = Frame::read(&bytes);
        prop_assert_eq!(frame.to_bytes(), &bytes[..]);
        if bytes.len() >= 14 {
            prop_assert!(matches!(frame.layers[0], Layer::Ethernet(_)), "not read at all: {:?}", frame);
        }
        for names in [names(), Names::default()] {
            let text = frame.text(&names);
            if text.is_empty() {
                continue;
            }
            let parsed = Frame::parse(&text, &names).map_err(|error| TestCaseError::fail(format!("{text}: {error}")))?;
            prop_assert_eq!(parsed.to_bytes(), &bytes[..], "{}", text);
        }
        let _ = sums(&bytes);
    }

    #[test]
    fn anything_at_all_is_written_again(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert_eq!(Frame::read(&bytes).to_bytes(), bytes);
    }
}
