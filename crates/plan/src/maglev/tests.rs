use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use proptest::prelude::*;

use super::*;

fn member(n: u32, weight: u32) -> Member {
    Member { address: (Ipv4Addr::from_bits(0x0a01_0000 + n), 8080).into(), weight }
}

fn members(count: u32) -> Vec<Member> {
    (0..count).map(|n| member(n, 1)).collect()
}

fn table(members: &[Member]) -> Table {
    Table::new(Roster::new(members.iter().copied()), Seed::default())
}

/// The backend of each slot.
fn owners(members: &[Member]) -> Vec<SocketAddr> {
    let table = table(members);
    table.slots().iter().map(|slot| table.members()[*slot as usize].address).collect()
}

/// How many slots each backend has.
fn counts(members: &[Member]) -> BTreeMap<SocketAddr, u32> {
    let mut counts = BTreeMap::new();
    for owner in owners(members) {
        *counts.entry(owner).or_insert(0) += 1;
    }
    counts
}

/// The fraction of all flows that go elsewhere after a change.
fn moved(before: &[Member], after: &[Member]) -> f64 {
    let (before, after) = (owners(before), owners(after));
    let size = before.len().max(after.len());
    let moved = (0..size).filter(|hash| before[hash % before.len()] != after[hash % after.len()]).count();
    moved as f64 / size as f64
}

/// The fraction that cannot but go elsewhere: what the backends with a growing share gain.
fn unavoidable(before: &[Member], after: &[Member]) -> f64 {
    let shares = |members: &[Member]| -> BTreeMap<SocketAddr, f64> {
        let total: u32 = members.iter().map(|member| member.weight).sum();
        members.iter().map(|member| (member.address, f64::from(member.weight) / f64::from(total))).collect()
    };
    let (before, after) = (shares(before), shares(after));
    after.iter().map(|(address, share)| (share - before.get(address).unwrap_or(&0.0)).max(0.0)).sum()
}

/// What a change moves beyond what it must, in per cent of all flows.
fn excess(before: &[Member], after: &[Member]) -> f64 {
    (moved(before, after) - unavoidable(before, after)) * 100.0
}

#[test]
fn no_backends_no_table() {
    assert!(table(&[]).slots().is_empty());
}

#[test]
fn one_backend_needs_one_slot() {
    assert_eq!(table(&[member(1, 7)]).slots(), [0]);
}

#[test]
fn sizes_are_powers_of_two_with_fifty_slots_a_backend() {
    let size = |count| Roster::new(members(count)).size();
    assert_eq!([0, 1, 2, 10, 11, 20, 21].map(size), [0, 1, 512, 512, 1_024, 1_024, 2_048]);
    assert_eq!([1_000, 2_621, 5_000].map(size), [65_536, LARGEST, LARGEST]);
}

#[test]
fn sizes_account_for_weights() {
    let size = |weights: &[u32]| Roster::new((0..).zip(weights).map(|(n, weight)| member(n, *weight))).size();
    assert_eq!(size(&[1, 20]), 2_048, "the light one gets fifty slots too");
    assert_eq!(size(&[20, 20]), 512, "only proportions count");
    assert_eq!(size(&[100, 1]), 8_192);
}

#[test]
fn the_table_is_the_same_in_every_build() {
    let sets = [members(3), vec![member(1, 3), member(2, 1), member(3, 100)], members(700)];
    let digests = sets.map(|members| table(&members).digest().to_string());
    let pinned = ["829d686fc2766a90", "5543b24b2ffb21df", "2fea69cd0aafd18c"];
    assert_eq!(digests, pinned, "nodes of two versions would disagree about new flows");
}

#[test]
fn another_seed_is_another_table() {
    let with = |seed| Table::new(Roster::new(members(3)), seed);
    assert_ne!(with(Seed::default()).slots(), with(Seed([1; 16])).slots());
    assert_ne!(with(Seed::default()).digest(), with(Seed([1; 16])).digest());
}

#[test]
fn the_lightest_backend_has_a_slot_however_heavy_the_others_are() {
    let mut members: Vec<Member> = (0..2_000).map(|n| member(n, 100)).collect();
    members.extend([member(3_000, 1), member(3_001, 2)]);
    assert_eq!(counts(&members).len(), members.len());
}

#[test]
fn a_digest_tells_apart_who_has_the_slots() {
    let at = |port| Member { address: (Ipv4Addr::new(10, 1, 0, 1), port).into(), weight: 1 };
    assert_ne!(table(&[at(80)]).digest(), table(&[at(81)]).digest());
}

#[test]
fn a_backend_given_twice_has_one_share_by_its_larger_weight() {
    let twice = [member(1, 2), member(2, 1), member(1, 1)];
    assert_eq!(Roster::new(twice), Roster::new([member(1, 2), member(2, 1)]));
}

#[test]
fn growing_beyond_a_size_moves_little() {
    for count in [2, 10, 20, 40, 81, 163] {
        let (small, large) = (members(count), members(count + 1));
        let sizes = [&small, &large].map(|members| Roster::new(members.iter().copied()).size());
        assert!(sizes[0] < sizes[1] || count == 2, "{sizes:?}");
        let excess = excess(&small, &large);
        assert!(excess < 8.0, "{excess:.2} % of all flows moved needlessly from {count} to {}", count + 1);
    }
}

