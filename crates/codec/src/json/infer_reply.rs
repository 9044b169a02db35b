//! Responses of the Open Inference Protocol: JSON without white space, followed by the tensors that are requested as
//! binary data.

use super::base64;
use super::encode::write_numbers;
use super::float::Subnormals;
use super::string::write_string;
use crate::open_inference::{datatype, raw_len, write_raw};
use servable_model::error::{Result, ServingError};
use servable_model::tensor::{DType, Elements, Tensor};

/// A response to be encoded.
#[derive(Debug)]
pub struct InferReply<'a> {
    /// The name of the model.
    pub model_name: &'a [u8],
    /// The version of the model.
    pub model_version: i64,
    /// The id of the request.
    pub id: Option<&'a str>,
    /// The outputs.
    pub outputs: Vec<ReplyTensor<'a>>,
}

/// One output.
#[derive(Clone, Copy, Debug)]
pub struct ReplyTensor<'a> {
    /// The name.
    pub name: &'a str,
    /// The elements.
    pub tensor: &'a Tensor,
    /// The encoding of the elements.
    pub form: Form,
}

/// The encoding of the elements of an output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// JSON, with strings as text.
    Json,
    /// JSON, with strings as base64. Numbers are not affected.
    Base64,
    /// Binary data after the JSON.
    Binary,
}

/// Whether tensors of a dtype have a JSON form.
pub fn has_json_form(dtype: DType) -> bool {
    dtype != DType::BFLOAT16 && datatype(dtype).is_some()
}

impl InferReply<'_> {
    /// Encodes the response. Returns also the length of the JSON, if binary data follow.
    ///
    /// # Errors
    ///
    /// `INVALID_ARGUMENT` if a tensor lacks the requested encoding.
    pub fn encode(&self) -> Result<(Vec<u8>, Option<usize>)> {
        let mut out = Vec::with_capacity(self.outputs.iter().map(ReplyTensor::estimate).sum::<usize>() + 128);
        out.extend(b"{\"model_name\":");
        write_string(&mut out, self.model_name);
        out.extend(format!(",\"model_version\":\"{}\"", self.model_version).bytes());
        if let Some(id) = self.id {
            out.extend(b",\"id\":");
            write_string(&mut out, id.as_bytes());
        }
        out.extend(b",\"outputs\":[");
        for (index, output) in self.outputs.iter().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            output.write(&mut out)?;
        }
        out.extend(b"]}");
        let json = out.len();
        let mut binary = self.outputs.iter().filter(|output| output.form == Form::Binary).peekable();
        let is_mixed = binary.peek().is_some();
        for output in binary {
            write_raw(output.tensor, &mut out)?;
        }
        Ok((out, is_mixed.then_some(json)))
    }
}

impl ReplyTensor<'_> {
    fn estimate(&self) -> usize {
        let data = match self.tensor.elements() {
            _ if self.form == Form::Binary => raw_len(self.tensor),
            Elements::Numbers(_) => 14 * self.tensor.len(),
            Elements::Strings(strings) => strings.iter().map(|string| string.len() * 4 / 3 + 8).sum(),
        };
        data + self.name.len() + 96
    }

    fn write(&self, out: &mut Vec<u8>) -> Result<()> {
        let unwritable = |text: String| ServingError::invalid_argument(format!("output {:?}: {text}", self.name));
        let dtype = self.tensor.dtype();
        let name = datatype(dtype).ok_or_else(|| unwritable(format!("the protocol has no datatype for {dtype}")))?;
        out.extend(b"{\"name\":");
        write_string(out, self.name.as_bytes());
        let shape: Vec<String> = self.tensor.shape().iter().map(ToString::to_string).collect();
        out.extend(format!(",\"datatype\":\"{name}\",\"shape\":[{}],", shape.join(",")).bytes());
        let is_base64 = self.form == Form::Base64 && dtype == DType::STRING;
        if self.form == Form::Binary {
            let size = raw_len(self.tensor);
            out.extend(format!("\"parameters\":{{\"binary_data_size\":{size}}}}}").bytes());
            return Ok(());
        }
        if is_base64 {
            out.extend(b"\"parameters\":{\"content_type\":\"base64\"},");
        }
        out.extend(b"\"data\":[");
        match self.tensor.elements() {
            _ if !has_json_form(dtype) => {
                return Err(unwritable(format!("{name} can only be answered as binary data; ask for binary_data")));
            }
            Elements::Numbers(buffer) => write_numbers(out, dtype, buffer.as_ref(), b",", Subnormals::Kept),
            Elements::Strings(strings) => {
                for (index, string) in strings.iter().enumerate() {
                    if index > 0 {
                        out.push(b',');
                    }
                    if is_base64 {
                        out.push(b'"');
                        base64::encode(string, out);
                        out.push(b'"');
                        continue;
                    }
                    if std::str::from_utf8(string).is_err() {
                        let text = format!(
                            "string {index} is not UTF-8, which JSON cannot carry; ask for binary_data, or for the \
                             content_type base64"
                        );
                        return Err(unwritable(text));
                    }
                    write_string(out, string);
                }
            }
        }
        out.extend(b"]}");
        Ok(())
    }
}
