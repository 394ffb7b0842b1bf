//! The flow table as user space sees it: reading it, and removing what is over.
//!
//! The programs make room themselves where they need it; this keeps most of the table free, so that they seldom have to.

use std::collections::{BTreeSet, HashSet};

use evenkeel_maps::{
    Address, Backend, Flow, FlowBucket, Place, REPLY_BUCKETS_PER_FLOW_BUCKET, ReplyBucket, Tuple, UDP, WAYS, place,
    ticks,
};

use crate::{
    Failure,
    shared::{Elements, Words},
};

/// A place in the flow table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Record {
    bucket: usize,
    way: usize,
}

/// The flow table and its reply index.
pub(crate) struct FlowTable<F, R> {
    flows: F,
    replies: R,
    seed: u64,
    /// Ways that were claimed at the last sweep. The programs claim one for less than a microsecond: one that is claimed at
    /// two sweeps was left behind by a process that ended in between.
    claimed: HashSet<(u32, u32)>,
}

impl<F: Elements<FlowBucket> + Words, R: Elements<ReplyBucket> + Words> FlowTable<F, R> {
    pub(crate) fn new(flows: F, replies: R, seed: u64) -> Self {
        Self { flows, replies, seed, claimed: HashSet::new() }
    }

    /// Buckets of the table.
    pub(crate) fn buckets(&self) -> u32 {
        u32::try_from(self.flows.count()).unwrap_or(u32::MAX)
    }

    /// Calls `each` for every flow. The table changes meanwhile: a flow can be missed, or be half another's.
    pub(crate) fn for_each(&self, mut each: impl FnMut(&Flow)) {
        self.for_each_at(|_, flow| each(flow));
    }

    /// The same, with the place of each.
    pub(crate) fn for_each_at(&self, mut each: impl FnMut(Record, &Flow)) {
        for bucket in 0..self.flows.count() {
            for (way, tag) in self.used(bucket) {
                let flow = self.record(bucket, way);
                if tag > FlowBucket::CLAIMED && flow.protocol != 0 {
                    each(Record { bucket, way }, &flow);
                }
            }
        }
    }

    /// Sets [`Flow::datagrams`] of a flow. `false`: another one is there, or none.
    pub(crate) fn set_datagrams(&self, Record { bucket, way }: Record, key: &Tuple, datagrams: u8) -> bool {
        loop {
            let flow = self.record(bucket, way);
            if flow.tuple() != *key {
                return false;
            }
            let word = |datagrams| u32::from_ne_bytes([flow.protocol, flow.state, flow.flags, datagrams]);
            if self.flows.exchange(bucket, word_offset(way), word(flow.datagrams), word(datagrams)) {
                return true;
            }
        }
    }

    /// The rows of the sources map that flows name.
    pub(crate) fn sources(&self) -> BTreeSet<u8> {
        let mut rows = BTreeSet::new();
        self.for_each(|flow| rows.extend(source(flow)));
        rows
    }

    /// Has the flows that name a row of the sources map name another one, which holds the same address.
    pub(crate) fn move_source(&self, from: u8, to: u8) {
        self.for_each_at(|Record { bucket, way }, flow| {
            if source(flow) == Some(from) {
                let [high, low] = flow.source_port;
                let word = |row| u32::from_ne_bytes([high, low, row, flow.pad]);
                // Should there be another flow by now, it names the same row, or the word is another one.
                self.flows.exchange(bucket, source_offset(way), word(from), word(to));
            }
        });
    }

    /// How many flows there are.
    pub(crate) fn len(&self) -> u64 {
        let is_flow = |(_, tag): &(usize, u32)| *tag > FlowBucket::CLAIMED;
        (0..self.flows.count()).map(|index| self.used(index).filter(is_flow).fold(0, |flows, _| flows + 1)).sum()
    }

    /// The ways of a bucket that are not free, with their tags. Nothing else is read for that: most of a table is free most of
    /// the time, and it is large.
    fn used(&self, index: usize) -> impl Iterator<Item = (usize, u32)> + use<F, R> {
        let tags: [u32; WAYS] = self.flows.load(index, std::mem::offset_of!(FlowBucket, tags));
        tags.into_iter().enumerate().filter(|(_, tag)| *tag != FlowBucket::FREE)
    }

