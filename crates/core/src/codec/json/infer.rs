//! Requests of the Open Inference Protocol: an envelope that is walked over once, and tensors that are decoded as those
//! of [`super::fast`] are.
//!
//! Syntax errors have the texts of `RapidJSON`, as everywhere; all others are our own.

use std::borrow::Cow;

use super::column::Column;
use super::exact;
use super::fast::Reader;
use super::lists::{Dimensions, read_value};
use super::parse;
use super::string::{self, Span};
use super::tape::{Document, Node, Value};
use super::{check_size, dump::dump};
use crate::codec::open_inference::{datatype, dtype};
use crate::error::{Result, ServingError};
use crate::half;
use crate::tensor::{ALIGNMENT, AlignedBytes, Buffer, DType, Elements, Tensor, element_count, shape_text};

/// A request as it was sent; what is sent beside JSON is still to come.
#[derive(Clone, Debug, Default)]
pub struct InferRequest {
    /// To be repeated in the answer.
    pub id: Option<String>,
    /// The parameter `signature_name`.
    pub signature_name: Option<String>,
    /// The parameter `binary_data_output`: how outputs are answered that do not say so themselves.
    pub binary_data_output: bool,
    /// The inputs in the order they were sent.
    pub inputs: Vec<InferInput>,
    /// The outputs that are asked for; all if empty.
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
    /// They were in the JSON.
    Tensor(Tensor),
    /// They follow after the JSON.
    Binary {
        /// Their dtype.
        dtype: DType,
        /// Their shape.
        shape: Vec<i64>,
        /// How many bytes they take.
        size: usize,
    },
}

/// An output that is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InferOutput {
    /// Its name.
    pub name: String,
    /// The parameter `binary_data`.
    pub binary_data: Option<bool>,
}

