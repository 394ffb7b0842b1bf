use evenkeel_maps::{Address, TCP};

use super::*;

const BACKEND: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(10, 1, 0, 1)), 8080);

fn connection(port: u16) -> Connection {
    let client = SocketAddr::from(([10, 0, 0, 1], port));
    let vip = SocketAddr::from(([10, 0, 0, 100], 80));
    Connection { client, vip, source: client, initial_sequence: 1, reset: false, record: Default::default() }
}

fn leftover(packets_out: u64, connections: Vec<Connection>) -> Leftover {
    let frontend = FrontendKey { address: Address::v4([10, 0, 0, 100]), port: [0, 80], protocol: TCP, pad: [0; 5] };
    Leftover { frontend, address: BACKEND, packets_out, connections }
}

fn is_due(leftovers: &Leftovers, now: Instant) -> bool {
    leftovers.next_due(1, now).is_some_and(|due| due <= now)
}

/// Looks once a round from `start` on, at what `of` says there is; the steps of each round in which something was due.
fn rounds(
    leftovers: &mut Leftovers,
    start: Instant,
    count: u32,
    of: impl Fn(u32) -> Leftover,
) -> Vec<(u32, Vec<Step>)> {
    (0..count)
        .filter_map(|round| {
            let now = start + ROUND * round;
            is_due(leftovers, now).then(|| (round, leftovers.look(&[of(round)], 1, now)))
        })
        .filter(|(_, steps)| !steps.is_empty())
        .collect()
}

#[test]
fn a_backend_that_says_nothing_is_given_up_after_three_rounds_and_its_clients_are_told_thrice() {
    let mut leftovers = Leftovers::default();
    let both = || leftover(7, vec![connection(1), connection(2)]);
    let steps = rounds(&mut leftovers, Instant::now(), 40, |_| both());
    let asked = [connection(1), connection(2)].map(|it| Step::Ask(it, BACKEND)).to_vec();
    let told = [connection(1), connection(2)].map(Step::GiveUp).to_vec();
    let expected = [(0, &asked), (1, &asked), (2, &asked), (3, &told), (7, &told), (11, &told)];
    assert_eq!(steps.iter().map(|(round, steps)| (*round, steps)).collect::<Vec<_>>(), expected);
    let last = Instant::now() + ROUND * 40;
    assert!(leftovers.next_due(1, last) > Some(last), "nothing is left to be done for the moment");
}

#[test]
fn one_that_answers_is_left_alone_for_longer_and_longer() {
    let mut leftovers = Leftovers::default();
    // Each question has an answer a round later.
    let answers = std::cell::Cell::new(0);
    let start = Instant::now();
    let mut asked = Vec::new();
    for round in 0..200 {
        let now = start + ROUND * round;
        if is_due(&leftovers, now) {
            let steps = leftovers.look(&[leftover(answers.get(), vec![connection(1)])], 1, now);
            if !steps.is_empty() {
                assert_eq!(steps, [Step::Ask(connection(1), BACKEND)]);
                asked.push(round);
                answers.set(answers.get() + 1);
            }
        }
    }
    assert_eq!(asked, [0, 5, 14, 31, 64, 129, 194], "one round for the answer, and 1, 2, 4, 8, 16, 16 s");
}

#[test]
fn one_that_dies_later_is_found_then() {
    let mut leftovers = Leftovers::default();
    let steps = rounds(&mut leftovers, Instant::now(), 12, |round| leftover(u64::from(round > 0), vec![connection(1)]));
    let (ask, give_up) = (vec![Step::Ask(connection(1), BACKEND)], vec![Step::GiveUp(connection(1))]);
    assert_eq!(steps, [(0, ask.clone()), (5, ask.clone()), (6, ask.clone()), (7, ask), (8, give_up)]);
}

#[test]
fn a_connection_that_is_reset_when_asked_about_is_given_up_alone() {
    let mut leftovers = Leftovers::default();
    let reset = |port| Connection { reset: true, ..connection(port) };
    let start = Instant::now();
    // The third was reset before anybody asked.
    let first = leftovers.look(&[leftover(0, vec![connection(1), connection(2), reset(3)])], 1, start);
    assert_eq!(first, [connection(1), connection(2)].map(|it| Step::Ask(it, BACKEND)));
    let second = leftovers.look(&[leftover(2, vec![connection(1), reset(2), reset(3)])], 1, start + ROUND);
    assert_eq!(second, [Step::GiveUp(reset(2))]);
}