#[test]
fn a_backend_that_leaves_and_comes_back_leaves_no_trace() {
    let (all, rest) = (members(5), members(4));
    let mut tables = Tables::default();
    let [first, without, again] = [&all, &rest, &all].map(|members| tables.get(Roster::new(members.iter().copied())));
    assert_eq!(first, again);
    assert_ne!(first, without);
    assert_eq!(tables.computed(), 2, "it was known still");
}

#[test]
fn tables_nobody_holds_are_forgotten() {
    let mut tables = Tables::default();
    let held = tables.get(Roster::new(members(3)));
    drop(tables.get(Roster::new(members(4))));
    tables.forget_unused();
    assert!(Arc::ptr_eq(&held, &tables.get(Roster::new(members(3)))));
    assert_eq!(tables.computed(), 2);
    _ = tables.get(Roster::new(members(4)));
    assert_eq!(tables.computed(), 3);
}

/// Means over several sets of backends: the figures of `docs/decisions`. `--no-capture` shows them.
mod figures {
    use super::*;

    fn mean(count: u32, change: impl Fn(&mut Vec<Member>, u32)) -> f64 {
        // Fewer of the large ones, which vary less.
        let sets = if count > 100 { 3 } else { 12 };
        let excesses = (0..sets).map(|set| {
            let before: Vec<Member> = (0..count).map(|n| member(set * 65_536 + n * 17, 1)).collect();
            let mut after = before.clone();
            change(&mut after, set);
            excess(&before, &after)
        });
        excesses.sum::<f64>() / f64::from(sets)
    }

    #[test]
    fn of_what_changes_move_needlessly() {
        println!("backends    lost   added  weight 1 to 2  weight 1 to 10");
        for (count, bound) in [
            (2, 2.5),
            (3, 2.5),
            (5, 3.0),
            (10, 5.0),
            (11, 5.0),
            (20, 6.0),
            (21, 6.0),
            (50, 8.0),
            (100, 10.0),
            (164, 12.0),
            (300, 16.0),
            (1000, 16.0),
        ] {
            let lost = mean(count, |members, set| _ = members.remove((set % count) as usize));
            let added = mean(count, |members, set| members.push(member(set * 65_536 + 5, 1)));
            let reweighted = |weight| mean(count, |members, set| members[(set % count) as usize].weight = weight);
            let (double, tenfold) = (reweighted(2), reweighted(10));
            println!("{count:8} {lost:7.2} {added:7.2} {double:14.2} {tenfold:15.2}");
            for excess in [lost, added, double, tenfold] {
                assert!(excess < bound, "{excess:.2} % of all flows moved needlessly with {count} backends");
            }
        }
    }
}

fn some_members(weights: std::ops::RangeInclusive<u32>) -> impl Strategy<Value = Vec<Member>> {
    let member = |((bits, port), weight)| Member { address: (Ipv4Addr::from_bits(bits), port).into(), weight };
    proptest::collection::btree_map((any::<u32>(), 1u16..), weights, 1..40)
        .prop_map(move |members| members.into_iter().map(member).collect())
}

proptest! {
    #[test]
    fn shares_of_equal_weights_differ_by_one_slot_at_most(members in some_members(1..=1)) {
        let counts = counts(&members);
        prop_assert_eq!(counts.len(), members.len());
        let (least, most) = (counts.values().min().unwrap(), counts.values().max().unwrap());
        prop_assert!(most - least <= 1, "{least} to {most} slots");
    }

    #[test]
    fn shares_are_exact_to_one_slot(members in some_members(1..=100)) {
        let counts = counts(&members);
        let size: u32 = counts.values().sum();
        let total: u32 = members.iter().map(|member| member.weight).sum();
        for member in &members {
            let exact = f64::from(size) * f64::from(member.weight) / f64::from(total);
            let count = f64::from(counts.get(&member.address).copied().unwrap_or(0));
            prop_assert!((count - exact).abs() < 1.0, "{count} slots instead of {exact}");
        }
    }

    #[test]
    fn the_order_of_backends_makes_no_difference(
        (members, shuffled) in some_members(1..=100).prop_flat_map(|m| (Just(m.clone()), Just(m).prop_shuffle()))
    ) {
        prop_assert_eq!(table(&members), table(&shuffled));
    }

    #[test]
    fn proportional_weights_are_the_same_table(members in some_members(1..=10), factor in 1u32..=10) {
        let scaled: Vec<Member> = members.iter().map(|m| Member { weight: m.weight * factor, ..*m }).collect();
        prop_assert_eq!(table(&members).digest(), table(&scaled).digest());
    }

    #[test]
    fn losing_a_backend_moves_few_slots_of_the_others(members in some_members(1..=3), which in any::<prop::sample::Index>()) {
        prop_assume!(members.len() > 1);
        let mut rest = members.clone();
        let lost = rest.remove(which.index(members.len()));
        let excess = excess(&members, &rest);
        // Twice and more what is usual: an unlucky set of permutations.
        prop_assert!(excess <= 20.0, "{excess:.1} % of all flows moved needlessly without {lost:?}");
    }
}
