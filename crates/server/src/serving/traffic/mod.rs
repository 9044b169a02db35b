//! Traffic of one model: weighted splits between versions, and a shadow that gets copies of requests.
//!
//! Requests that name a version are neither split nor copied. The configuration is published with the model, so that a
//! request sees a consistent state and never waits for a change.

pub mod compare;
pub mod shadow;
pub mod split;

use std::cell::Cell;
use std::hash::{BuildHasher, RandomState};

use shadow::Shadow;
use split::Split;

/// The sender of a request: its HTTP headers or gRPC metadata.
pub trait Caller {
    /// The first value of this key. Case is ignored.
    fn value(&self, key: &str) -> Option<&[u8]>;
}

/// A caller without headers. It does not stick to a version.
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
    /// Creates the traffic of these splits, at most one for each label, and this shadow. Without any of them it is
    /// `None`, so that the look-up of other models costs nothing more.
    pub fn new(splits: Vec<Split>, shadow: Option<Shadow>) -> Option<Box<Self>> {
        (!splits.is_empty() || shadow.is_some()).then(|| Box::new(Self { splits, shadow }))
    }

    /// The split of a label. The empty label is that of requests without label and version.
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