#[test]
fn a_connection_that_its_client_resets_is_nobodys_business() {
    let mut leftovers = Leftovers::default();
    let reset = Connection { reset: true, ..connection(1) };
    let steps = rounds(&mut leftovers, Instant::now(), 12, |round| {
        leftover(0, vec![if round == 0 { connection(1) } else { reset }, connection(2)])
    });
    let given_up: Vec<_> =
        steps.iter().flat_map(|(_, steps)| steps).filter(|step| **step == Step::GiveUp(reset)).collect();
    assert!(given_up.is_empty(), "{steps:?}");
    assert!(steps.iter().any(|(_, steps)| steps.contains(&Step::GiveUp(connection(2)))), "{steps:?}");
}

#[test]
fn many_connections_are_asked_about_in_turn_and_told_of_in_turn() {
    let mut leftovers = Leftovers::default();
    let count = u16::try_from(TOLD_AT_ONCE).unwrap() + 100;
    let all = || leftover(0, (1..=count).map(connection).collect());
    let steps = rounds(&mut leftovers, Instant::now(), 6, |_| all());
    let sizes: Vec<_> = steps.iter().map(|(_, steps)| steps.len()).collect();
    assert_eq!(sizes, [ASKED_AT_ONCE, ASKED_AT_ONCE, ASKED_AT_ONCE, TOLD_AT_ONCE, 100]);
    assert_ne!(steps[0].1, steps[1].1, "others");
}

#[test]
fn what_is_over_is_forgotten() {
    let mut leftovers = Leftovers::default();
    let now = Instant::now();
    assert!(is_due(&leftovers, now), "a backend has gone");
    assert!(!leftovers.look(&[leftover(0, vec![connection(1)])], 1, now).is_empty());
    assert!(leftovers.look(&[], 1, now + ROUND).is_empty());
    assert_eq!(leftovers.next_due(1, now + 100 * ROUND), None);
    assert_eq!(leftovers.next_due(2, now), Some(now + 2 * ROUND), "not all the time, where many go");
}

mod segments {
    use std::net::SocketAddr;

    use proptest::prelude::*;

    use super::super::segment::acknowledgement;

    /// The checksum of RFC 9293 section 3.1 over pseudo header and segment: what is right sums up to zero.
    fn sum(packet: &[u8], addresses: std::ops::Range<usize>, header: usize) -> u16 {
        let length = u32::try_from(packet.len() - header).unwrap();
        let words = packet[addresses].chunks(2).chain(packet[header..].chunks(2));
        let mut sum: u32 = words.map(|word| u32::from(word[0]) << 8 | u32::from(word[1])).sum::<u32>() + 6 + length;
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !u16::try_from(sum).unwrap()
    }

    proptest! {
        #[test]
        fn have_the_ends_and_numbers_they_were_given(
            a: [u8; 4], b: [u8; 4], a6: [u8; 16], b6: [u8; 16], ports: (u16, u16), sequence: u32, acknowledged: u32,
        ) {
            let v4 = (SocketAddr::from((a, ports.0)), SocketAddr::from((b, ports.1)));
            let v6 = (SocketAddr::from((a6, ports.0)), SocketAddr::from((b6, ports.1)));
            for ((from, to), addresses, header) in [(v4, 12..20, 20), (v6, 8..40, 40)] {
                let packet = acknowledgement(from, to, sequence, acknowledged).unwrap();
                prop_assert_eq!(packet.len(), header + 20);
                prop_assert_eq!(sum(&packet, addresses, header), 0);
                let expected = [
                    &ports.0.to_be_bytes()[..], &ports.1.to_be_bytes(), &sequence.to_be_bytes(),
                    &acknowledged.to_be_bytes(), &[0x50, 0x10],
                ].concat();
                prop_assert_eq!(&packet[header..header + 14], &expected[..]);
            }
            prop_assert!(acknowledgement(v4.0, v6.1, 0, 0).is_none());
        }
    }
}
