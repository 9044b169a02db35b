//! The text of a value in an error message: pretty-printed, and truncated.

use super::grisu;
use super::string::write_string;
use super::tape::{Node, Value};

/// Beyond this length, no further value is begun. A value that was begun is completed.
const LIMIT_BYTES: usize = 256;

/// An open container.
struct Level {
    is_array: bool,
    is_empty: bool,
    end: usize,
}

/// The value as quoted by TensorFlow Serving: objects on several lines, arrays on one.
pub(super) fn dump(value: Value<'_>) -> Vec<u8> {
    let mut out = Vec::with_capacity(LIMIT_BYTES);
    let mut levels: Vec<Level> = Vec::new();
    let mut index = value.index;
    let mut is_name = false;
    while out.len() < LIMIT_BYTES {
        if let Some(level) = levels.pop_if(|level| level.end == index) {
            if !level.is_array && !level.is_empty {
                new_line(&mut out, levels.len());
            }
            out.push(if level.is_array { b']' } else { b'}' });
        } else if index == value.end() {
            break;
        } else {
            // Names and values alternate, and a container that was closed was a value.
            if let Some(level) = levels.last() {
                is_name = !level.is_array && !is_name;
            }
            separate(&mut out, &mut levels, is_name);
            let this = Value { document: value.document, index };
            match this.node() {
                Node::Null => out.extend(b"null"),
                Node::Bool(true) => out.extend(b"true"),
                Node::Bool(false) => out.extend(b"false"),
                Node::Unsigned(number) => out.extend(number.to_string().bytes()),
                Node::Negative(number) => out.extend(number.to_string().bytes()),
                Node::Double(number) if number.is_finite() => grisu::write_f64(&mut out, number),
                // The writer of TensorFlow Serving cannot print these, and stops.
                Node::Double(_) => break,
                Node::BodyString(..) | Node::BlockString(..) => {
                    write_string(&mut out, this.string().unwrap_or_default());
                }
                Node::Array(end, _) => {
                    out.push(b'[');
                    levels.push(Level { is_array: true, is_empty: true, end: end as usize });
                }
                Node::Object(end, _) => {
                    out.push(b'{');
                    levels.push(Level { is_array: false, is_empty: true, end: end as usize });
                    is_name = false;
                }
            }
            index += 1;
        }
    }
    out
}

/// Writes the separator before a token.
fn separate(out: &mut Vec<u8>, levels: &mut [Level], is_name: bool) {
    let depth = levels.len();
    let Some(level) = levels.last_mut() else { return };
    if level.is_array {
        if !level.is_empty {
            out.extend(b", ");
        }
    } else if is_name {
        if !level.is_empty {
            out.push(b',');
        }
        new_line(out, depth);
    } else {
        out.extend(b": ");
    }
    level.is_empty = false;
}

fn new_line(out: &mut Vec<u8>, depth: usize) {
    out.push(b'\n');
    out.extend(std::iter::repeat_n(b' ', 4 * depth));
}
