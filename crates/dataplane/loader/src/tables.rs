//! Where the Maglev tables lie in the table map.
//!
//! A frontend's new table is written beside its old one, and one update of the frontend's entry switches over. The old
//! rows rest for a while before they are used again: a program that read the entry before the switch may still look a
//! slot up.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use evenkeel_maps::{Frontend, TABLE_ROW};

use crate::{Error, shared::Elements};

/// How long replaced rows rest. A program runs for microseconds; a second also covers a CPU that was taken away.
const REST: Duration = Duration::from_secs(1);

#[expect(clippy::cast_possible_truncation, reason = "sixteen")]
const SLOTS_A_ROW: u32 = TABLE_ROW as u32;

/// A run of rows: the first one, and how many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rows {
    pub(crate) first: u32,
    pub(crate) count: u32,
}

impl Rows {
    /// The rows of a table with this many slots at this place.
    pub(crate) fn of(first: u32, slots: u32) -> Self {
        Self { first, count: slots.div_ceil(SLOTS_A_ROW) }
    }
}

/// The backends of a table, each once, if some have so much fewer slots than others that who looks at some slots in a row may
/// well not meet them; none if their slots are about as many, or if there are more than can be told.
pub(crate) fn uneven_members(table: &[u32]) -> Vec<u32> {
    let mut slots: BTreeMap<u32, usize> = BTreeMap::new();
    for slot in table {
        *slots.entry(*slot).or_insert(0) += 1;
    }
    let (fewest, most) = (slots.values().min().copied().unwrap_or(0), slots.values().max().copied().unwrap_or(0));
    let can_be_told = u32::try_from(slots.len()).is_ok_and(|members| members <= Frontend::MAX_MEMBERS);
    if most > 2 * fewest && can_be_told { slots.into_keys().collect() } else { Vec::new() }
}

/// The free space of the table map.
pub(crate) struct Tables<E> {
    array: E,
    /// Free runs: first row to number of rows; never adjacent to each other.
    free: BTreeMap<u32, u32>,
    resting: VecDeque<(Instant, Rows)>,
}

impl<E: Elements<[u32; TABLE_ROW]>> Tables<E> {
    /// All rows are free but `used`.
    pub(crate) fn adopt(array: E, used: impl IntoIterator<Item = Rows>) -> Self {
        let total = u32::try_from(array.count()).unwrap_or(u32::MAX);
        let mut used: Vec<Rows> = used.into_iter().filter(|rows| rows.count > 0).collect();
        used.sort_by_key(|rows| rows.first);
        let mut free = BTreeMap::new();
        let mut next = 0;
        for rows in used {
            if rows.first > next {
                free.insert(next, rows.first - next);
            }
            next = next.max(rows.first.saturating_add(rows.count));
        }
        if next < total {
            free.insert(next, total - next);
        }
        Self { array, free, resting: VecDeque::new() }
    }

    /// Whether `rows` hold exactly this table.
    pub(crate) fn holds(&self, rows: Rows, table: &[u32]) -> bool {
        rows.count as usize == table.len().div_ceil(TABLE_ROW)
            && (rows.first as usize..)
                .zip(table.chunks(TABLE_ROW))
                .all(|(index, chunk)| self.array.read(index).get(..chunk.len()) == Some(chunk))
    }

    /// One row.
    pub(crate) fn row(&self, index: u32) -> [u32; TABLE_ROW] {
        self.array.read(index as usize)
    }

    /// Writes a table of backend slots into free rows.
    pub(crate) fn write(&mut self, table: &[u32], now: Instant) -> Result<Rows, Error> {
        self.wake(now);
        let no_space = || Error::NoTableSpace { slots: self.array.count() * TABLE_ROW };
        let count = u32::try_from(table.len().div_ceil(TABLE_ROW)).map_err(|_| no_space())?;
        let (first, length) =
            self.free.iter().find(|(_, length)| **length >= count).map(|(f, l)| (*f, *l)).ok_or_else(no_space)?;
        self.free.remove(&first);
        if length > count {
            self.free.insert(first + count, length - count);
        }
        for (index, chunk) in table.chunks(TABLE_ROW).enumerate() {
            let mut row = [0; TABLE_ROW];
            row[..chunk.len()].copy_from_slice(chunk);
            self.array.write(first as usize + index, row);
        }
        Ok(Rows { first, count })
    }

