//! The records of ownership, one for each address.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use crate::Node;

/// What a compare-and-swap compares: opaque, from the API (`metadata.resourceVersion`).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(pub Arc<str>);

/// Who owns an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The owner.
    pub holder: Node,
    /// Rises with every change of hands.
    pub epoch: u64,
    /// Which object this is: one that is made anew under the same name counts its epochs anew (`metadata.uid`).
    pub incarnation: Arc<str>,
    /// The object's version; `None`: it was deleted, and its holder makes it again.
    pub version: Option<Version>,
}

/// The records as far as they are known.
#[derive(Debug, Default)]
pub struct Records {
    records: BTreeMap<IpAddr, Record>,
}

impl Records {
    /// What is known of an address.
    #[must_use]
    pub fn get(&self, address: IpAddr) -> Option<&Record> {
        self.records.get(&address)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (IpAddr, &Record)> {
        self.records.iter().map(|(address, record)| (*address, record))
    }

    /// Takes notice of a record, unless it is older than what is known: what a watch delivers may be behind the answer to
    /// this node's own write. Returns whether it was news.
    pub fn learn(&mut self, address: IpAddr, record: Record) -> bool {
        if let Some(known) = self.records.get(&address)
            && known.version.is_some()
            && known.incarnation == record.incarnation
            && (record.epoch < known.epoch || *known == record)
        {
            return false;
        }
        self.records.insert(address, record);
        true
    }

    /// The object was deleted, by a hand that is none of ours: whoever held it still does, and makes it again.
    pub fn deleted(&mut self, address: IpAddr, incarnation: &str) {
        if let Some(record) = self.records.get_mut(&address)
            && *record.incarnation == *incarnation
        {
            record.version = None;
        }
    }

    /// Lets go of an address whose object was deleted.
    pub fn forget_deleted(&mut self, address: IpAddr) {
        if self.records.get(&address).is_some_and(|record| record.version.is_none()) {
            self.records.remove(&address);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(holder: &str, epoch: u64, incarnation: &str) -> Record {
        let version = Some(Version(format!("{incarnation}-{epoch}").into()));
        Record { holder: holder.into(), epoch, incarnation: incarnation.into(), version }
    }

    #[test]
    fn what_is_older_than_known_is_no_news() {
        let (address, mut records) = ([10, 0, 0, 1].into(), Records::default());
        assert!(records.learn(address, record("b", 2, "x")));
        assert!(!records.learn(address, record("a", 1, "x")));
        assert!(!records.learn(address, record("b", 2, "x")));
        assert_eq!(&*records.get(address).unwrap().holder, "b");
        assert!(records.learn(address, record("c", 3, "x")));
    }

    #[test]
    fn an_object_made_anew_counts_anew() {
        let (address, mut records) = ([10, 0, 0, 1].into(), Records::default());
        records.learn(address, record("b", 7, "x"));
        records.deleted(address, "another");
        assert!(records.get(address).unwrap().version.is_some());
        records.deleted(address, "x");
        assert_eq!(&*records.get(address).unwrap().holder, "b");
        assert!(records.learn(address, record("c", 1, "y")));
        assert_eq!(&*records.get(address).unwrap().holder, "c");
    }
}
