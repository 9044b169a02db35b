//! The fast decoder of ordinary predict requests: one pass over the text, with values written straight into tensors.
//!
//! All functions return an `Option`. `None` means "not certain", not "invalid". It is returned for unusual spelling
//! (escaped, repeated or unknown names), irregular lists, values of another type, numbers out of range, and syntax
//! errors. The caller then decodes the request with [`super::exact`]. Requests that are accepted here must give the
//! same result there.

use std::ops::Deref;

use memchr::memmem;

use super::column::Column;
use super::lists::{Dimensions, read_value};
use super::reader::Reader;
use super::{Format, PredictInput};
use servable_model::error::Result;
use servable_model::signature::{Signature, TensorSpec};
use servable_model::tensor::{ALIGNMENT, AlignedBytes, DType, Tensor};

/// The assumed size of an element in JSON, to estimate the memory of a tensor. It includes a space or a point, which
/// are rarely missing. If the estimate is too small, the buffer grows.
const BYTES_PER_ELEMENT: usize = 4;

/// Decodes a body; `None` if it is not an ordinary one, or if `resolve` fails.
pub(super) fn decode<S>(body: &[u8], mut resolve: impl FnMut(Option<&[u8]>) -> Result<S>) -> Option<PredictInput<S>>
where
    S: Deref<Target = Signature>,
{
    let mut reader = Reader { body, at: 0 };
    let mut signature_name: Option<&[u8]> = None;
    let mut expected_name: Option<&[u8]> = None;
    let mut decoded = None;
    reader.expect(b'{')?;
    loop {
        let name = reader.plain_string()?;
        reader.expect(b':')?;
        match name {
            b"signature_name" if signature_name.is_none() => signature_name = Some(reader.plain_string()?),
            b"instances" | b"inputs" if decoded.is_none() => {
                expected_name = signature_name.or_else(|| reader.find_signature_name());
                let signature = resolve(expected_name.filter(|name| !name.is_empty())).ok()?;
                if signature.inputs.is_empty() {
                    return None;
                }
                let (format, inputs) = if name == b"inputs" {
                    (Format::Columnar, reader.columnar(&signature.inputs)?)
                } else {
                    (Format::Row, reader.rows(&signature.inputs)?)
                };
                decoded = Some((format, signature, inputs));
            }
            _ => return None,
        }
        if !reader.another(b'}')? {
            break;
        }
    }
    let (format, signature, inputs) = decoded?;
    // A name after the tensors was only a guess until now.
    (signature_name == expected_name).then_some(())?;
    Some(PredictInput { format, signature_name: signature_name.unwrap_or_default().to_vec(), signature, inputs })
}