    /// Gives rows back, to be used again after they have rested.
    pub(crate) fn retire(&mut self, rows: Rows, now: Instant) {
        if rows.count > 0 {
            self.resting.push_back((now, rows));
        }
    }

    fn wake(&mut self, now: Instant) {
        while let Some((since, rows)) = self.resting.front().copied() {
            if now.duration_since(since) < REST {
                return;
            }
            self.resting.pop_front();
            self.release(rows);
        }
    }

    fn release(&mut self, rows: Rows) {
        let Rows { mut first, mut count } = rows;
        if let Some(following) = self.free.remove(&(first + count)) {
            count += following;
        }
        if let Some((before, length)) = self.free.range(..first).next_back().map(|(f, l)| (*f, *l))
            && before + length == first
        {
            first = before;
            count += length;
        }
        self.free.insert(first, count);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tables(rows: usize) -> Tables<Vec<[u32; TABLE_ROW]>> {
        Tables::adopt(vec![[0; TABLE_ROW]; rows], [])
    }

    #[test]
    fn replaced_rows_rest_before_they_are_used_again() {
        let mut tables = tables(2);
        let start = Instant::now();
        let old = tables.write(&[1; 20], start).unwrap();
        tables.retire(old, start);
        assert!(matches!(tables.write(&[2; 20], start), Err(Error::NoTableSpace { .. })));
        assert_eq!(tables.write(&[2; 20], start + REST).unwrap(), old);
    }

    #[test]
    fn members_are_told_where_some_are_seldom() {
        assert_eq!(uneven_members(&[]), []);
        assert_eq!(uneven_members(&[7; 16]), []);
        assert_eq!(uneven_members(&[7, 9, 9, 7, 9, 9]), [], "twice as many are no fewer than chance gives");
        assert_eq!(uneven_members(&[7, 9, 9, 9, 8, 8]), [7, 8, 9]);
    }

    #[test]
    fn adopted_tables_are_left_alone() {
        let used = Rows::of(1, 17);
        let mut tables = Tables::adopt(vec![[7; TABLE_ROW]; 4], [used]);
        let now = Instant::now();
        assert_eq!(tables.write(&[1], now).unwrap().first, 0);
        assert_eq!(tables.write(&[1], now).unwrap().first, 3);
        assert!(tables.write(&[1], now).is_err());
        assert_eq!(tables.array[1], [7; TABLE_ROW]);
    }

    #[test]
    fn a_table_is_recognised_by_its_contents() {
        let mut tables = tables(4);
        let table: Vec<u32> = (0..20).collect();
        let rows = tables.write(&table, Instant::now()).unwrap();
        assert!(tables.holds(rows, &table));
        assert!(!tables.holds(rows, &table[..16]), "a shorter one needs fewer rows");
        let mut other = table;
        other[19] = 7;
        assert!(!tables.holds(rows, &other));
    }

    proptest! {
        #[test]
        fn live_tables_never_overlap_and_space_comes_back(sizes in prop::collection::vec(1usize..400, 1..40)) {
            let mut tables = tables(64);
            let mut now = Instant::now();
            let mut live: VecDeque<(Rows, u32)> = VecDeque::new();
            for (index, size) in sizes.into_iter().enumerate() {
                let mark = u32::try_from(index).unwrap();
                match tables.write(&vec![mark; size], now) {
                    Ok(rows) => live.push_back((rows, mark)),
                    Err(_) => if let Some((rows, _)) = live.pop_front() { tables.retire(rows, now) },
                }
                now += Duration::from_millis(300);
                for (rows, mark) in &live {
                    for row in rows.first..rows.first + rows.count {
                        prop_assert_eq!(tables.array[row as usize][0], *mark);
                    }
                }
            }
            for (rows, _) in live { tables.retire(rows, now) }
            tables.wake(now + REST);
            prop_assert_eq!(tables.free, BTreeMap::from([(0, 64)]));
        }
    }
}
