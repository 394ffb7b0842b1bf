//! Connections to backends that are no longer endpoints.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
};

use evenkeel_maps::{Address, Backend, Flow, FlowBucket, FrontendKey, ReplyBucket, TCP, Tuple, backend_state, ticks};

use crate::{
    flows::{self, FlowTable, Record},
    shared::{Elements, Words},
    slots::{self, Slots},
};

/// A backend that is no longer an endpoint and has TCP connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leftover {
    /// Its frontend.
    pub frontend: FrontendKey,
    /// The backend.
    pub address: SocketAddr,
    /// Packets it has sent, to any client, since its slot is its own.
    pub packets_out: u64,
    /// Its connections: those that both ends have taken part in.
    pub connections: Vec<Connection>,
}

/// An established connection of a [`Leftover`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Connection {
    /// The client.
    pub client: SocketAddr,
    /// Whom the client takes for the server.
    pub vip: SocketAddr,
    /// Whom the backend takes for the client.
    pub source: SocketAddr,
    /// The client's initial sequence number; zero if its SYN was not seen.
    pub initial_sequence: u32,
    /// One of the ends has reset it.
    pub reset: bool,
    /// Where its record was.
    pub record: Record,
}

impl Connection {
    fn of(flow: &Flow, record: Record, sources: &[Address]) -> Self {
        let client = end(flow.client.ip(), flow.client_port);
        let source = match sources.get(usize::from(flow.source)) {
            Some(address) if flow.source_port != [0; 2] => end(address.ip(), flow.source_port),
            _ => client,
        };
        Self {
            client,
            vip: end(flow.vip.ip(), flow.vip_port),
            source,
            initial_sequence: u32::from_be_bytes(flow.initial_sequence),
            reset: flow.state & Flow::RESET != 0,
            record,
        }
    }

    fn tuple(&self) -> Tuple {
        Tuple {
            source: self.client.ip().into(),
            destination: self.vip.ip().into(),
            source_port: self.client.port().to_be_bytes(),
            destination_port: self.vip.port().to_be_bytes(),
            protocol: TCP,
            pad: [0; 3],
        }
    }
}

fn end(address: IpAddr, port: [u8; 2]) -> SocketAddr {
    SocketAddr::new(address, u16::from_be_bytes(port))
}

/// The connections of every tombstone, without those that are over. Tombstones that have none are left out.
pub(crate) fn find<B, F, R>(
    slots: &Slots<B>,
    flows: &FlowTable<F, R>,
    sources: &[Address],
    now: u32,
) -> Vec<(u32, Leftover)>
where
    B: Elements<Backend>,
    F: Elements<FlowBucket> + Words,
    R: Elements<ReplyBucket> + Words,
{
    let is_left = |backend: &Backend| backend.state == backend_state::TOMBSTONE && backend.frontend.protocol == TCP;
    let mut left: HashMap<u32, (Backend, Vec<Connection>)> = slots
        .used()
        .filter(|(_, backend)| is_left(backend))
        .map(|(slot, backend)| (slot, (backend, Vec::new())))
        .collect();
    if left.is_empty() {
        return Vec::new();
    }
    flows.for_each_at(|record, flow| {
        let has_ended = flow.is_closed() && flow.state & Flow::RESET == 0;
        if flow.protocol != TCP || flow.state & Flow::ESTABLISHED == 0 || has_ended {
            return;
        }
        if let Some((backend, connections)) = left.get_mut(&flow.backend)
            && backend.generation == flow.generation
            && flows::is_live(flow, now, ticks::TCP_LINGER)
        {
            connections.push(Connection::of(flow, record, sources));
        }
    });
    left.into_iter()
        .filter(|(_, (_, connections))| !connections.is_empty())
        .map(|(slot, (backend, connections))| {
            let (frontend, address) = (backend.frontend, slots::address(&backend));
            (slot, Leftover { frontend, address, packets_out: 0, connections })
        })
        .collect()
}

/// Has the client's next packet of a connection answered by a reset, unless the backend says something before. `false`: the
/// connection is not there any more.
pub(crate) fn abandon<F, R>(flows: &FlowTable<F, R>, connection: &Connection) -> bool
where
    F: Elements<FlowBucket> + Words,
    R: Elements<ReplyBucket> + Words,
{
    flows.set_datagrams(connection.record, &connection.tuple(), Flow::IN_VAIN + 1)
}

