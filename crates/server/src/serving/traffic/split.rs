//! Weighted splits: the choice of a version for a request that names none.
//!
//! Each version draws a number from an exponential distribution with its weight as the rate. The smallest number wins,
//! so that versions win in proportion to their weights. For sticky callers the draw is a hash of the caller. A caller
//! therefore moves only to a version whose weight grew, or away from one whose weight shrank. A change from 90:10 to
//! 80:20 moves a tenth of the callers, all in one direction. The callers of an unavailable version are spread over the
//! others by weight, and return to it afterwards.

use super::{Caller, mixed, random, unit_interval};

/// A version and its weight. Its share is the weight divided by the sum of all weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Weighted {
    /// The version number.
    pub version: i64,
    /// Its weight; 0 means no requests.
    pub weight: u32,
}

/// The split of the requests for one label of a model, or of those without a label.
#[derive(Clone, Debug)]
pub struct Split {
    label: Vec<u8>,
    versions: Vec<Weighted>,
    sticky_header: Option<String>,
    /// The hash of the model and the label. It makes the draws of a caller independent between splits.
    salt: u64,
}

impl Split {
    /// Creates a split of the requests for `label` of `model`. The empty label is that of requests without label and
    /// version.
    ///
    /// Requests with the same value of `sticky_header` go to the same version.
    pub fn new(model: &[u8], label: Vec<u8>, versions: Vec<Weighted>, sticky_header: Option<String>) -> Self {
        let salt = [model, &[0], &label[..], &[0]].concat();
        Self { salt: fnv_1a(FNV_OFFSET, &salt), label, versions, sticky_header }
    }

    pub(crate) fn label(&self) -> &[u8] {
        &self.label
    }

    /// Chooses a version among those that `find` finds, and returns what it found.
    pub(crate) fn choose<T>(&self, caller: &dyn Caller, mut find: impl FnMut(i64) -> Option<T>) -> Option<T> {
        let sticky = self.sticky_header.as_ref().and_then(|key| caller.value(key)).filter(|value| !value.is_empty());
        let seed = sticky.map_or_else(random, |value| fnv_1a(self.salt, value));
        let mut best: Option<(f64, T)> = None;
        for &Weighted { version, weight } in self.versions.iter().filter(|version| version.weight > 0) {
            let uniform = 1.0 - unit_interval(mixed(seed ^ mixed(version as u64)));
            let draw = -uniform.ln() / f64::from(weight);
            if best.as_ref().is_none_or(|(smallest, _)| draw < *smallest)
                && let Some(found) = find(version)
            {
                best = Some((draw, found));
            }
        }
        best.map(|(_, found)| found)
    }
}

const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;

