//! The rows of the limits map: one for each service that has limits, shared by its frontends.

use std::{
    collections::{HashMap, HashSet},
    num::NonZeroU32,
    sync::Arc,
};

use evenkeel_maps::Limit;

use crate::{Limits, shared::Elements};

/// The programs count thousandths of new flows in 32 bits.
const MAX_BURST: u32 = 4_000_000;

/// Which row is whose.
pub(crate) struct LimitRows<E> {
    array: E,
    by_name: HashMap<Arc<str>, u32>,
    /// Rows of frontends that an earlier process carried and this one has not been told of.
    adopted: HashSet<u32>,
}

impl<E: Elements<Limit>> LimitRows<E> {
    /// `adopted`: the rows of limited frontends that are carried already.
    pub(crate) fn new(array: E, adopted: impl IntoIterator<Item = u32>) -> Self {
        Self { array, by_name: HashMap::new(), adopted: adopted.into_iter().collect() }
    }

    /// Writes limits into their row, and returns it: `former` if that was theirs in an earlier process, as far as this one
    /// can know, so that what was counted there stays.
    pub(crate) fn put(&mut self, limits: &Limits, former: Option<u32>) -> u32 {
        let row = match self.by_name.get(&limits.shared_by) {
            Some(row) => *row,
            None => {
                let taken: HashSet<u32> = self.by_name.values().copied().collect();
                let free = |row: &u32| !taken.contains(row);
                let nobodys = |row: &u32| free(row) && !self.adopted.contains(row);
                // There are as many rows as frontends.
                let row = former.filter(free).or_else(|| (0..).find(nobodys)).unwrap_or(0);
                self.adopted.remove(&row);
                self.by_name.insert(Arc::clone(&limits.shared_by), row);
                row
            }
        };
        let (rate, burst) = limits.rate.map_or((0, 0), |(rate, burst)| (rate.get(), burst.get().min(MAX_BURST)));
        let present = self.array.read(row as usize);
        let wanted = Limit { flows: limits.flows.map_or(0, NonZeroU32::get), rate, burst, ..present };
        if wanted != present {
            self.array.write(row as usize, wanted);
        }
        row
    }

    /// Frees a row that an earlier process's frontend had and no other has.
    pub(crate) fn abandon(&mut self, row: u32) {
        if self.adopted.remove(&row) {
            self.array.write(row as usize, Limit::default());
        }
    }

    /// Frees the rows of all but these names.
    pub(crate) fn keep(&mut self, names: &HashSet<&str>) {
        let array = &mut self.array;
        self.by_name.retain(|name, row| {
            let is_kept = names.contains(&**name);
            if !is_kept {
                array.write(*row as usize, Limit::default());
            }
            is_kept
        });
    }

    /// Rows there are: one for each frontend that the data path was made for.
    pub(crate) fn capacity(&self) -> usize {
        self.array.count()
    }

    /// The rows in use.
    pub(crate) fn rows(&self) -> impl Iterator<Item = u32> + '_ {
        self.by_name.values().copied()
    }

    /// Corrects the count of flows.
    pub(crate) fn set_present(&mut self, row: u32, flows: u32) {
        let limit = self.array.read(row as usize);
        self.array.write(row as usize, Limit { present: flows, ..limit });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(name: &str, flows: u32) -> Limits {
        Limits { shared_by: name.into(), flows: NonZeroU32::new(flows), rate: None }
    }

    #[test]
    fn frontends_of_a_service_share_a_row_and_others_do_not() {
        let mut rows = LimitRows::new(vec![Limit::default(); 4], []);
        let web = rows.put(&limits("web", 10), None);
        assert_eq!(rows.put(&limits("web", 10), None), web);
        let dns = rows.put(&limits("dns", 20), Some(web));
        assert_ne!(dns, web, "a row that is taken is not given away");
        rows.keep(&HashSet::from(["dns"]));
        assert_eq!(rows.array[web as usize], Limit::default());
        assert_eq!(rows.put(&limits("ntp", 30), None), web);
        assert_eq!(rows.array[dns as usize].flows, 20);
    }

    #[test]
    fn a_restart_keeps_what_was_counted() {
        let mut before = LimitRows::new(vec![Limit::default(); 4], []);
        before.put(&limits("web", 10), None);
        let dns = before.put(&limits("dns", 20), None);
        before.set_present(dns, 7);
        let mut after = LimitRows::new(before.array, [dns]);
        assert_eq!(after.put(&limits("dns", 20), Some(dns)), dns);
        assert_eq!(after.array[dns as usize].present, 7);
    }

    #[test]
    fn a_row_that_an_earlier_process_left_is_not_given_away_until_its_frontend_is_gone() {
        let mut rows = LimitRows::new(vec![Limit { flows: 10_000, ..Limit::default() }, Limit::default()], [0]);
        assert_eq!(rows.put(&limits("new", 5), None), 1);
        assert_eq!(rows.array[0].flows, 10_000);
        rows.abandon(0);
        assert_eq!(rows.array[0], Limit::default());
        assert_eq!(rows.put(&limits("another", 5), None), 0);
        rows.abandon(0);
        assert_eq!(rows.array[0].flows, 5, "it is somebody's");
    }
}