    fn record(&self, index: usize, way: usize) -> Flow {
        self.flows.load(index, std::mem::offset_of!(FlowBucket, flows) + way * size_of::<Flow>())
    }

    /// Removes the flows that `is_over` says so of. `backend` gives the backend slot of a number.
    pub(crate) fn sweep(
        &mut self,
        is_over: impl Fn(&Flow) -> bool,
        sources: &[evenkeel_maps::Address],
        backend: impl Fn(u32) -> Backend,
    ) -> usize {
        let mut removed = 0;
        let mut claimed = HashSet::new();
        for index in 0..self.flows.count() {
            for (way, tag) in self.used(index) {
                let (Ok(number), flow) = (u32::try_from(index * WAYS + way), self.record(index, way)) else { continue };
                if tag == FlowBucket::CLAIMED {
                    let place = (number, flow.last_seen);
                    if self.claimed.contains(&place) {
                        self.flows.exchange(index, way * 4, FlowBucket::CLAIMED, FlowBucket::FREE);
                    } else {
                        claimed.insert(place);
                    }
                } else if is_over(&flow) && self.flows.exchange(index, way * 4, tag, FlowBucket::CLAIMED) {
                    removed += self.remove(index, way, tag, number, &is_over, sources, &backend);
                }
            }
        }
        self.claimed = claimed;
        removed
    }

    /// Removes the flow of a way that has been claimed, if it is still over.
    #[expect(clippy::too_many_arguments, reason = "all of one record's place")]
    fn remove(
        &mut self,
        index: usize,
        way: usize,
        tag: u32,
        number: u32,
        is_over: impl Fn(&Flow) -> bool,
        sources: &[evenkeel_maps::Address],
        backend: impl Fn(u32) -> Backend,
    ) -> usize {
        // It may have seen a packet, or been another flow's, before it was claimed.
        let flow = self.record(index, way);
        if !is_over(&flow) {
            self.flows.exchange(index, way * 4, FlowBucket::CLAIMED, tag);
            return 0;
        }
        let word = u32::from_ne_bytes([flow.protocol, flow.state, flow.flags, flow.datagrams]);
        // Protocol zero: no packet matches the record any more.
        if !self.flows.exchange(index, word_offset(way), word, 0) {
            // A packet had found it before it was claimed.
            self.flows.exchange(index, way * 4, FlowBucket::CLAIMED, tag);
            return 0;
        }
        self.forget_reply(&flow, number, &backend(flow.backend), sources);
        self.flows.exchange(index, way * 4, FlowBucket::CLAIMED, FlowBucket::FREE);
        1
    }

    /// Records a flow to `backend`, whose slot and generation it names, with the client's own address and port towards it.
    /// Nobody is evicted for it.
    pub(crate) fn insert(&self, flow: &Flow, backend: &Backend) -> Insertion {
        let key = flow.tuple();
        let place = place(key.hash(self.seed), self.buckets());
        let buckets = [place.first, place.second].map(|index| (index, self.flows.read(index as usize)));
        if buckets.iter().any(|(_, bucket)| holds(bucket, place.tag, &key)) {
            return Insertion::Present;
        }
        let Some((index, way)) = self.claim(&place, &buckets) else { return Insertion::NoRoom };
        let record = size_of::<[u32; WAYS]>() + way * size_of::<Flow>();
        let protocol = record + std::mem::offset_of!(Flow, protocol);
        self.flows.store(index, record, Flow { protocol: 0, ..*flow });
        self.flows.store(index, protocol, flow.protocol);
        let is_added = u32::try_from(index * WAYS + way)
            .is_ok_and(|number| self.add_reply(&reply_key(flow, backend, flow.client), number));
        if !is_added {
            self.flows.store(index, protocol, 0_u8);
        }
        let tag = if is_added { place.tag } else { FlowBucket::FREE };
        self.flows.exchange(index, way * 4, FlowBucket::CLAIMED, tag);
        if is_added { Insertion::Recorded } else { Insertion::NoRoom }
    }

