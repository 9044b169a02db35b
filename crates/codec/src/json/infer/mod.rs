//! Requests of the Open Inference Protocol: the envelope is read in one pass, and tensors are decoded as in
//! [`super::fast`].
//!
//! Syntax errors have the texts of `RapidJSON`, as everywhere. Other errors have texts of this project. This file has
//! the envelope of infer requests, `tensor` the elements of inputs, `repository` the requests to the model repository,
//! and `walk` the reader of the text.

mod repository;
mod tensor;
mod walk;

use std::time::Duration;

use super::check_size;
use super::tape::{Node, Value};
use crate::open_inference::dtype;
use servable_model::error::Result;
use servable_model::tensor::{DType, Tensor};

pub use repository::{RepositoryRequest, decode_repository_request};
use walk::{Owner, Walk, boolean, is_base64, misfit, natural_number, text, wrong};

/// The JSON of a request. Binary data may follow it.
#[derive(Clone, Debug, Default)]
pub struct InferRequest {
    /// The id, which the response repeats.
    pub id: Option<String>,
    /// The parameter `signature_name`.
    pub signature_name: Option<String>,
    /// The parameter `timeout`, which is in microseconds; `None` for 0.
    pub timeout: Option<Duration>,
    /// The parameter `binary_data_output`: the default encoding of outputs.
    pub binary_data_output: bool,
    /// The inputs, in the order of the request.
    pub inputs: Vec<InferInput>,
    /// The requested outputs; all if empty.
    pub outputs: Vec<InferOutput>,
}

/// One input.
#[derive(Clone, Debug)]
pub struct InferInput {
    /// Its name.
    pub name: String,
    /// Its elements.
    pub data: InferData,
}

/// The elements of an input.
#[derive(Clone, Debug)]
pub enum InferData {
    /// From the JSON.
    Tensor(Tensor),
    /// In the binary data after the JSON.
    Binary {
        /// The dtype.
        dtype: DType,
        /// The shape.
        shape: Vec<i64>,
        /// The size in bytes.
        size: usize,
    },
}

/// The duration of the parameter `timeout`.
pub fn timeout(micros: u64) -> Option<Duration> {
    (micros > 0).then(|| Duration::from_micros(micros))
}

/// A requested output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InferOutput {
    /// Its name.
    pub name: String,
    /// The parameter `binary_data`.
    pub binary_data: Option<bool>,
    /// Whether the parameter `content_type` requests base64.
    pub is_base64: bool,
}

/// Decodes the JSON of an infer request.
///
/// # Errors
///
/// `INVALID_ARGUMENT` if the JSON is invalid, or the data of a tensor do not match its datatype and shape.
pub fn decode_infer(body: &[u8], max_nesting: usize) -> Result<InferRequest> {
    check_size(body)?;
    let mut walk = Walk::new(body, max_nesting);
    let mut request = InferRequest::default();
    let mut has_inputs = false;
    walk.object("the request", |walk, member| {
        match member {
            b"id" => request.id = Some(walk.text("the id")?),
            b"parameters" => walk.parameters(&Owner::Request, |name, value| {
                match name {
                    b"signature_name" => request.signature_name = Some(text(value, "signature_name")?),
                    b"timeout" => {
                        request.timeout = timeout(natural_number(value, "timeout", "a number of microseconds")?);
                    }
                    b"binary_data_output" => request.binary_data_output = boolean(value, "binary_data_output")?,
                    b"content_type" if is_base64(value)? => {
                        let text = "the content_type \"base64\" belongs to the parameters of an input or an output";
                        return Err(wrong(text));
                    }
                    _ => {}
                }
                Ok(())
            })?,
            b"inputs" => {
                has_inputs = true;
                request.inputs.clear();
                walk.array("inputs", |walk| {
                    request.inputs.push(walk.input()?);
                    Ok(())
                })?;
            }
            b"outputs" => {
                request.outputs.clear();
                walk.array("outputs", |walk| {
                    request.outputs.push(walk.output()?);
                    Ok(())
                })?;
            }
            _ => drop(walk.value()?),
        }
        Ok(())
    })?;
    if walk.reader.peek() != 0 || walk.reader.at < body.len() {
        let at = walk.reader.at;
        return Err(wrong(format!("the request goes on after its end, at byte {at}")));
    }
    if has_inputs { Ok(request) } else { Err(wrong("the request has no \"inputs\"")) }
}

