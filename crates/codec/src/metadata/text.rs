//! The text format of signatures in error messages of TensorFlow Serving: protobuf's text format, after a line that
//! marks the text as one for people.

use std::fmt::Write;

use servable_model::signature::{Signature, TensorSpec};

/// The first line of such a text, which prevents programs from parsing it. In TensorFlow Serving it differs between
/// processes.
const MARK: &str = "goo.gle/debugproto  \n";

/// The signature as text.
pub fn signature_text(signature: &Signature) -> String {
    let mut text = MARK.to_owned();
    for (field, specs) in [("inputs", &signature.inputs), ("outputs", &signature.outputs)] {
        for spec in specs {
            message(&mut text, 0, field, |text| entry(text, spec));
        }
    }
    if !signature.method_name.is_empty() {
        line(&mut text, 0, format_args!("method_name: {}", quoted(&signature.method_name)));
    }
    text
}

fn entry(text: &mut String, spec: &TensorSpec) {
    line(text, 1, format_args!("key: {}", quoted(&spec.alias)));
    message(text, 1, "value", |text| {
        if !spec.tensor_name.is_empty() {
            line(text, 2, format_args!("name: {}", quoted(&spec.tensor_name)));
        }
        match (spec.dtype.0, spec.dtype.proto_name()) {
            (0, _) => {}
            (_, Some(name)) => line(text, 2, format_args!("dtype: {name}")),
            (number, None) => line(text, 2, format_args!("dtype: {number}")),
        }
        message(text, 2, "tensor_shape", |text| match &spec.shape {
            None => line(text, 3, format_args!("unknown_rank: true")),
            Some(sizes) => {
                for &size in sizes {
                    message(text, 3, "dim", |text| {
                        if size != 0 {
                            line(text, 4, format_args!("size: {size}"));
                        }
                    });
                }
            }
        });
    });
}

fn message(text: &mut String, level: usize, field: &str, fields: impl FnOnce(&mut String)) {
    line(text, level, format_args!("{field} {{"));
    fields(text);
    line(text, level, format_args!("}}"));
}

fn line(text: &mut String, level: usize, content: std::fmt::Arguments<'_>) {
    let indent = 2 * level;
    writeln!(text, "{:indent$}{content}", "").expect("a string takes everything");
}

/// A string literal. Bytes other than printable ASCII are escaped in octal.
fn quoted(text: &str) -> String {
    let mut literal = String::with_capacity(text.len() + 2);
    literal.push('"');
    for byte in text.bytes() {
        match byte {
            b'\n' => literal.push_str("\\n"),
            b'\r' => literal.push_str("\\r"),
            b'\t' => literal.push_str("\\t"),
            b'"' | b'\'' | b'\\' => literal.extend(['\\', char::from(byte)]),
            b' '..=b'~' => literal.push(char::from(byte)),
            _ => write!(literal, "\\{byte:03o}").expect("a string takes everything"),
        }
    }
    literal.push('"');
    literal
}

#[cfg(test)]
mod tests {
    use super::*;
    use servable_model::tensor::DType;

    #[test]
    fn a_signature_is_printed_as_protobuf_does() {
        let spec = |alias: &str, dtype, shape: Option<&[i64]>| TensorSpec {
            alias: alias.to_owned(),
            tensor_name: format!("{alias}:0"),
            dtype,
            shape: shape.map(<[i64]>::to_vec),
        };
        let signature = Signature {
            inputs: vec![spec("inputs", DType::STRING, Some(&[-1, 0]))],
            outputs: vec![spec("a\"\u{e9}", DType(999), None), spec("b", DType::FLOAT, Some(&[]))],
            method_name: "tensorflow/serving/classify".to_owned(),
            ..Signature::default()
        };
        let expected = r#"goo.gle/debugproto  
inputs {
  key: "inputs"
  value {
    name: "inputs:0"
    dtype: DT_STRING
    tensor_shape {
      dim {
        size: -1
      }
      dim {
      }
    }
  }
}
outputs {
  key: "a\"\303\251"
  value {
    name: "a\"\303\251:0"
    dtype: 999
    tensor_shape {
      unknown_rank: true
    }
  }
}
outputs {
  key: "b"
  value {
    name: "b:0"
    dtype: DT_FLOAT
    tensor_shape {
    }
  }
}
method_name: "tensorflow/serving/classify"
"#;
        assert_eq!(signature_text(&signature), expected);
    }
}