/// The 64-bit FNV-1a hash, continued from `hash`. The same on every machine and in every release.
fn fnv_1a(hash: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(hash, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::super::Anonymous;
    use super::*;

    struct User(String);

    impl Caller for User {
        fn value(&self, key: &str) -> Option<&[u8]> {
            (key == "x-user").then_some(self.0.as_bytes())
        }
    }

    fn split(versions: &[(i64, u32)]) -> Split {
        let versions = versions.iter().map(|&(version, weight)| Weighted { version, weight }).collect();
        Split::new(b"m", Vec::new(), versions, Some("x-user".to_owned()))
    }

    fn chosen(split: &Split, user: usize, available: impl Fn(i64) -> bool) -> Option<i64> {
        split.choose(&User(format!("user-{user}")), |version| available(version).then_some(version))
    }

    fn share_of(version: i64, choices: impl Iterator<Item = Option<i64>>) -> f64 {
        let choices: Vec<Option<i64>> = choices.collect();
        choices.iter().filter(|&&choice| choice == Some(version)).count() as f64 / choices.len() as f64
    }

    #[test]
    fn requests_are_spread_by_weight_with_and_without_a_sticky_value() {
        let split = split(&[(3, 70), (4, 20), (5, 10)]);
        for (version, expected) in [(3, 0.7), (4, 0.2), (5, 0.1)] {
            let random = share_of(version, (0..20_000).map(|_| split.choose(&Anonymous, Some)));
            assert!((random - expected).abs() < 0.02, "version {version} got {random} of the requests");
            let sticky = share_of(version, (0..20_000).map(|user| chosen(&split, user, |_| true)));
            assert!((sticky - expected).abs() < 0.02, "version {version} got {sticky} of the callers");
        }
    }

    #[test]
    fn the_same_caller_gets_the_same_version_on_every_server_and_in_every_release() {
        let split = split(&[(3, 50), (4, 50)]);
        let choices: Vec<i64> = (0..16).map(|user| chosen(&split, user, |_| true).expect("both are there")).collect();
        assert_eq!(choices, [4, 4, 4, 3, 3, 3, 3, 3, 3, 3, 4, 3, 4, 4, 4, 3]);
    }

    #[test]
    fn a_caller_moves_only_to_the_version_that_grew() {
        let (before, after) = (split(&[(3, 90), (4, 10)]), split(&[(3, 80), (4, 20)]));
        let mut moves: HashMap<(i64, i64), u32> = HashMap::new();
        for user in 0..10_000 {
            let pair = [&before, &after].map(|split| chosen(split, user, |_| true).expect("both are there"));
            *moves.entry((pair[0], pair[1])).or_default() += 1;
        }
        assert_eq!(moves.get(&(4, 3)), None, "nobody is taken from the canary that grows");
        let count = moves[&(3, 4)];
        assert!((800..1_200).contains(&count), "a tenth moves; it was {count} of 10,000");
    }

    #[test]
    fn the_share_of_a_version_that_is_not_available_goes_to_the_others_by_weight() {
        let split = split(&[(3, 60), (4, 30), (5, 10)]);
        let share = share_of(3, (0..20_000).map(|user| chosen(&split, user, |version| version != 5)));
        assert!((share - 2.0 / 3.0).abs() < 0.02, "{share}");
        assert_eq!(chosen(&split, 1, |_| false), None);
    }

    #[test]
    fn other_splits_spread_the_same_callers_otherwise() {
        let weights = vec![Weighted { version: 3, weight: 1 }, Weighted { version: 4, weight: 1 }];
        let [one, two] = [&b"m"[..], b"n"].map(|model| {
            let split = Split::new(model, Vec::new(), weights.clone(), Some("x-user".to_owned()));
            (0..1_000).map(|user| chosen(&split, user, |_| true)).collect::<Vec<_>>()
        });
        let equal = one.iter().zip(&two).filter(|(one, two)| one == two).count();
        assert!((400..600).contains(&equal), "{equal} of 1,000 callers");
    }

    proptest! {
        #[test]
        fn a_choice_is_available_has_weight_and_is_the_same_again(
            weights in prop::collection::btree_map(0_i64..20, 0_u32..5, 1..8),
            missing in prop::collection::btree_set(0_i64..20, 0..8),
            user in 0_usize..1_000,
        ) {
            let weights: Vec<(i64, u32)> = weights.into_iter().collect();
            let split = split(&weights);
            let choice = chosen(&split, user, |version| !missing.contains(&version));
            prop_assert_eq!(choice, chosen(&split, user, |version| !missing.contains(&version)));
            let usable: Vec<i64> =
                weights.iter().filter(|(v, weight)| *weight > 0 && !missing.contains(v)).map(|(v, _)| *v).collect();
            match choice {
                Some(version) => prop_assert!(usable.contains(&version)),
                None => prop_assert!(usable.is_empty()),
            }
            // A caller of a version that stays available keeps it when others come or go.
            let undisturbed = chosen(&split, user, |_| true);
            if undisturbed.is_some_and(|version| !missing.contains(&version)) {
                prop_assert_eq!(choice, undisturbed);
            }
        }
    }
}