    /// Claims a free way, of the emptier bucket: the one that the hash points to, or else the next.
    fn claim(&self, place: &Place, buckets: &[(u32, FlowBucket); 2]) -> Option<(usize, usize)> {
        let is_free = |tag: &&u32| **tag == FlowBucket::FREE;
        let [first, second] = buckets.each_ref().map(|(_, bucket)| bucket.tags.iter().filter(is_free).count());
        let order = if second > first { [place.second, place.first] } else { [place.first, place.second] };
        let ways = || (0..WAYS).map(|step| (place.way as usize + step) % WAYS);
        order
            .into_iter()
            .flat_map(|index| ways().map(move |way| (index as usize, way)))
            .find(|(index, way)| self.flows.exchange(*index, way * 4, FlowBucket::FREE, FlowBucket::CLAIMED))
    }

    fn add_reply(&self, key: &Tuple, number: u32) -> bool {
        let place = self.reply_place(key);
        let entry = ReplyBucket::entry(place.tag, number);
        [place.first, place.second].into_iter().any(|index| {
            (0..ReplyBucket::ENTRIES).any(|position| self.replies.exchange_wide(index as usize, position * 8, 0, entry))
        })
    }

    fn reply_place(&self, key: &Tuple) -> Place {
        let buckets = u32::try_from(self.flows.count() * REPLY_BUCKETS_PER_FLOW_BUCKET).unwrap_or(u32::MAX);
        place(key.reply_hash(self.seed), buckets)
    }

    fn forget_reply(&mut self, flow: &Flow, number: u32, backend: &Backend, sources: &[evenkeel_maps::Address]) {
        let rewritten = flow.source_port != [0; 2];
        let client =
            if rewritten { sources.get(flow.source as usize).copied().unwrap_or(flow.client) } else { flow.client };
        let place = self.reply_place(&reply_key(flow, backend, client));
        let entry = ReplyBucket::entry(place.tag, number);
        for index in [place.first as usize, place.second as usize] {
            for (position, present) in self.replies.read(index).entries.iter().enumerate() {
                if *present == entry {
                    self.replies.exchange_wide(index, position * 8, entry, 0);
                }
            }
        }
    }
}

/// Where in a bucket the word is that holds protocol, state, flags and datagrams of a way's record.
const fn word_offset(way: usize) -> usize {
    size_of::<[u32; WAYS]>() + way * size_of::<Flow>() + std::mem::offset_of!(Flow, protocol)
}

/// Where in a bucket the word is that holds the port and the row that stand for the client's ends in a way's record.
const fn source_offset(way: usize) -> usize {
    size_of::<[u32; WAYS]>() + way * size_of::<Flow>() + std::mem::offset_of!(Flow, source_port)
}

/// The row of the sources map that a flow names, if any.
pub(crate) fn source(flow: &Flow) -> Option<u8> {
    (flow.source_port != [0; 2]).then_some(flow.source)
}

/// What became of a flow that was to be recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Insertion {
    /// It is recorded now.
    Recorded,
    /// There is a record of it, which stays as it is.
    Present,
    /// Its buckets, or those of its replies, are full.
    NoRoom,
}

fn holds(bucket: &FlowBucket, tag: u32, key: &Tuple) -> bool {
    bucket.tags.iter().zip(&bucket.flows).any(|(present, flow)| *present == tag && flow.tuple() == *key)
}

/// What a flow's packets from the backend look like, which takes `client` for its client.
pub(crate) fn reply_key(flow: &Flow, backend: &Backend, client: Address) -> Tuple {
    Tuple {
        source: backend.address,
        destination: client,
        source_port: backend.port,
        destination_port: if flow.source_port == [0; 2] { flow.client_port } else { flow.source_port },
        protocol: flow.protocol,
        pad: [0; 3],
    }
}

/// Whether a flow still needs its backend's slot: it would send packets there. One that both ends have closed, or that was
/// reset, counts for `linger` ticks more: the reset may be forged.
pub(crate) fn is_live(flow: &Flow, now: u32, linger: u32) -> bool {
    let limit = match flow.protocol {
        UDP => ticks::UDP_IDLE,
        _ if flow.is_closed() => linger,
        _ => flow.timeout(),
    };
    flow.quiet(now) < limit
}

