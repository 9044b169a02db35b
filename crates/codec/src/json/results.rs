//! Classify and Regress responses.

use super::float::write_f32;
use super::string::write_string;
use servable_model::error::{Result, ServingError};
use servable_model::inference::Inference;

/// The body of a classify or a regress response.
///
/// # Errors
///
/// `INVALID_ARGUMENT` if there are no results.
pub fn encode_results(inference: &Inference) -> Result<Vec<u8>> {
    let empty = |kind| Err(ServingError::invalid_argument(format!("Cannot convert empty {kind}Results to JSON")));
    let mut out = b"{\n    \"results\": [".to_vec();
    match inference {
        Inference::Classification(classification) => {
            if classification.iter().len() == 0 {
                return empty("Classification");
            }
            join(&mut out, classification.iter(), |out, classes| {
                out.push(b'[');
                join(out, classes, |out, (label, score)| {
                    out.push(b'[');
                    write_string(out, label);
                    out.extend(b", ");
                    write_f32(out, score);
                    out.push(b']');
                });
                out.push(b']');
            });
            out.extend(b"\n    ]\n}");
        }
        Inference::Regression(regression) => {
            if regression.iter().len() == 0 {
                return empty("Regression");
            }
            join(&mut out, regression.iter(), write_f32);
            out.extend(b"]\n}");
        }
    }
    Ok(out)
}

/// Writes items, with separators.
fn join<T>(out: &mut Vec<u8>, items: impl Iterator<Item = T>, write: impl Fn(&mut Vec<u8>, T)) {
    for (index, item) in items.enumerate() {
        if index > 0 {
            out.extend(b", ");
        }
        write(out, item);
    }
}