#[cfg(test)]
mod tests {
    use evenkeel_maps::{REPLY_BUCKETS_PER_FLOW_BUCKET, UDP};

    use super::*;
    use crate::{
        shared::SharedArray,
        spec::{BackendSpec, State},
    };

    const NOW: u32 = 10 * ticks::TCP_ESTABLISHED;
    const ESTABLISHED: u8 = Flow::ANSWERED | Flow::ESTABLISHED;

    fn flow(port: u16, slot: u32, state: u8) -> Flow {
        let (client, vip) = (Address::v4([10, 0, 0, 1]), Address::v4([10, 0, 0, 100]));
        let (client_port, initial_sequence) = (port.to_be_bytes(), [0, 0, 1, 2]);
        let times = Flow { last_seen: NOW - 1, client_seen: NOW - 1, ..Flow::NONE };
        Flow {
            client,
            vip,
            client_port,
            vip_port: [0, 80],
            protocol: TCP,
            backend: slot,
            state,
            initial_sequence,
            ..times
        }
    }

    #[test]
    fn established_connections_of_tombstones_are_found_and_given_up() {
        let frontend =
            |protocol| FrontendKey { address: Address::v4([10, 0, 0, 100]), port: [0, 80], protocol, pad: [0; 5] };
        let spec = |host: u8| BackendSpec {
            address: SocketAddr::from(([10, 1, 0, host], 8080)),
            state: State::Active,
            share: 0,
            elsewhere: false,
        };
        let mut slots = Slots::adopt(vec![Backend::FREE; 8]);
        let mut put = |protocol, host| slots.put(frontend(protocol), &spec(host), 0).unwrap();
        let (gone, stays, datagrams) = (put(TCP, 1), put(TCP, 2), put(UDP, 3));
        slots.bury_others(frontend(TCP), &[spec(2)]);
        slots.bury_others(frontend(UDP), &[]);

        let replies = SharedArray::anonymous(4 * REPLY_BUCKETS_PER_FLOW_BUCKET);
        let flows = FlowTable::new(SharedArray::anonymous(4), replies, 7);
        let sources = [Address::v4([10, 2, 0, 1])];
        let late = Flow { last_seen: NOW - ticks::TCP_ESTABLISHED, ..flow(9, gone, ESTABLISHED) };
        let behind = Flow { source_port: 33_000_u16.to_be_bytes(), ..flow(2, gone, ESTABLISHED | Flow::RESET) };
        for flow in [
            flow(1, gone, ESTABLISHED),
            behind,
            flow(3, gone, ESTABLISHED | Flow::FIN_CLIENT | Flow::FIN_BACKEND),
            flow(4, gone, Flow::ANSWERED),
            flow(5, stays, ESTABLISHED),
            Flow { protocol: UDP, ..flow(6, datagrams, ESTABLISHED) },
            Flow { generation: 1, ..flow(7, gone, ESTABLISHED) },
            late,
        ] {
            flows.insert(&flow, &slots.get(flow.backend));
        }

        let mut found = find(&slots, &flows, &sources, NOW);
        let (slot, mut leftover) = found.pop().unwrap();
        assert!(found.is_empty());
        assert_eq!((slot, leftover.address), (gone, spec(1).address));
        leftover.connections.sort_by_key(|connection| connection.client.port());
        let seen: Vec<_> =
            leftover.connections.iter().map(|it| (it.client.port(), it.source.to_string(), it.reset)).collect();
        assert_eq!(seen, [(1, "10.0.0.1:1".to_owned(), false), (2, "10.2.0.1:33000".to_owned(), true)]);
        assert_eq!(leftover.connections[0].initial_sequence, 0x102);

        let [first, second] = leftover.connections[..] else { panic!("{leftover:?}") };
        assert!(abandon(&flows, &first));
        assert!(!abandon(&flows, &Connection { record: first.record, ..second }), "another connection's record");
        let mut given_up = Vec::new();
        flows.for_each(|flow| {
            if flow.datagrams == Flow::IN_VAIN + 1 {
                given_up.push((flow.client_port, flow.state));
            }
        });
        assert_eq!(given_up, [([0, 1], ESTABLISHED)]);
    }
}
