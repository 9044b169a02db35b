//! Requests of the example-based calls: the whole message is checked, then split.

use bytes::Bytes;

use super::Examples;
use super::canonical::{is_canonical, put_canonical};
use crate::schema::{self, EXAMPLES_REQUEST, MULTI_INFERENCE};
use crate::tensor_proto::ModelSpec;
use crate::wire::{self, Field, Malformed, Reader, Value};

/// A Classify or a Regress call as it was sent; the two messages are alike. Names are parts of the body.
#[derive(Clone, Debug)]
pub struct ExamplesRequest<'a> {
    /// What to call; `None` if the client left it out.
    pub model_spec: Option<ModelSpec<'a>>,
    /// What to call it with.
    pub examples: Examples,
}

/// Reads a `ClassificationRequest` or `RegressionRequest`.
///
/// # Errors
///
/// If the body is not such a message at all, the examples in it included; the client sees INTERNAL with an empty text.
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

/// A `MultiInference` call as it was sent.
#[derive(Clone, Debug)]
pub struct MultiInferenceRequest<'a> {
    body: &'a Bytes,
    /// What all tasks are called with.
    pub examples: Examples,
}

/// One of the things that a `MultiInference` call asks for.
#[derive(Clone, Copy, Debug, Default)]
pub struct InferenceTask<'a> {
    /// What to call; all defaults if the client left it out.
    pub model_spec: ModelSpec<'a>,
    /// How to call it: the name of a method that a signature may have.
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
    /// The tasks in their order.
    ///
    /// They are read while they are asked for, as a message of many tasks takes a lot less memory than a list of them,
    /// and no more of them can be valid than a model has signatures.
    pub fn tasks(&self) -> impl Iterator<Item = InferenceTask<'a>> {
        let mut fields = Reader::new(self.body);
        std::iter::from_fn(move || {
            // The whole body was checked, so that what ends the search is its end.
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

/// A `tensorflow.serving.Input` whose parts come one after the other.
struct Input<'a> {
    body: &'a Bytes,
    /// The number of the field that came last: `example_list` or `example_list_with_context`. The two exclude each
    /// other, so that either one wipes out the other.
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
                    // Of a message that comes twice, the second one is merged with the first.
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
