//! Somebody takes the new flows, whatever the checks say.
//!
//! A share is how many of the flows that fall to a backend it takes; the others look further. That works as long as
//! there is somebody to be found: a check may err, and nobody is worse than somebody ill or somebody cold.

use crate::ramp::FULL;

/// Of the flows that fall to all of them, at least this much is taken at once. With half of it, one flow in 65,000
/// looks at 16 slots in vain, and then meets one that it would have passed by.
const LEAST: u64 = 128;

/// A backend's part of the new flows that fall to those of a Maglev table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Portion {
    /// How much falls to it beside the others.
    pub weight: u32,
    /// How much of that it takes, 0 to 255.
    pub share: u8,
}

/// Raises shares where they leave too little: where all are 0, everybody takes all, which is true then; where nobody takes
/// all, those that take most do; where too little is taken together, those that come back take more in proportion. Who has
/// none beside others that have some keeps none.
pub fn relieve(portions: &mut [Portion]) -> bool {
    let most = portions.iter().map(|portion| portion.share).max().unwrap_or(FULL);
    if most == 0 {
        portions.iter_mut().for_each(|portion| portion.share = FULL);
        return true;
    }
    raise(portions, u64::from(FULL), u64::from(most));
    // What is cut at the full share is missing from what was to be taken, so the others are raised again. Each round but the
    // last has at least one more with the full share.
    loop {
        let (mut falls, mut full, mut rest) = (0, 0, 0);
        for Portion { weight, share } in portions.iter().filter(|portion| portion.share > 0) {
            let weight = u64::from((*weight).max(1));
            falls += weight;
            let taken = weight * u64::from(*share);
            *(if *share == FULL { &mut full } else { &mut rest }) += taken;
        }
        let wanted = LEAST * falls;
        if full + rest >= wanted {
            return false;
        }
        raise(portions, wanted - full, rest);
    }
}

/// Multiplies all shares below the full one, rounded up.
fn raise(portions: &mut [Portion], numerator: u64, denominator: u64) {
    for portion in portions.iter_mut().filter(|portion| portion.share < FULL) {
        let raised = (u64::from(portion.share) * numerator).div_ceil(denominator.max(1));
        portion.share = u8::try_from(raised).unwrap_or(FULL);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn relieved(portions: &[(u32, u8)]) -> (Vec<u8>, bool) {
        let mut portions: Vec<Portion> =
            portions.iter().map(|(weight, share)| Portion { weight: *weight, share: *share }).collect();
        let last_resort = relieve(&mut portions);
        (portions.iter().map(|portion| portion.share).collect(), last_resort)
    }

    #[test]
    fn enough_is_left_alone() {
        assert_eq!(relieved(&[(1, 255), (1, 0), (1, 15)]), (vec![255, 0, 15], false));
        assert_eq!(relieved(&[(1, 255), (1, 255), (1, 15)]), (vec![255, 255, 15], false));
        assert_eq!(relieved(&[]), (vec![], false));
    }

    #[test]
    fn where_all_are_down_all_serve() {
        assert_eq!(relieved(&[(1, 0), (0, 0)]), (vec![255, 255], true));
    }

    #[test]
    fn who_comes_back_alone_takes_all() {
        assert_eq!(relieved(&[(1, 15), (1, 0)]), (vec![255, 0], false));
        assert_eq!(relieved(&[(1, 30), (1, 120)]), (vec![64, 255], false));
    }

    #[test]
    fn the_few_that_are_warm_do_not_bear_it_all() {
        assert_eq!(relieved(&[(1, 255), (1, 15), (1, 15), (1, 15), (1, 0)]), (vec![255, 86, 86, 86, 0], false));
        assert_eq!(relieved(&[(1, 255), (100, 15)]), (vec![255, 127], false), "what falls to them is not equal");
    }

    #[test]
    fn what_is_cut_at_the_full_share_falls_to_the_others() {
        assert_eq!(relieved(&[(20, 1), (1, 18), (1, 12)]), (vec![116, 255, 255], false));
    }

    proptest! {
        #[test]
        fn somebody_takes_all_and_enough_is_taken(portions in prop::collection::vec((0u32..101, any::<u8>()), 1..50)) {
            let (shares, last_resort) = relieved(&portions);
            prop_assert!(shares.contains(&255));
            prop_assert_eq!(last_resort, portions.iter().all(|(_, share)| *share == 0));
            let (mut taken, mut all) = (0, 0);
            for ((weight, before), after) in portions.iter().zip(&shares) {
                prop_assert!(after >= before);
                prop_assert!(last_resort || (*before == 0) == (*after == 0));
                if *after > 0 {
                    let weight = u64::from((*weight).max(1));
                    (taken, all) = (taken + weight * u64::from(*after), all + weight);
                }
            }
            prop_assert!(taken >= LEAST * all, "{taken} of {all}: {shares:?}");
        }

        #[test]
        fn who_had_more_has_no_less(portions in prop::collection::vec((0u32..101, any::<u8>()), 1..50)) {
            let (shares, _) = relieved(&portions);
            let mut both: Vec<(u8, u8)> = portions.iter().map(|(_, share)| *share).zip(shares).collect();
            both.sort_unstable();
            prop_assert!(both.is_sorted_by_key(|(_, after)| *after));
        }
    }
}
