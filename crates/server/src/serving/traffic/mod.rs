//! How the requests for one model are spread over its versions: weighted splits, and a shadow beside the live answer.
//!
//! Requests that name a version themselves are neither spread nor copied. All of it is published with the model, so a
//! request sees one consistent state and never waits for a change.

pub mod compare;
pub mod shadow;
pub mod split;

use std::cell::Cell;
use std::hash::{BuildHasher, RandomState};

use shadow::Shadow;
use split::Split;

/// What is known of who sends a request: the headers of HTTP, the metadata of gRPC.
pub trait Caller {
    /// The first value of this key, whatever the case of its letters.
    fn value(&self, key: &str) -> Option<&[u8]>;
}

/// A caller of whom nothing is known, and who therefore sticks to no version.
pub struct Anonymous;

impl Caller for Anonymous {
    fn value(&self, _: &str) -> Option<&[u8]> {
        None
    }
}

/// The splits and the shadow of one model.
#[derive(Default)]
pub struct Traffic {
    splits: Vec<Split>,
    pub(crate) shadow: Option<Shadow>,
}

impl Traffic {
    /// These splits, at most one for each label, and this shadow; `None` where there is nothing to do, which makes
    /// the look-up of models without any of it as short as it was.
    pub fn new(splits: Vec<Split>, shadow: Option<Shadow>) -> Option<Box<Self>> {
        (!splits.is_empty() || shadow.is_some()).then(|| Box::new(Self { splits, shadow }))
    }

    /// The split of a label; of requests that name neither label nor version if it is empty.
    pub(crate) fn split(&self, label: &[u8]) -> Option<&Split> {
        self.splits.iter().find(|split| split.label() == label)
    }

    /// The labels that have a split.
    pub(crate) fn labels(&self) -> impl Iterator<Item = &[u8]> {
        self.splits.iter().map(Split::label).filter(|label| !label.is_empty())
    }
}

/// Spreads every bit of `value` over all bits of the result (the finaliser of `SplitMix64`).
fn mixed(mut value: u64) -> u64 {
    value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// A random number, good enough to spread requests: a `SplitMix64` sequence in each thread.
fn random() -> u64 {
    thread_local! {
        static STATE: Cell<u64> = Cell::new(RandomState::new().hash_one(std::thread::current().id()));
    }
    STATE.with(|state| {
        let next = state.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        state.set(next);
        mixed(next)
    })
}

/// A number of `[0, 1)` with 53 random bits.
fn unit_interval(bits: u64) -> f64 {
    (bits >> 11) as f64 / (1_u64 << 53) as f64
}