/// Decodes the JSON of an infer request.
///
/// # Errors
///
/// `INVALID_ARGUMENT` if it is not one, or a tensor's data does not fit its datatype and shape.
pub fn decode_infer(body: &[u8], max_nesting: usize) -> Result<InferRequest> {
    check_size(body)?;
    let mut walk = Walk { reader: Reader { body, at: 0 }, max_nesting };
    let mut request = InferRequest::default();
    let mut has_inputs = false;
    walk.object("the request", |walk, member| {
        match member {
            b"id" => request.id = Some(walk.text("the id")?),
            b"parameters" => walk.parameters(&Owner::Request, |name, value| {
                match name {
                    b"signature_name" => request.signature_name = Some(text(value, "signature_name")?),
                    b"binary_data_output" => request.binary_data_output = boolean(value, "binary_data_output")?,
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
        return Err(wrong(format!(
            "the request goes on after its end, at byte {at}; where tensors follow as binary \
                                  data, Inference-Header-Content-Length has to be the length of the JSON"
        )));
    }
    if has_inputs { Ok(request) } else { Err(wrong("the request has no \"inputs\"")) }
}

/// What a request to the model repository says beside the model's name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RepositoryRequest {
    /// `ready`: list only what can be called.
    pub only_ready: bool,
    /// The parameter `config`: how a model is to be served.
    pub config: Option<String>,
}

/// Decodes the body of a request to the model repository, which may be empty.
///
/// # Errors
///
/// `INVALID_ARGUMENT` if it is something else than such a request.
pub fn decode_repository_request(body: &[u8], max_nesting: usize) -> Result<RepositoryRequest> {
    check_size(body)?;
    let mut request = RepositoryRequest::default();
    if body.is_empty() {
        return Ok(request);
    }
    let mut walk = Walk { reader: Reader { body, at: 0 }, max_nesting };
    walk.object("the request", |walk, member| {
        match member {
            b"ready" => request.only_ready = boolean(walk.value()?.root(), "ready")?,
            b"parameters" => walk.parameters(&Owner::Request, |name, value| {
                if name == b"config" {
                    request.config = Some(text(value, "config")?);
                }
                Ok(())
            })?,
            _ => drop(walk.value()?),
        }
        Ok(())
    })?;
    Ok(request)
}

fn wrong(message: impl Into<Vec<u8>>) -> ServingError {
    ServingError::invalid_argument(message)
}

/// Whose parameters are read, for messages.
enum Owner<'a> {
    Request,
    Tensor(&'a str),
}

/// Parameters that would change the meaning of a tensor, of extensions that are not here.
const UNKNOWN_EXTENSIONS: [&[u8]; 2] = [b"shared_memory_region", b"classification"];

/// A walk over the text.
struct Walk<'b> {
    reader: Reader<'b>,
    /// How deeply each value may be nested.
    max_nesting: usize,
}

impl<'b> Walk<'b> {
    /// Reads an object; `member` reads the value of each name.
    fn object(&mut self, what: &str, mut member: impl FnMut(&mut Self, &[u8]) -> Result<()>) -> Result<()> {
        self.open(b'{', what, "an object")?;
        if self.reader.expect(b'}').is_some() {
            return Ok(());
        }
        loop {
            let name = self.string().ok_or_else(|| self.syntax_error())?;
            self.reader.expect(b':').ok_or_else(|| self.syntax_error())?;
            self.reader.peek();
            member(self, &name)?;
            if !self.reader.another(b'}').ok_or_else(|| self.syntax_error())? {
                return Ok(());
            }
        }
    }

    /// Reads a list; `element` reads each of its values.
    fn array(&mut self, what: &str, mut element: impl FnMut(&mut Self) -> Result<()>) -> Result<()> {
        self.open(b'[', what, "a list")?;
        if self.reader.expect(b']').is_some() {
            return Ok(());
        }
        loop {
            self.reader.peek();
            element(self)?;
            if !self.reader.another(b']').ok_or_else(|| self.syntax_error())? {
                return Ok(());
            }
        }
    }

    fn open(&mut self, bracket: u8, what: &str, wanted: &str) -> Result<()> {
        if self.reader.expect(bracket).is_some() {
            return Ok(());
        }
        let found = self.value()?;
        Err(misfit(what, found.root(), wanted))
    }

    fn string(&mut self) -> Option<Cow<'b, [u8]>> {
        if self.reader.peek() != b'"' {
            return None;
        }
        let mut block = Vec::new();
        let (span, next) = string::scan(self.reader.body, self.reader.at, &mut block).ok()?;
        self.reader.at = next;
        Some(match span {
            Span::Body { start, end } => Cow::Borrowed(&self.reader.body[start..end]),
            Span::Block(_) => Cow::Owned(block),
        })
    }

    /// Reads any value.
    fn value(&mut self) -> Result<Document<'b>> {
        let (document, next) = parse::parse_at(self.reader.body, self.reader.at, self.max_nesting)?;
        self.reader.at = next;
        Ok(document)
    }

    fn text(&mut self, what: &str) -> Result<String> {
        match self.string() {
            Some(found) => String::from_utf8(found.into_owned()).map_err(|_| wrong(format!("{what} is not UTF-8"))),
            None => text(self.value()?.root(), what),
        }
    }

    /// What the body's first syntax error is, by the parser that knows their texts.
    fn syntax_error(&self) -> ServingError {
        match parse::parse(self.reader.body, self.max_nesting) {
            Err(error) => error.into(),
            Ok(_) => wrong(format!("the request is not JSON at byte {}", self.reader.at)),
        }
    }

    fn parameters(&mut self, owner: &Owner<'_>, mut each: impl FnMut(&[u8], Value<'_>) -> Result<()>) -> Result<()> {
        let document = self.value()?;
        if !document.root().is_object() {
            return Err(misfit("parameters", document.root(), "an object"));
        }
        for (name, value) in document.root().members() {
            if let Owner::Tensor(what) = owner
                && UNKNOWN_EXTENSIONS.contains(&name)
            {
                let name = String::from_utf8_lossy(name);
                return Err(wrong(format!("{what} has the parameter {name:?}, of an extension that is not available")));
            }
            each(name, value)?;
        }
        Ok(())
    }

    fn output(&mut self) -> Result<InferOutput> {
        let (mut name, mut binary_data) = (None, None);
        self.object("an output", |walk, member| {
            match member {
                b"name" => name = Some(walk.text("the name of an output")?),
                b"parameters" => walk.parameters(&Owner::Tensor("an output"), |name, value| {
                    if name == b"binary_data" {
                        binary_data = Some(boolean(value, "binary_data")?);
                    }
                    Ok(())
                })?,
                _ => drop(walk.value()?),
            }
            Ok(())
        })?;
        let name = name.ok_or_else(|| wrong("an output has no \"name\""))?;
        Ok(InferOutput { name, binary_data })
    }

    fn input(&mut self) -> Result<InferInput> {
        let (mut name, mut shape, mut dtype, mut size) = (None, None, None, None);
        let (mut data_at, mut tensor) = (None, None);
        self.object("an input", |walk, member| {
            match member {
                b"name" => name = Some(walk.text("the name of an input")?),
                b"shape" => shape = Some(walk.shape()?),
                b"datatype" => dtype = Some(known_dtype(&walk.text("a datatype")?)?),
                b"parameters" => walk.parameters(&Owner::Tensor("an input"), |name, value| {
                    if name == b"binary_data_size" {
                        size = Some(natural_number(value, "binary_data_size")?);
                    }
                    Ok(())
                })?,
                b"data" => {
                    data_at = Some(walk.reader.at);
                    // Members come in any order: elsewhere it is read once all of them are known.
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
        let data = match (tensor, data_at, size) {
            (_, Some(_), Some(_)) => {
                return Err(wrong(format!("input {name:?} has both \"data\" and \"binary_data_size\"")));
            }
            (_, None, Some(size)) => InferData::Binary { dtype, shape, size },
            (Some(tensor), ..) => InferData::Tensor(tensor),
            (None, Some(at), None) => {
                let behind = std::mem::replace(&mut self.reader.at, at);
                let tensor = self.tensor(&name, dtype, &shape)?;
                self.reader.at = behind;
                InferData::Tensor(tensor)
            }
            (None, None, None) => return Err(missing("data")),
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

    /// Reads the elements of a tensor, nested as its shape says or in one list.
    fn tensor(&mut self, name: &str, dtype: DType, shape: &[i64]) -> Result<Tensor> {
        let fault = |text: String| wrong(format!("input {name:?}: {text}"));
        let count =
            element_count(shape).ok_or_else(|| fault(format!("{} is not the shape of a tensor", shape_text(shape))))?;
        let carrier = match dtype {
            DType::BFLOAT16 => return Err(fault("BF16 can only be sent as binary data".to_owned())),
            DType::UINT16 => DType::UINT32,
            DType::HALF => DType::DOUBLE,
            dtype => dtype,
        };
        let start = self.reader.at;
        let mut dimensions = Dimensions::default();
        let mut column = self.column(carrier, count);
        let sizes = if read_value(&mut self.reader, &mut dimensions, &mut column).is_some() {
            dimensions.sizes
        } else {
            // Irregular, of another type, or merely unusual: once more, to know which.
            self.reader.at = start;
            let document = self.value()?;
            column = Column::new(carrier);
            let sizes = exact::shape_of(document.root());
            exact::fill(&mut column, document.root(), &sizes).map_err(|error| {
                let prefix = format!("input {name:?}: ");
                ServingError { message: [prefix.as_bytes(), &error.message].concat(), ..error }
            })?;
            sizes
        };
        let is_flat = matches!(sizes[..], [size] if size as usize == count);
        if sizes != shape && !is_flat {
            let (got, want) = (shape_text(&sizes), shape_text(shape));
            return Err(fault(format!("got data of shape {got}, want {want} or a list of {count} elements")));
        }
        let tensor = column.finish(name, shape.to_vec())?;
        narrowed(tensor, dtype).ok_or_else(|| fault(format!("a number is out of the range of {}", name_of(dtype))))
    }

    /// An empty column with room for what the rest of the body can hold of it.
    fn column(&self, dtype: DType, count: usize) -> Column {
        let mut column = Column::correctly_rounded(dtype);
        let most = (self.reader.body.len() - self.reader.at) / 2 + 1;
        let bytes = count.min(most) * dtype.size().unwrap_or(0);
        column.numbers = AlignedBytes::with_capacity(ALIGNMENT, bytes);
        column
    }
}

/// A tensor of the dtype that was asked for from one of a wider dtype; `None` if a number does not fit.
fn narrowed(tensor: Tensor, dtype: DType) -> Option<Tensor> {
    if tensor.dtype() == dtype {
        return Some(tensor);
    }
    let (_, shape, elements) = tensor.into_parts();
    let Elements::Numbers(wide) = elements else { return None };
    let mut narrow = AlignedBytes::with_capacity(ALIGNMENT, wide.as_ref().len() / 2);
    if dtype == DType::UINT16 {
        for &number in wide.as_ref().as_chunks().0 {
            let number = u16::try_from(u32::from_le_bytes(number)).ok()?;
            narrow.extend_from_slice(&number.to_le_bytes());
        }
    } else {
        for &number in wide.as_ref().as_chunks().0 {
            narrow.extend_from_slice(&half::from_f64(f64::from_le_bytes(number)).to_le_bytes());
        }
    }
    Some(Tensor::from_numbers(dtype, shape, Buffer::Owned(narrow)))
}

fn known_dtype(name: &str) -> Result<DType> {
    dtype(name).ok_or_else(|| wrong(format!("{name:?} is not a datatype of the protocol")))
}

fn name_of(dtype: DType) -> &'static str {
    datatype(dtype).unwrap_or("its datatype")
}

fn text(value: Value<'_>, what: &str) -> Result<String> {
    let found = value.string().ok_or_else(|| misfit(what, value, "a string"))?;
    String::from_utf8(found.to_vec()).map_err(|_| wrong(format!("{what} is not UTF-8")))
}

fn boolean(value: Value<'_>, what: &str) -> Result<bool> {
    match value.node() {
        Node::Bool(value) => Ok(value),
        _ => Err(misfit(what, value, "true or false")),
    }
}

fn natural_number(value: Value<'_>, what: &str) -> Result<usize> {
    match value.node() {
        Node::Unsigned(number) => usize::try_from(number).map_err(|_| misfit(what, value, "a number of bytes")),
        _ => Err(misfit(what, value, "a number of bytes")),
    }
}

/// Says what was found, what it was to be, and what was wanted.
fn misfit(what: &str, found: Value<'_>, wanted: &str) -> ServingError {
    wrong([what.as_bytes(), b" has to be ", wanted.as_bytes(), b"; got ", &dump(found)].concat())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::json::DEFAULT_MAX_NESTING;

    /// The tensor of a request of one input.
    fn tensor(input: &str) -> Result<Tensor, String> {
        let body = format!("{{\"inputs\": [{input}]}}");
        let request = decode_infer(body.as_bytes(), DEFAULT_MAX_NESTING).map_err(|error| error.text().into_owned())?;
        match request.inputs.into_iter().next().map(|input| input.data) {
            Some(InferData::Tensor(tensor)) => Ok(tensor),
            other => panic!("a tensor in the JSON, not {other:?}"),
        }
    }

    fn input(datatype: &str, shape: &str, data: &str) -> String {
        format!("{{\"name\": \"x\", \"shape\": {shape}, \"datatype\": \"{datatype}\", \"data\": {data}}}")
    }

    fn numbers(tensor: &Tensor) -> &[u8] {
        match tensor.elements() {
            Elements::Numbers(buffer) => buffer.as_ref(),
            Elements::Strings(_) => panic!("numbers were sent"),
        }
    }

    #[test]
    fn data_may_be_flat_or_nested_and_stand_before_what_it_is() {
        let expected = [1.0_f32, 2.0, 3.0, 4.0].map(f32::to_le_bytes).concat();
        for text in [
            input("FP32", "[2, 2]", "[1, 2, 3, 4]"),
            input("FP32", "[2,2]", "[ [1.0,2e0] , [3,4] ]"),
            r#"{"data": [[1, 2], [3, 4]], "datatype": "FP32", "name": "\u0078", "shape": [2, 2]}"#.to_owned(),
            r#"{"x": {"y": [{}]}, "parameters": {"p": 1}, "shape": [2,2], "datatype": "FP32", "name": "x",
                "data": [1, 2, 3, 4]}"#
                .to_owned(),
        ] {
            let tensor = tensor(&text).unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!((tensor.shape(), numbers(&tensor)), (&[2, 2][..], &expected[..]), "{text}");
        }
        assert_eq!(numbers(&tensor(&input("FP64", "[]", "1.5")).expect("a scalar")), 1.5_f64.to_le_bytes());
        assert!(tensor(&input("INT64", "[2, 0]", "[[], []]")).expect("no elements").is_empty());
    }

    #[test]
    fn numbers_of_every_size_are_exact_or_refused() {
        let half = tensor(&input("FP16", "[2]", "[0.1, -1e9]")).expect("numbers");
        assert_eq!(numbers(&half), [0x2e66_u16, 0xfc00].map(u16::to_le_bytes).as_flattened());
        let short = tensor(&input("UINT16", "[2]", "[0, 65535]")).expect("numbers");
        assert_eq!(numbers(&short), [0, 0, 0xff, 0xff]);
        // The nearest doubles, where the conversion of the original is off by one in the last place.
        let texts = ["0.30000000000000004", "1.7976931348623157e308", "123456789012345.678", "5e-324", "8.41e21"];
        for text in texts {
            let double = tensor(&input("FP64", "[1]", &format!("[{text}]"))).expect("a number");
            let nearest: f64 = text.parse().expect("a number");
            assert_eq!(numbers(&double), nearest.to_le_bytes(), "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, expected) in [
            ("[]", "the request has to be an object; got []"),
            ("{}", "the request has no \"inputs\""),
            (r#"{"inputs": 1}"#, "inputs has to be a list; got 1"),
            (r#"{"inputs": [1]}"#, "an input has to be an object; got 1"),
            (r#"{"inputs": [{}]}"#, "an input has no \"name\""),
            (r#"{"inputs": [], "id": 7}"#, "the id has to be a string; got 7"),
            (r#"{"inputs": [], "outputs": [{}]}"#, "an output has no \"name\""),
            (r#"{"inputs": []"#, "JSON Parse error: Missing a comma or '}' after an object member. at offset: 13"),
            (r#"{"inputs": [] x"#, "JSON Parse error: Missing a comma or '}' after an object member. at offset: 14"),
            (
                "{\"inputs\": []}\x01",
                "the request goes on after its end, at byte 14; where tensors follow as binary data, \
                 Inference-Header-Content-Length has to be the length of the JSON",
            ),
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
    fn the_envelope_is_read_in_any_order() {
        let body =
            br#" {"outputs": [{"parameters": {"binary_data": true}, "name": "y"}, {"name": "z"}], "unknown": [{}],
            "parameters": {"signature_name": "s", "binary_data_output": true, "other": 1}, "id": "\u0061b",
            "inputs": [{"name": "x", "shape": [1], "datatype": "BF16", "parameters": {"binary_data_size": 2}}]} "#;
        let request = decode_infer(body, DEFAULT_MAX_NESTING).expect("a request");
        assert_eq!((request.id.as_deref(), request.signature_name.as_deref()), (Some("ab"), Some("s")));
        assert!(request.binary_data_output);
        let output = |name: &str, binary_data| InferOutput { name: name.to_owned(), binary_data };
        assert_eq!(request.outputs, [output("y", Some(true)), output("z", None)]);
        let InferData::Binary { dtype, shape, size } = &request.inputs[0].data else { panic!("binary data") };
        assert_eq!((*dtype, shape.as_slice(), *size), (DType::BFLOAT16, &[1][..], 2));
    }

    #[test]
    fn requests_to_the_repository_may_be_empty() {
        let decoded = |body: &str| {
            decode_repository_request(body.as_bytes(), DEFAULT_MAX_NESTING).map_err(|error| error.text().into_owned())
        };
        assert_eq!(decoded(""), Ok(RepositoryRequest::default()));
        let config = Some("{}".to_owned());
        let expected = RepositoryRequest { only_ready: true, config };
        assert_eq!(decoded(r#"{"ready": true, "parameters": {"config": "{}"}}"#), Ok(expected));
        assert_eq!(decoded(r#"{"ready": 1}"#), Err("ready has to be true or false; got 1".to_owned()));
    }
}
