//! What the end of a server explains: requests and connections that no load balancer could have saved.

use std::{collections::HashMap, time::Duration};

use evenkeel_probe::{
    Cause, LaneKind,
    measure::{Phase, RequestResult},
};

use crate::{
    director::{Kill, REQUEST_TIMEOUT},
    load::LaneOf,
};

/// How long after a server was told to end its kept connections may break: it waits a second for those in use, then its process
/// has to go.
const KEPT_END: Duration = Duration::from_secs(3);
/// How long after a server's end a datagram of its flows may still be sent to it: rules like kube-proxy's follow after a second.
/// What is lost later was lost by whoever carries the flow.
const FLOWS_FOLLOW: Duration = Duration::from_secs(2);

/// Whether a request was on a connection that was complete on a backend when that was ended.
///
/// A connection on which the server has named itself was complete on it. Where it has not, it was if the handshake was
/// complete and begun before the backend had closed; unless it ended at a proxy, which could have tried again.
pub(crate) fn was_in_flight(result: &RequestResult, server: Option<&str>, kills: &[Kill], proxy: bool) -> bool {
    if result.phase != Phase::Established {
        return false;
    }
    kills.iter().any(|kill| match result.server.as_deref().or(server) {
        Some(server) => server == kill.server && result.end >= kill.at,
        None => !proxy && result.sent <= kill.closed && result.end >= kill.at,
    })
}

/// The ended backend that a datagram may have been lost with: it was sent soon after its flow's backend had been told to end, and
/// that backend is the one that had answered the flow before, where answers say who gave them. A datagram from a new port is no
/// flow's.
pub(crate) fn of_ended_flow(
    lane: LaneOf,
    result: &RequestResult,
    server: Option<&str>,
    kills: &[Kill],
) -> Option<usize> {
    let fixed = matches!(lane.kind, LaneKind::UdpFixed | LaneKind::DnsFixed);
    if !fixed {
        return None;
    }
    let server = result.server.as_deref().or(server);
    kills.iter().rposition(|kill| {
        (kill.at..kill.at + FLOWS_FOLLOW).contains(&result.sent) && server.is_none_or(|server| server == kill.server)
    })
}

/// Whether a kept connection broke, and no server's end explains it. Its request was sent again on a new one and may well have
/// succeeded, as it would for clients that do so; for others it would not.
pub(crate) fn broke_kept(result: &RequestResult, kills: &[Kill]) -> bool {
    // It broke between these two moments of the request.
    let explains = |kill: &Kill| kill.at <= result.end && result.sent < kill.at + KEPT_END;
    result.retried && !kills.iter().any(explains)
}

/// Whom a connection or a flow was with.
struct With<'a> {
    server: &'a str,
    /// When the connection had broken: what was sent later was on another.
    until: Option<Duration>,
}

/// The servers of failed requests on long-lived connections and from fixed ports, by lane and number: a request that stalls does
/// not say whose its connection was, the answers before it on the same connection do.
pub(crate) fn named_before<'a>(lanes: &[LaneOf], results: &'a [RequestResult]) -> HashMap<(usize, u64), &'a str> {
    let of = |result: &RequestResult| lanes[result.lane];
    let mut standing: Vec<&RequestResult> =
        results.iter().filter(|result| matches!(of(result).kind, LaneKind::TcpLong | LaneKind::UdpFixed)).collect();
    standing.sort_unstable_by_key(|result| (result.lane, result.sequence));
    let mut last: HashMap<(usize, u64), With<'_>> = HashMap::new();
    let mut servers = HashMap::new();
    for result in standing {
        let connection = (result.lane, of(result).connection(result.sequence));
        if let (Some(server), None) = (&result.server, result.cause) {
            last.insert(connection, With { server, until: None });
        } else if let Some(with) = last.get_mut(&connection)
            && with.until.is_none_or(|until| result.sent < until)
        {
            servers.insert((result.lane, result.sequence), with.server);
            if of(result).kind == LaneKind::TcpLong && ends_connection(result) {
                with.until.get_or_insert(result.end);
            }
        }
    }
    servers
}

