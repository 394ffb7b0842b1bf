//! Whose turn it is, where each datagram goes to the next backend.

/// The order in which members with these weights take turns, as indices of them: each as often as its weight says, and as
/// evenly spread as that allows. One with weight zero has none. The order is as short as it can be, and begins again where
/// it ends.
#[must_use]
pub fn order(weights: &[u32]) -> Vec<u32> {
    let divisor = weights.iter().copied().fold(0, gcd).max(1);
    let weights: Vec<i64> = weights.iter().map(|weight| i64::from(weight / divisor)).collect();
    let total: i64 = weights.iter().sum();
    // Everybody is owed its weight with each turn; who is owed most has it, and pays all that was handed out.
    let mut owed = vec![0_i64; weights.len()];
    (0..total)
        .filter_map(|_| {
            owed.iter_mut().zip(&weights).for_each(|(owed, weight)| *owed += weight);
            let (index, most) = owed.iter_mut().enumerate().rev().max_by_key(|(_, owed)| **owed)?;
            *most -= total;
            u32::try_from(index).ok()
        })
        .collect()
}

const fn gcd(mut a: u32, mut b: u32) -> u32 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn equals_take_turns() {
        assert_eq!(order(&[1, 1, 1]), [0, 1, 2]);
        assert_eq!(order(&[50, 50]), [0, 1]);
        assert_eq!(order(&[]), [0; 0]);
        assert_eq!(order(&[0, 0]), [0; 0]);
    }

    #[test]
    fn who_has_more_turns_has_them_spread() {
        assert_eq!(order(&[5, 1, 1]), [0, 0, 1, 0, 2, 0, 0]);
        assert_eq!(order(&[3, 0, 1]), [0, 0, 2, 0]);
    }

    proptest! {
        #[test]
        fn everybody_has_as_many_turns_as_its_weight(weights in prop::collection::vec(0_u32..=100, 0..20)) {
            let order = order(&weights);
            let total: u32 = weights.iter().sum();
            let turns = |index: usize| order.iter().filter(|turn| **turn as usize == index).count() as u64;
            for (index, weight) in weights.iter().enumerate() {
                prop_assert_eq!(turns(index) * u64::from(total), u64::from(*weight) * order.len() as u64);
            }
        }

        #[test]
        fn no_beginning_of_the_order_is_unfair(weights in prop::collection::vec(1_u32..=100, 1..10)) {
            let order = order(&weights);
            let mut turns = vec![0_f64; weights.len()];
            let total: u32 = weights.iter().sum();
            for (taken, turn) in order.iter().enumerate() {
                turns[*turn as usize] += 1.0;
                for (had, weight) in turns.iter().zip(&weights) {
                    let due = (taken + 1) as f64 * f64::from(*weight) / f64::from(total);
                    prop_assert!((had - due).abs() < weights.len() as f64, "{order:?}");
                }
            }
        }
    }
}
