//! Which row of the sources map holds which of the addresses that stand for clients'.
//!
//! The programs give new flows the addresses of a family's first rows, as many as the settings say, and a flow names its row
//! as long as it lives. So an address keeps its row while it is wanted, and one that is wanted no more goes behind the others,
//! and its flows with it.

use std::collections::BTreeSet;

use evenkeel_maps::Address;

/// A step towards the rows of a family that are wanted. Rows are counted from the family's first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Write an address into a row, which no flow names.
    Write {
        /// The row.
        row: usize,
        /// What it holds from now on.
        address: Address,
    },
    /// Have the flows that name a row name another one, which holds the same address.
    Move {
        /// The row that they name.
        from: usize,
        /// The one that they are to name.
        to: usize,
    },
    /// Remove the flows that name a row: their address is wanted no more, and there is no other row for it.
    GiveUp {
        /// The row.
        row: usize,
    },
}

/// What of `wanted` there are rows for: where it is too much, what has a row at `present` comes first.
pub(crate) fn chosen(present: &[Address], mut wanted: Vec<Address>) -> Vec<Address> {
    wanted.sort_by_key(|address| !present.contains(address));
    wanted.truncate(present.len());
    wanted
}

/// The first rows, as many as there are addresses in `wanted`, that hold none of them, or one that a row before has.
pub(crate) fn holes(present: &[Address], wanted: &[Address]) -> Vec<usize> {
    let is_kept = |row: &usize| wanted.contains(&present[*row]) && !present[..*row].contains(&present[*row]);
    (0..wanted.len()).filter(|row| !is_kept(row)).collect()
}

/// How the addresses in `wanted`, none of them twice, get into the first rows. `named`: the rows that flows name.
pub(crate) fn arrange(present: &[Address], wanted: &[Address], mut named: BTreeSet<usize>) -> Vec<Step> {
    let mut rows = present.to_vec();
    let mut steps = Vec::new();
    let first = &present[..wanted.len()];
    let missing = wanted.iter().filter(|address| !first.contains(address));
    for (hole, address) in holes(present, wanted).into_iter().zip(missing) {
        if named.remove(&hole) {
            let former = rows[hole];
            match place(&rows, hole, wanted.len(), &named) {
                Some(to) => {
                    if rows[to] != former {
                        steps.push(Step::Write { row: to, address: former });
                        rows[to] = former;
                    }
                    steps.push(Step::Move { from: hole, to });
                    named.insert(to);
                }
                None => steps.push(Step::GiveUp { row: hole }),
            }
        }
        steps.push(Step::Write { row: hole, address: *address });
        rows[hole] = *address;
        // It comes back, and the row that its flows had meanwhile is free.
        if let Some(from) = (wanted.len()..rows.len()).find(|row| rows[*row] == *address && named.remove(row)) {
            steps.push(Step::Move { from, to: hole });
            named.insert(hole);
        }
    }
    steps
}

/// Another row for what is in `hole`: one that has it, or one behind the first `count` that has nothing, or nothing that a
/// flow needs.
fn place(rows: &[Address], hole: usize, count: usize, named: &BTreeSet<usize>) -> Option<usize> {
    let same = (0..rows.len()).find(|row| *row != hole && rows[*row] == rows[hole]);
    let behind = || count..rows.len();
    let empty = || behind().find(|row| rows[*row] == Address::ZERO);
    same.or_else(empty).or_else(|| behind().find(|row| !named.contains(row)))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use evenkeel_maps::MAX_SOURCES;
    use proptest::prelude::*;

    use super::*;

    fn address(last: u8) -> Address {
        Address::v4([10, 0, 0, last])
    }

    /// The rows, and flows by name: the row that each names, and the address it began with.
    struct Model {
        rows: Vec<Address>,
        flows: BTreeMap<usize, (usize, Address)>,
        begun: usize,
    }

    impl Model {
        fn new() -> Self {
            Self { rows: vec![Address::ZERO; MAX_SOURCES], flows: BTreeMap::new(), begun: 0 }
        }

        fn set(&mut self, wanted: &[Address]) -> Vec<Step> {
            let wanted = chosen(&self.rows, wanted.to_vec());
            let steps = arrange(&self.rows, &wanted, self.flows.values().map(|(row, _)| *row).collect());
            for step in &steps {
                match *step {
                    Step::Write { row, address } => self.rows[row] = address,
                    Step::Move { from, to } => {
                        assert_eq!(self.rows[from], self.rows[to]);
                        self.flows.values_mut().filter(|(row, _)| *row == from).for_each(|(row, _)| *row = to);
                    }
                    Step::GiveUp { row } => self.flows.retain(|_, (named, _)| *named != row),
                }
            }
            steps
        }

        fn begin(&mut self, row: usize) {
            self.begun += 1;
            self.flows.insert(self.begun, (row, self.rows[row]));
        }
    }

    #[test]
    fn what_is_wanted_keeps_its_row_and_what_is_not_goes_behind() {
        let [a, b, c] = [1, 2, 3].map(address);
        let mut model = Model::new();
        model.set(&[b]);
        model.begin(0);
        assert_eq!(model.set(&[a, b]), [Step::Write { row: 1, address: a }]);
        assert_eq!(
            model.set(&[a]),
            [Step::Write { row: 2, address: b }, Step::Move { from: 0, to: 2 }, Step::Write { row: 0, address: a }]
        );
        assert_eq!(model.set(&[]), []);
        assert_eq!(model.set(&[a]), []);
        assert_eq!(model.set(&[c]), [Step::Write { row: 0, address: c }], "no flow has the former");
        assert_eq!(model.flows[&1], (2, b));
        assert_eq!(model.set(&[b, c]), [Step::Write { row: 1, address: b }, Step::Move { from: 2, to: 1 }]);
    }

    #[test]
    fn flows_are_given_up_where_there_is_no_row_left() {
        let mut model = Model::new();
        let all: Vec<Address> = (1..=8).map(address).collect();
        model.set(&all);
        (0..MAX_SOURCES).for_each(|row| model.begin(row));
        let others: Vec<Address> = (2..=9).map(address).collect();
        assert_eq!(model.set(&others), [Step::GiveUp { row: 0 }, Step::Write { row: 0, address: address(9) }]);
    }

    proptest! {
        #[test]
        fn flows_keep_their_addresses_and_new_ones_get_those_that_are_wanted(
            changes in prop::collection::vec((prop::collection::btree_set(1_u8..7, 0..4), 0_usize..4), 1..30),
        ) {
            let mut model = Model::new();
            for (wanted, flows) in changes {
                let before = model.rows.clone();
                let wanted: Vec<Address> = wanted.into_iter().map(address).collect();
                model.set(&wanted);
                let first: BTreeSet<Address> = model.rows[..wanted.len()].iter().copied().collect();
                prop_assert_eq!(first, wanted.iter().copied().collect());
                for (row, former) in before[..wanted.len()].iter().enumerate().filter(|(_, it)| wanted.contains(it)) {
                    prop_assert!(model.rows[row] == *former || before[..row].contains(former));
                }
                for (row, begun_with) in model.flows.values() {
                    prop_assert_eq!(model.rows[*row], *begun_with);
                }
                (0..flows.min(wanted.len())).for_each(|row| model.begin(row));
            }
            // Six addresses in eight rows: nothing is ever given up.
            prop_assert_eq!(model.flows.len(), model.begun);
        }
    }
}