impl<'b> Reader<'b> {
    /// Looks ahead for a signature name after the tensors. The result is a guess, because the first match may be
    /// something else. The caller compares it with the actual name later.
    fn find_signature_name(&self) -> Option<&'b [u8]> {
        const NAME: &[u8] = b"\"signature_name\"";
        let found = self.at + memmem::find(&self.body[self.at..], NAME)?;
        let mut ahead = Reader { body: self.body, at: found + NAME.len() };
        ahead.expect(b':')?;
        ahead.plain_string()
    }

    fn columnar(&mut self, specs: &[TensorSpec]) -> Option<Vec<Tensor>> {
        if self.peek() != b'{' || self.is_base64() {
            let [spec] = specs else { return None };
            return Some(vec![self.whole_tensor(spec, true)?]);
        }
        let mut tensors: Vec<Option<Tensor>> = specs.iter().map(|_| None).collect();
        let mut missing = specs.len();
        self.expect(b'{')?;
        let mut next = 0;
        while missing > 0 {
            let input = self.input_name(specs, next)?;
            if tensors[input].is_some() {
                return None;
            }
            tensors[input] = Some(self.whole_tensor(&specs[input], specs.len() == 1)?);
            missing -= 1;
            next = input + 1;
            if self.another(b'}')? != (missing > 0) {
                return None;
            }
        }
        tensors.into_iter().collect()
    }

    fn rows(&mut self, specs: &[TensorSpec]) -> Option<Vec<Tensor>> {
        let start = self.at;
        self.expect(b'[')?;
        if self.peek() == b'{' && !self.is_base64() {
            return self.named_rows(specs);
        }
        // Plain rows are the elements of one list, which is the tensor. An empty list is a separate error.
        let [spec] = specs else { return None };
        if self.peek() == b']' {
            return None;
        }
        self.at = start;
        Some(vec![self.whole_tensor(spec, true)?])
    }

    fn named_rows(&mut self, specs: &[TensorSpec]) -> Option<Vec<Tensor>> {
        let mut columns: Vec<Column> = Vec::with_capacity(specs.len());
        let mut dimensions: Vec<Dimensions> = Vec::with_capacity(specs.len());
        for spec in specs {
            columns.push(self.column(spec, specs.len() == 1)?);
            dimensions.push(Dimensions::default());
        }
        // For each input, the last row that had it, counted from 1.
        let mut seen = vec![0; specs.len()];
        let mut rows = 0;
        loop {
            rows += 1;
            self.expect(b'{')?;
            for given in 0..specs.len() {
                let input = self.input_name(specs, given)?;
                // A base64 object is not a named row, even if an input has the name `b64`.
                if std::mem::replace(&mut seen[input], rows) == rows || specs[input].alias == "b64" {
                    return None;
                }
                read_value(self, &mut dimensions[input], &mut columns[input])?;
                if self.another(b'}')? != (given + 1 < specs.len()) {
                    return None;
                }
            }
            if !self.another(b']')? {
                break;
            }
        }
        let finish = |((column, dimensions), spec): ((Column, Dimensions), &TensorSpec)| {
            let shape = [&[rows], &dimensions.sizes[..]].concat();
            column.finish(&spec.alias, shape).ok()
        };
        columns.into_iter().zip(dimensions).zip(specs).map(finish).collect()
    }

    /// Reads the name of an input and the colon. Returns the position of the input. `likely` is tried first.
    fn input_name(&mut self, specs: &[TensorSpec], likely: usize) -> Option<usize> {
        let name = self.plain_string()?;
        self.expect(b':')?;
        if specs.get(likely).is_some_and(|spec| spec.alias.as_bytes() == name) {
            return Some(likely);
        }
        specs.binary_search_by(|spec| spec.alias.as_bytes().cmp(name)).ok()
    }

    /// An empty column; `None` for dtypes without a JSON form. Memory is reserved only for a single input, so that
    /// reservations stay in proportion to the body.
    fn column(&self, spec: &TensorSpec, is_only_input: bool) -> Option<Column> {
        let mut column = Column::new(spec.dtype);
        match spec.dtype {
            DType::STRING => {}
            DType::FLOAT | DType::DOUBLE | DType::INT8 | DType::INT16 | DType::INT32 | DType::INT64 => {
                self.reserve(&mut column, is_only_input);
            }
            DType::UINT8 | DType::UINT32 | DType::UINT64 | DType::BOOL => self.reserve(&mut column, is_only_input),
            _ => return None,
        }
        Some(column)
    }

    fn reserve(&self, column: &mut Column, is_only_input: bool) {
        let left = if is_only_input { self.body.len() - self.at } else { 0 };
        let bytes = left / BYTES_PER_ELEMENT * column.dtype().size().unwrap_or(0);
        column.numbers = AlignedBytes::with_capacity(ALIGNMENT, bytes);
    }

    fn whole_tensor(&mut self, spec: &TensorSpec, is_only_input: bool) -> Option<Tensor> {
        let mut dimensions = Dimensions::default();
        let mut column = self.column(spec, is_only_input)?;
        read_value(self, &mut dimensions, &mut column)?;
        column.finish(&spec.alias, dimensions.sizes).ok()
    }

    /// Whether a base64 object starts here. The position is unchanged.
    fn is_base64(&self) -> bool {
        let mut ahead = Reader { body: self.body, at: self.at };
        ahead.expect(b'{').is_some() && ahead.plain_string() == Some(b"b64")
    }
}