impl Walk<'_> {
    fn output(&mut self) -> Result<InferOutput> {
        let (mut name, mut binary_data, mut base64) = (None, None, false);
        self.object("an output", |walk, member| {
            match member {
                b"name" => name = Some(walk.text("the name of an output")?),
                b"parameters" => walk.parameters(&Owner::Tensor("an output"), |name, value| {
                    match name {
                        b"binary_data" => binary_data = Some(boolean(value, "binary_data")?),
                        b"content_type" => base64 = is_base64(value)?,
                        _ => {}
                    }
                    Ok(())
                })?,
                _ => drop(walk.value()?),
            }
            Ok(())
        })?;
        let name = name.ok_or_else(|| wrong("an output has no \"name\""))?;
        if base64 && binary_data == Some(true) {
            return Err(wrong(format!("output {name:?} is asked for both as base64 and as binary data")));
        }
        Ok(InferOutput { name, binary_data, is_base64: base64 })
    }

    fn input(&mut self) -> Result<InferInput> {
        let (mut name, mut shape, mut dtype, mut size) = (None, None, None, None);
        let (mut data_at, mut tensor, mut base64) = (None, None, false);
        self.object("an input", |walk, member| {
            match member {
                b"name" => name = Some(walk.text("the name of an input")?),
                b"shape" => shape = Some(walk.shape()?),
                b"datatype" => dtype = Some(known_dtype(&walk.text("a datatype")?)?),
                b"parameters" => walk.parameters(&Owner::Tensor("an input"), |name, value| {
                    match name {
                        b"binary_data_size" => {
                            size = Some(natural_number(value, "binary_data_size", "a number of bytes")?);
                        }
                        b"content_type" => base64 = is_base64(value)?,
                        _ => {}
                    }
                    Ok(())
                })?,
                b"data" => {
                    data_at = Some(walk.reader.at);
                    // Members may have any order. If datatype or shape are not known yet, the data are read later.
                    if let (Some(name), Some(shape), Some(dtype)) = (&name, &shape, dtype) {
                        tensor = Some(walk.tensor(name, dtype, shape)?);
                    } else {
                        tensor = None;
                        walk.value()?;
                    }
                }
                _ => drop(walk.value()?),
            }
            Ok(())
        })?;
        let name: String = name.ok_or_else(|| wrong("an input has no \"name\""))?;
        let missing = |member| wrong(format!("input {name:?} has no {member:?}"));
        let (shape, dtype) = (shape.ok_or_else(|| missing("shape"))?, dtype.ok_or_else(|| missing("datatype"))?);
        if base64 && (dtype != DType::STRING || size.is_some()) {
            let text = "the content_type \"base64\" is for datatype BYTES whose \"data\" is in the JSON";
            return Err(wrong(format!("input {name:?}: {text}")));
        }
        let data = match (tensor, data_at, size) {
            (_, Some(_), Some(_)) => {
                return Err(wrong(format!("input {name:?} has both \"data\" and \"binary_data_size\"")));
            }
            // A size beyond the memory exceeds the rest of the body as well.
            (_, None, Some(size)) => {
                InferData::Binary { dtype, shape, size: usize::try_from(size).unwrap_or(usize::MAX) }
            }
            (Some(tensor), ..) => InferData::Tensor(tensor),
            (None, Some(at), None) => {
                let behind = std::mem::replace(&mut self.reader.at, at);
                let tensor = self.tensor(&name, dtype, &shape)?;
                self.reader.at = behind;
                InferData::Tensor(tensor)
            }
            (None, None, None) => return Err(missing("data")),
        };
        let data = match data {
            InferData::Tensor(tensor) if base64 => InferData::Tensor(tensor::from_base64(&name, &tensor)?),
            data => data,
        };
        Ok(InferInput { name, data })
    }

    fn shape(&mut self) -> Result<Vec<i64>> {
        let document = self.value()?;
        let root = document.root();
        let size = |value: Value<'_>| match value.node() {
            Node::Unsigned(size) => i64::try_from(size).ok(),
            _ => None,
        };
        let shape: Option<Vec<i64>> = root.elements().map(size).collect();
        shape.filter(|_| root.is_array()).ok_or_else(|| misfit("a shape", root, "a list of sizes"))
    }
}

