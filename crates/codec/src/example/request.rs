//! Requests with examples: the whole message is checked, and then split.

use bytes::Bytes;

use super::Examples;
use super::canonical::{is_canonical, put_canonical};
use crate::schema::{self, EXAMPLES_REQUEST, MULTI_INFERENCE};
use crate::tensor_proto::ModelSpec;
use crate::wire::{self, Field, Malformed, Reader, Value};

/// A Classify or Regress request. The two messages are alike. Names are slices of the body.
#[derive(Clone, Debug)]
pub struct ExamplesRequest<'a> {
    /// The model spec; `None` if it is missing.
    pub model_spec: Option<ModelSpec<'a>>,
    /// The examples.
    pub examples: Examples,
}

/// Reads a `ClassificationRequest` or `RegressionRequest`.
///
/// # Errors
///
/// If the body or an example in it is malformed. The client sees INTERNAL with an empty text.
pub fn decode_examples_request(body: &Bytes) -> Result<ExamplesRequest<'_>, Malformed> {
    let mut fields = Reader::new(body);
    schema::check(fields, EXAMPLES_REQUEST)?;
    let mut model_spec: Option<ModelSpec<'_>> = None;
    let mut input = Input::new(body);
    while let Some(Field { number, value }) = fields.next_field()? {
        match (number, value) {
            (1, Value::Length(part)) => model_spec.get_or_insert_default().merge(fields.nested(part)?)?,
            (2, Value::Length(part)) => input.merge(fields.nested(part)?)?,
            _ => {}
        }
    }
    Ok(ExamplesRequest { model_spec, examples: input.into_examples()? })
}

/// A `MultiInference` request.
#[derive(Clone, Debug)]
pub struct MultiInferenceRequest<'a> {
    body: &'a Bytes,
    /// The examples, which all tasks share.
    pub examples: Examples,
}

/// One task of a `MultiInference` request.
#[derive(Clone, Copy, Debug, Default)]
pub struct InferenceTask<'a> {
    /// The model spec; with default values if it is missing.
    pub model_spec: ModelSpec<'a>,
    /// The method name, which must be that of the signature.
    pub method_name: &'a str,
}

/// Reads a `MultiInferenceRequest`.
///
/// # Errors
///
/// As those of [`decode_examples_request`].
pub fn decode_multi_inference_request(body: &Bytes) -> Result<MultiInferenceRequest<'_>, Malformed> {
    let mut fields = Reader::new(body);
    schema::check(fields, MULTI_INFERENCE)?;
    let mut input = Input::new(body);
    while let Some(field) = fields.next_field()? {
        if let (2, Value::Length(part)) = (field.number, field.value) {
            input.merge(fields.nested(part)?)?;
        }
    }
    Ok(MultiInferenceRequest { body, examples: input.into_examples()? })
}

impl<'a> MultiInferenceRequest<'a> {
    /// The tasks, in order.
    ///
    /// They are decoded lazily: a list of tasks would take much more memory than the message. Only as many can be valid
    /// as a model has signatures.
    pub fn tasks(&self) -> impl Iterator<Item = InferenceTask<'a>> {
        let mut fields = Reader::new(self.body);
        std::iter::from_fn(move || {
            // The whole body was checked, so only its end can end the loop.
            while let Some(field) = fields.next_field().ok()? {
                if let (1, Value::Length(task)) = (field.number, field.value) {
                    return InferenceTask::read(fields.nested(task).ok()?).ok();
                }
            }
            None
        })
    }
}

impl<'a> InferenceTask<'a> {
    fn read(mut fields: Reader<'a>) -> Result<Self, Malformed> {
        let mut task = Self::default();
        while let Some(Field { number, value }) = fields.next_field()? {
            match (number, value) {
                (1, Value::Length(part)) => task.model_spec.merge(fields.nested(part)?)?,
                (2, Value::Length(name)) => task.method_name = wire::text(name)?,
                _ => {}
            }
        }
        Ok(task)
    }
}

/// A `tensorflow.serving.Input` that is merged part by part.
struct Input<'a> {
    body: &'a Bytes,
    /// The number of the last field: `example_list` or `example_list_with_context`. The two are a oneof: each replaces
    /// the other.
    kind: u32,
    ranges: Vec<(usize, usize)>,
    context: Vec<u8>,
}

impl<'a> Input<'a> {
    fn new(body: &'a Bytes) -> Self {
        Self { body, kind: 0, ranges: Vec::new(), context: Vec::new() }
    }

    fn merge(&mut self, mut fields: Reader<'a>) -> Result<(), Malformed> {
        while let Some(Field { number, value }) = fields.next_field()? {
            let (1 | 2, Value::Length(list)) = (number, value) else { continue };
            if self.kind != number {
                *self = Self { kind: number, ..Self::new(self.body) };
            }
            let mut list = fields.nested(list)?;
            while let Some(field) = list.next_field()? {
                match (number, field.number, field.value) {
                    (_, 1, Value::Length(example)) => {
                        let start = example.as_ptr().addr() - self.body.as_ptr().addr();
                        self.ranges.push((start, start + example.len()));
                    }
                    // A second occurrence of a message is merged with the first.
                    (2, 2, Value::Length(context)) => self.context.extend_from_slice(context),
                    _ => {}
                }
            }
        }
        Ok(())
    }

    fn into_examples(self) -> Result<Examples, Malformed> {
        let Self { body, ranges, context, .. } = self;
        let examples = || ranges.iter().map(|&(start, end)| &body[start..end]);
        if examples().chain([&context[..]]).all(is_canonical) {
            return Ok(Examples::new(body.clone(), ranges, context));
        }
        let mut block = Vec::with_capacity(body.len());
        let mut rewritten = Vec::with_capacity(ranges.len());
        for example in examples() {
            let start = block.len();
            put_canonical(&mut block, example)?;
            rewritten.push((start, block.len()));
        }
        let mut canonical_context = Vec::with_capacity(context.len());
        put_canonical(&mut canonical_context, &context)?;
        Ok(Examples::new(block.into(), rewritten, canonical_context))
    }
}
