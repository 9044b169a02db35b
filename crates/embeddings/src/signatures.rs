//! The signatures of a table.
//!
//! | signature | inputs | outputs |
//! |---|---|---|
//! | `lookup`, `serving_default` | `keys`, or `ids` without keys, of any shape | `vectors` |
//! | `bag` | `keys` or `ids` `[n, m]`, `lengths` `[n]` | `vectors` `[n, width]` |
//! | `weighted_bag` | likewise, and `weights` `[n, m]` | `vectors` `[n, width]` |
//! | `lookup_ids`, `bag_ids`, `weighted_bag_ids` | the same by `ids`, if there are keys | |
//! | `nearest` | `vectors` `[n, width]` | `ids`, `scores` and, if there are any, `keys`: `[n, neighbours]` |
//! | `nearest_k` | `vectors`, and `k` `[]` | the same `[n, k]` |

use std::collections::BTreeMap;

use servable_model::signature::{DEFAULT_SIGNATURE, Signature, TensorSpec};
use servable_model::tensor::DType;

use crate::table::Table;

/// What is done with the inputs of a signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    Lookup,
    Bag,
    Nearest,
}

impl Operation {
    /// The operation of a signature, or of one that is composed of its tensors.
    pub(crate) fn of(signature: &Signature) -> Option<Self> {
        let (name, _) = signature.inputs.first()?.tensor_name.split_once(':')?;
        Some(match name {
            "lookup" | "lookup_ids" => Self::Lookup,
            "bag" | "bag_ids" | "weighted_bag" | "weighted_bag_ids" => Self::Bag,
            "nearest" | "nearest_k" => Self::Nearest,
            _ => return None,
        })
    }
}

type Spec<'a> = (&'a str, DType, Option<&'a [i64]>);

/// The signatures, by name.
pub(crate) fn signatures(table: &Table, neighbours: usize) -> BTreeMap<String, Signature> {
    let width = table.width() as i64;
    let mut found = BTreeMap::new();
    let mut add = |name: &str, inputs: &[Spec<'_>], outputs: &[Spec<'_>]| {
        let specs = |specs: &[Spec<'_>]| {
            let spec = |&(alias, dtype, shape): &Spec<'_>| TensorSpec {
                alias: alias.to_owned(),
                // Names are those of one operation, so that batches never mix operations.
                tensor_name: format!("{name}:{alias}"),
                dtype,
                shape: shape.map(<[i64]>::to_vec),
            };
            let mut specs: Vec<_> = specs.iter().map(spec).collect();
            specs.sort_by(|one, other| one.alias.cmp(&other.alias));
            specs
        };
        let signature = Signature {
            inputs: specs(inputs),
            outputs: specs(outputs),
            method_name: "tensorflow/serving/predict".to_owned(),
            // A scalar has no rows that could be joined with those of other requests.
            has_components: inputs.iter().any(|&(_, _, shape)| shape == Some(&[])),
            ..Signature::default()
        };
        found.insert(name.to_owned(), signature);
    };
    let by_id = ("ids", DType::INT64, if table.keys().is_some() { "_ids" } else { "" });
    let by_key = table.keys().map(|_| ("keys", DType::STRING, ""));
    for (alias, dtype, suffix) in std::iter::once(by_id).chain(by_key) {
        let (matrix, row): (Option<&[i64]>, Option<&[i64]>) = (Some(&[-1, -1]), Some(&[-1]));
        let [members, lengths] = [(alias, dtype, matrix), ("lengths", DType::INT64, row)];
        let bags = [("vectors", DType::FLOAT, Some(&[-1, width][..]))];
        add(&format!("lookup{suffix}"), &[(alias, dtype, None)], &[("vectors", DType::FLOAT, None)]);
        add(&format!("bag{suffix}"), &[members, lengths], &bags);
        let weights = ("weights", DType::FLOAT, matrix);
        add(&format!("weighted_bag{suffix}"), &[members, lengths, weights], &bags);
    }
    let vectors = ("vectors", DType::FLOAT, Some(&[-1, width][..]));
    for (name, k, size) in
        [("nearest", None, neighbours as i64), ("nearest_k", Some(("k", DType::INT64, Some(&[][..]))), -1)]
    {
        let shape = Some(&[-1, size][..]);
        let mut outputs = vec![("ids", DType::INT64, shape), ("scores", DType::FLOAT, shape)];
        outputs.extend(table.keys().map(|_| ("keys", DType::STRING, shape)));
        let inputs: Vec<_> = k.into_iter().chain([vectors]).collect();
        add(name, &inputs, &outputs);
    }
    let lookup = found["lookup"].clone();
    found.insert(DEFAULT_SIGNATURE.to_owned(), lookup);
    found
}