fn known_dtype(name: &str) -> Result<DType> {
    dtype(name).ok_or_else(|| wrong(format!("{name:?} is not a datatype of the protocol")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::DEFAULT_MAX_NESTING;

    /// The tensor of a request with one input.
    pub(super) fn tensor(input: &str) -> Result<Tensor, String> {
        let body = format!("{{\"inputs\": [{input}]}}");
        let request = decode_infer(body.as_bytes(), DEFAULT_MAX_NESTING).map_err(|error| error.text().into_owned())?;
        match request.inputs.into_iter().next().map(|input| input.data) {
            Some(InferData::Tensor(tensor)) => Ok(tensor),
            other => panic!("a tensor in the JSON, not {other:?}"),
        }
    }

    pub(super) fn input(datatype: &str, shape: &str, data: &str) -> String {
        format!("{{\"name\": \"x\", \"shape\": {shape}, \"datatype\": \"{datatype}\", \"data\": {data}}}")
    }

    #[test]
    fn errors_name_the_fault() {
        for (text, expected) in [
            ("[]", "the request has to be an object; got []"),
            ("{}", "the request has no \"inputs\""),
            (r#"{"inputs": 1}"#, "inputs has to be a list; got 1"),
            (r#"{"inputs": [1]}"#, "an input has to be an object; got 1"),
            (r#"{"inputs": [{}]}"#, "an input has no \"name\""),
            (r#"{"inputs": [], "id": 7}"#, "the id has to be a string; got 7"),
            (r#"{"parameters": {"timeout": -1}}"#, "timeout has to be a number of microseconds; got -1"),
            (r#"{"inputs": [], "outputs": [{}]}"#, "an output has no \"name\""),
            (r#"{"inputs": []"#, "JSON Parse error: Missing a comma or '}' after an object member. at offset: 13"),
            (r#"{"inputs": [] x"#, "JSON Parse error: Missing a comma or '}' after an object member. at offset: 14"),
            ("{\"inputs\": []}\x01", "the request goes on after its end, at byte 14"),
            (
                r#"{"inputs": [], "outputs": [{"name": "y", "parameters": {"classification": 3}}]}"#,
                "an output has the parameter \"classification\", of an extension that is not available",
            ),
        ] {
            let error = decode_infer(text.as_bytes(), DEFAULT_MAX_NESTING).expect_err("it is wrong");
            assert_eq!(error.text(), expected, "{text}");
        }
        for (text, expected) in [
            (input("FP33", "[1]", "[1]"), "\"FP33\" is not a datatype of the protocol"),
            (input("FP32", "[-1]", "[1]"), "a shape has to be a list of sizes; got [-1]"),
            (input("FP32", "[3]", "[1, 2]"), "input \"x\": got data of shape [2], want [3] or a list of 3 elements"),
            (
                input("FP32", "[4]", "[[1, 2], [3, 4]]"),
                "input \"x\": got data of shape [2,2], want [4] or a list of 4 \
              elements",
            ),
            (
                input("FP32", "[99999999999]", "[]"),
                "input \"x\": got data of shape [0], want [99999999999] or a list of \
              99999999999 elements",
            ),
            (input("BF16", "[1]", "[1]"), "input \"x\": BF16 can only be sent as binary data"),
            (input("UINT16", "[1]", "[65536]"), "input \"x\": a number is out of the range of UINT16"),
            (input("INT8", "[1]", "[200]"), "input \"x\": JSON Value: 200 Type: Number is not of expected type: int8"),
            (input("BYTES", "[1]", "[1]"), "input \"x\": JSON Value: 1 Type: Number is not of expected type: string"),
            (r#"{"name": "x", "datatype": "FP32", "data": []}"#.to_owned(), "input \"x\" has no \"shape\""),
            (r#"{"name": "x", "datatype": "FP32", "shape": []}"#.to_owned(), "input \"x\" has no \"data\""),
            (
                r#"{"name": "x", "datatype": "FP32", "shape": [], "data": 1, "parameters": {"binary_data_size": 4}}"#
                    .to_owned(),
                "input \"x\" has both \"data\" and \"binary_data_size\"",
            ),
        ] {
            assert_eq!(tensor(&text).map(|_| ()), Err(expected.to_owned()), "{text}");
        }
    }

    #[test]
    fn a_member_that_is_null_is_absent() {
        let body = br#"{"id": null, "parameters": null, "outputs": null, "inputs": [{"name": "x", "shape": [1],
            "datatype": "FP32", "data": [1], "parameters": null, "other": null}]}"#;
        let request = decode_infer(body, DEFAULT_MAX_NESTING).expect("a request");
        assert_eq!((request.id, request.inputs.len(), request.outputs.len()), (None, 1, 0));
        let body = br#"{"parameters": {"signature_name": null, "timeout": null, "binary_data_output": null,
            "content_type": null}, "outputs": [{"name": "y", "parameters": null},
            {"name": "z", "parameters": {"binary_data": null, "classification": null, "content_type": null}}],
            "inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": null,
            "parameters": {"binary_data_size": 4, "shared_memory_region": null}}]}"#;
        let request = decode_infer(body, DEFAULT_MAX_NESTING).expect("a request");
        assert_eq!((request.signature_name, request.timeout, request.binary_data_output), (None, None, false));
        assert!(request.outputs.iter().all(|output| output.binary_data.is_none()));
        assert!(matches!(request.inputs[0].data, InferData::Binary { size: 4, .. }));
        for (text, expected) in [
            (r#"{"inputs": null}"#, "the request has no \"inputs\""),
            (r#"{"inputs": [{"name": null}]}"#, "an input has no \"name\""),
            (r#"{"inputs": [{"name": "x", "shape": null}]}"#, "input \"x\" has no \"shape\""),
            (r#"{"inputs": [null]}"#, "an input has to be an object; got null"),
            (r#"{"id": nil}"#, "JSON Parse error: Invalid value. at offset: 8"),
        ] {
            let error = decode_infer(text.as_bytes(), DEFAULT_MAX_NESTING).expect_err("it is wrong");
            assert_eq!(error.text(), expected, "{text}");
        }
    }

    #[test]
    fn base64_is_decoded_where_an_input_says_so_and_refused_where_it_cannot_be_meant() {
        let with = |parameters: &str, datatype: &str, data: &str| {
            tensor(&format!(
                "{{\"name\": \"x\", \"shape\": [2], \"datatype\": \"{datatype}\", \"data\": {data}, \
                 \"parameters\": {parameters}}}"
            ))
        };
        let strings = |tensor: Tensor| match tensor.elements() {
            servable_model::tensor::Elements::Strings(strings) => {
                strings.iter().map(<[u8]>::to_vec).collect::<Vec<_>>()
            }
            servable_model::tensor::Elements::Numbers(_) => panic!("strings were sent"),
        };
        let base64 = r#"{"content_type": "base64"}"#;
        assert_eq!(with(base64, "BYTES", r#"["AP8=", ""]"#).map(strings), Ok(vec![b"\x00\xff".to_vec(), Vec::new()]));
        let text = r#"{"content_type": "str"}"#;
        assert_eq!(with(text, "BYTES", r#"["AP8=", ""]"#).map(strings), Ok(vec![b"AP8=".to_vec(), Vec::new()]));
        assert_eq!(
            with(base64, "BYTES", r#"["AP8=", "!"]"#).map(strings),
            Err("input \"x\": element 1 is not base64, which its content_type says".to_owned())
        );
        assert_eq!(
            with(base64, "FP32", "[1, 2]").map(|_| ()),
            Err("input \"x\": the content_type \"base64\" is for datatype BYTES whose \"data\" is in the JSON"
                .to_owned())
        );
        for (text, expected) in [
            (
                r#"{"parameters": {"content_type": "base64"}}"#,
                "the content_type \"base64\" belongs to the parameters of an input or an output",
            ),
            (r#"{"parameters": {"content_type": 64}}"#, "content_type has to be a string; got 64"),
            (
                r#"{"outputs": [{"name": "y", "parameters": {"content_type": "base64", "binary_data": true}}]}"#,
                "output \"y\" is asked for both as base64 and as binary data",
            ),
        ] {
            let error = decode_infer(text.as_bytes(), DEFAULT_MAX_NESTING).expect_err("it is refused");
            assert_eq!(error.text(), expected, "{text}");
        }
    }

    #[test]
    fn the_envelope_is_read_in_any_order() {
        let body =
            br#" {"outputs": [{"parameters": {"binary_data": true}, "name": "y"}, {"name": "z"}], "unknown": [{}],
            "parameters": {"signature_name": "s", "binary_data_output": true, "timeout": 7, "other": 1}, "id": "\u0061b",
            "inputs": [{"name": "x", "shape": [1], "datatype": "BF16", "parameters": {"binary_data_size": 2}}]} "#;
        let request = decode_infer(body, DEFAULT_MAX_NESTING).expect("a request");
        assert_eq!((request.id.as_deref(), request.signature_name.as_deref()), (Some("ab"), Some("s")));
        assert!(request.binary_data_output);
        assert_eq!(request.timeout, Some(Duration::from_micros(7)));
        let output = |name: &str, binary_data| InferOutput { name: name.to_owned(), binary_data, is_base64: false };
        assert_eq!(request.outputs, [output("y", Some(true)), output("z", None)]);
        let InferData::Binary { dtype, shape, size } = &request.inputs[0].data else { panic!("binary data") };
        assert_eq!((*dtype, shape.as_slice(), *size), (DType::BFLOAT16, &[1][..], 2));
    }
}