/// How the backend failed the client of this flow, if it did.
pub(crate) fn failure(flow: &Flow) -> Option<Failure> {
    if flow.state & Flow::ANSWERED != 0 {
        None
    } else if flow.state & Flow::REFUSED != 0 {
        Some(if flow.state & Flow::RESET != 0 { Failure::Reset } else { Failure::Unreachable })
    } else if flow.state & Flow::RETRIED != 0 {
        Some(Failure::Silence)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use evenkeel_maps::TCP;

    use super::*;
    use crate::shared::SharedArray;

    const BACKEND: Backend = Backend { address: Address::v4([10, 1, 0, 1]), port: [0x1f, 0x90], ..Backend::FREE };

    fn table(buckets: usize) -> FlowTable<SharedArray<FlowBucket>, SharedArray<ReplyBucket>> {
        let replies = SharedArray::anonymous(buckets * REPLY_BUCKETS_PER_FLOW_BUCKET);
        FlowTable::new(SharedArray::anonymous(buckets), replies, 7)
    }

    fn flow(port: u16) -> Flow {
        let (client, vip) = (Address::v4([10, 0, 0, 1]), Address::v4([10, 0, 0, 100]));
        Flow { client, vip, client_port: port.to_be_bytes(), vip_port: [0, 80], protocol: TCP, ..Flow::NONE }
    }

    fn reply_entries(table: &FlowTable<SharedArray<FlowBucket>, SharedArray<ReplyBucket>>) -> usize {
        let buckets = (0..table.replies.count()).map(|index| table.replies.read(index));
        buckets.flat_map(|bucket| bucket.entries).filter(|entry| *entry != 0).count()
    }

    #[test]
    fn a_flow_is_recorded_once_and_its_reply_entry_names_it() {
        let table = table(4);
        let flow = Flow { state: Flow::ESTABLISHED, initial_sequence: [1, 2, 3, 4], ..flow(1000) };
        assert_eq!(table.insert(&flow, &BACKEND), Insertion::Recorded);
        assert_eq!(table.insert(&Flow { backend: 9, ..flow }, &BACKEND), Insertion::Present);
        let place = table.reply_place(&reply_key(&flow, &BACKEND, flow.client));
        let entry = table.replies.read(place.first as usize).entries[0];
        assert_eq!(entry >> 32, u64::from(place.tag));
        let number = usize::try_from(entry & 0xffff_ffff).unwrap();
        assert_eq!(table.flows.read(number / WAYS).flows[number % WAYS], flow);
    }

    #[test]
    fn a_full_table_takes_no_more_and_keeps_what_it_has() {
        let mut table = table(2);
        let recorded = (1..=100).filter(|port| table.insert(&flow(*port), &BACKEND) == Insertion::Recorded).count();
        let mut present = 0;
        table.for_each(|_| present += 1);
        assert_eq!(present, recorded);
        assert!(recorded > WAYS && recorded <= 2 * WAYS, "{recorded}");
        assert_eq!(reply_entries(&table), recorded);
        assert_eq!(table.sweep(|_| true, &[], |_| BACKEND), recorded);
        assert_eq!(reply_entries(&table), 0, "the sweep finds the entries where the insertion put them");
    }

    #[test]
    fn flows_that_name_a_row_of_the_sources_name_another() {
        let table = table(4);
        let of_row = |port, source| Flow { source, source_port: [0xee, 0x48], ..flow(port) };
        for flow in [flow(1), of_row(2, 0), of_row(3, 1)] {
            assert_eq!(table.insert(&flow, &BACKEND), Insertion::Recorded);
        }
        assert_eq!(table.sources(), BTreeSet::from([0, 1]));
        table.move_source(0, 5);
        let mut seen = Vec::new();
        table.for_each(|flow| seen.push(*flow));
        seen.sort_by_key(|flow| flow.client_port);
        assert_eq!(seen, [flow(1), of_row(2, 5), of_row(3, 1)]);
    }

    #[test]
    fn only_what_was_never_answered_failed() {
        let failed = |state| failure(&Flow { protocol: evenkeel_maps::TCP, state, ..Flow::NONE });
        assert_eq!(failed(0), None);
        assert_eq!(failed(Flow::REFUSED | Flow::RESET), Some(Failure::Reset));
        assert_eq!(failed(Flow::REFUSED), Some(Failure::Unreachable));
        assert_eq!(failed(Flow::RETRIED), Some(Failure::Silence));
        assert_eq!(failed(Flow::RETRIED | Flow::ANSWERED), None);
        assert_eq!(failed(Flow::RESET | Flow::ANSWERED), None);
    }
}