/// Whether the connection of a failed request is not used again. One on which a request stalled is, until it has been silent for
/// another timeout; all that waits on it then ends before its own time.
fn ends_connection(result: &RequestResult) -> bool {
    result.cause != Some(Cause::ReadStall) || result.end < result.sent + REQUEST_TIMEOUT
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::latency::tests::request;

    const KILL: Duration = Duration::from_millis(1000);

    fn kills() -> Vec<Kill> {
        vec![Kill { server: "a".to_owned(), at: KILL, closed: KILL + Duration::from_millis(10) }]
    }

    fn result(phase: Phase, server: Option<&str>, sent: u64, end: u64) -> RequestResult {
        let (cause, server) = (Some(Cause::Reset), server.map(str::to_owned));
        RequestResult { cause, phase, server, ..request(sent, sent, end) }
    }

    /// A request on a long-lived connection or from a fixed port.
    fn standing(sequence: u64, server: Option<&str>, cause: Option<Cause>, sent: u64, end: u64) -> RequestResult {
        RequestResult { sequence, cause, ..result(Phase::Established, server, sent, end) }
    }

    #[test]
    fn in_flight_is_what_was_complete_on_the_ended_backend() {
        let established =
            |server, sent, end| was_in_flight(&result(Phase::Established, server, sent, end), None, &kills(), false);
        assert!(established(Some("a"), 900, 1001));
        assert!(!established(Some("b"), 900, 1001), "another backend");
        assert!(!established(Some("a"), 900, 999), "before it was ended");
        assert!(established(None, 1005, 1006), "not accepted yet");
        assert!(!established(None, 1020, 1021), "nobody could complete it there any more");
        assert!(!was_in_flight(&result(Phase::Connecting, None, 1000, 1001), None, &kills(), false));
        assert!(!was_in_flight(&result(Phase::Established, None, 1000, 1001), None, &kills(), true), "at a proxy");
    }

    #[test]
    fn a_stalled_request_is_of_the_server_that_answered_before() {
        let lanes = [LaneOf { kind: LaneKind::TcpLong, connections: 2 }];
        let of = |sequence, server, cause| standing(sequence, server, cause, 1500, 5500);
        let results = [
            of(0, Some("a"), None),
            of(1, Some("b"), None),
            of(3, None, Some(Cause::ReadStall)),
            of(2, None, Some(Cause::ReadStall)),
        ];
        let named = named_before(&lanes, &results);
        assert_eq!(named, HashMap::from([((0, 2), "a"), ((0, 3), "b")]));
        assert!(was_in_flight(&results[3], Some("a"), &kills(), false));
        assert!(!was_in_flight(&results[2], Some("b"), &kills(), false));
    }

    #[test]
    fn a_new_connection_is_not_of_the_server_of_the_broken_one() {
        let lanes = [LaneOf { kind: LaneKind::TcpLong, connections: 2 }];
        let (reset, stall) = (Some(Cause::Reset), Some(Cause::ReadStall));
        let results = [
            standing(0, Some("a"), None, 100, 101),
            standing(2, None, reset, 1500, 1600),
            // On the same connection, and on the one opened then.
            standing(4, None, reset, 1550, 1600),
            standing(6, None, reset, 1650, 1700),
            standing(8, Some("c"), None, 1750, 1751),
            standing(10, None, stall, 1800, 5800),
            standing(1, Some("b"), None, 200, 201),
            standing(3, None, stall, 1500, 5500),
            // Silent for too long: given up with the connection, before its time.
            standing(5, None, stall, 1900, 5500),
            standing(7, None, reset, 5600, 5601),
        ];
        let named = named_before(&lanes, &results);
        let expected = [((0, 2), "a"), ((0, 4), "a"), ((0, 10), "c"), ((0, 3), "b"), ((0, 5), "b")];
        assert_eq!(named, HashMap::from(expected));
    }

    #[test]
    fn a_flow_is_lost_with_the_backend_ended_last() {
        let lane = |kind| LaneOf { kind, connections: 1 };
        let of = |kind, sent| of_ended_flow(lane(kind), &result(Phase::Datagram, None, sent, 5001), None, &kills());
        assert_eq!(of(LaneKind::UdpFixed, 1001), Some(0));
        assert_eq!(of(LaneKind::DnsFixed, 2999), Some(0));
        assert_eq!(of(LaneKind::Udp, 1001), None);
        assert_eq!(of(LaneKind::UdpFixed, 999), None);
        assert_eq!(of(LaneKind::UdpFixed, 3000), None, "whoever carries it has had the time to follow");
    }

    #[test]
    fn a_flow_of_another_backend_is_not_lost_with_the_ended_one() {
        let lanes = [
            LaneOf { kind: LaneKind::UdpFixed, connections: 10 },
            LaneOf { kind: LaneKind::UdpFixed, connections: 10 },
        ];
        let of = |lane, sequence, server, cause, sent| RequestResult {
            lane,
            phase: Phase::Datagram,
            ..standing(sequence, server, cause, sent, sent + 1)
        };
        let lost = Some(Cause::NoReply);
        let results = [
            of(0, 6, Some("b"), None, 900),
            of(0, 7, None, lost, 1001),
            of(0, 8, None, lost, 1101),
            of(1, 6, Some("a"), None, 900),
            of(1, 7, None, lost, 1001),
            of(1, 8, Some("b"), None, 1101),
            of(1, 9, None, lost, 1201),
        ];
        let named = named_before(&lanes, &results);
        let ended = |index: usize| {
            let result = &results[index];
            of_ended_flow(lanes[result.lane], result, named.get(&(result.lane, result.sequence)).copied(), &kills())
        };
        assert_eq!([ended(1), ended(2), ended(4), ended(6)], [None, None, Some(0), None]);
    }

    #[test]
    fn a_kept_connection_may_break_while_a_server_ends() {
        let broke = |sent, end| broke_kept(&RequestResult { retried: true, ..request(sent, sent, end) }, &kills());
        assert!(broke(990, 999));
        assert!(!broke(990, 1001));
        assert!(!broke(3999, 5000), "sent again, it may have taken longer");
        assert!(broke(4000, 4001));
        assert!(!broke_kept(&request(990, 990, 999), &kills()), "nothing broke");
    }
}
