//! Runs requests on a table.

use std::time::{Duration, Instant};

use servable_model::call::Call;
use servable_model::error::{Result, ServingError, expect_memory, no_memory};
use servable_model::executor::{Executor, RunOptions};
use servable_model::signature::{Signature, TensorSpec};
use servable_model::tensor::{ALIGNMENT, AlignedBytes, Buffer, DType, Elements, Strings, Tensor, shape_text};

use crate::bag::combine;
use crate::nearest::{Candidate, Search};
use crate::options::Options;
use crate::signatures::Operation;
use crate::table::Table;

/// The limit for one output. Messages of gRPC are no larger.
const MAX_OUTPUT: usize = i32::MAX as usize;
/// The number of rows between checks of the deadline.
const ROWS_PER_CHECK: usize = 1024;

/// A table that answers requests.
pub struct Embeddings {
    table: Table,
    search: Search,
    options: Options,
}

impl Embeddings {
    pub(crate) fn new(table: Table, options: Options) -> Self {
        Self { search: Search::new(&table, options.metric), table, options }
    }

    pub(crate) fn table(&self) -> &Table {
        &self.table
    }

    /// The number of results of `nearest`.
    pub(crate) fn neighbours(&self) -> usize {
        self.options.neighbours.min(self.table.known())
    }

    /// The rows of ids or keys.
    fn rows(&self, tensor: &Tensor) -> Result<Vec<Option<usize>>> {
        match tensor.elements() {
            Elements::Strings(keys) => keys.iter().map(|key| self.table.row_of_key(key)).collect(),
            Elements::Numbers(_) => integers(tensor).map(|id| self.table.row_of_id(id)).collect(),
        }
    }

    fn lookup(&self, tensor: &Tensor, deadline: Option<Instant>) -> Result<Tensor> {
        let width = self.table.width();
        let mut bytes = output(tensor.len(), width)?;
        let mut numbers = vec![0.0; width];
        for (position, row) in self.rows(tensor)?.into_iter().enumerate() {
            if position % ROWS_PER_CHECK == ROWS_PER_CHECK - 1 {
                Call::until(deadline).check()?;
            }
            match row {
                None => bytes.resize(bytes.len() + width * size_of::<f32>(), 0),
                Some(row) => {
                    if let Some(row) = self.table.float_bytes(row) {
                        bytes.extend_from_slice(row);
                    } else {
                        self.table.read_row(row, &mut numbers);
                        extend(&mut bytes, &numbers);
                    }
                }
            }
        }
        let shape = tensor.shape().iter().copied().chain([width as i64]).collect();
        Ok(Tensor::from_numbers(DType::FLOAT, shape, Buffer::Owned(bytes)))
    }

    fn bag(&self, inputs: &Inputs<'_>, deadline: Option<Instant>) -> Result<Tensor> {
        let (members, lengths) = (inputs.members()?, inputs.get("lengths")?);
        let size = members.shape()[1] as usize;
        let weights: Option<Vec<f32>> = inputs.get("weights").ok().map(|tensor| floats(tensor).collect());
        let width = self.table.width();
        let mut bytes = output(lengths.len(), width)?;
        let mut sum = vec![0.0; width];
        let mut rows = Vec::new();
        let mut seen = 0;
        for (bag, length) in integers(lengths).enumerate() {
            let length = usize::try_from(length).ok().filter(|&length| length <= size).ok_or_else(|| {
                ServingError::invalid_argument(format!("input \"lengths\": got {length}, want 0 to {size}"))
            })?;
            seen += length;
            if seen >= ROWS_PER_CHECK {
                seen = 0;
                Call::until(deadline).check()?;
            }
            rows.clear();
            let range = bag * size..bag * size + length;
            match members.elements() {
                Elements::Strings(keys) => {
                    for position in range.clone() {
                        rows.push(self.table.row_of_key(keys.get(position))?);
                    }
                }
                Elements::Numbers(_) => {
                    for id in integers_in(members, range.clone()) {
                        rows.push(self.table.row_of_id(id)?);
                    }
                }
            }
            sum.fill(0.0);
            let combiner = self.options.combiner;
            match &weights {
                None => combine(&self.table, rows.iter().map(|&row| (row, 1.0)), combiner, &mut sum),
                Some(weights) => {
                    let members = rows.iter().copied().zip(weights[range].iter().copied());
                    combine(&self.table, members, combiner, &mut sum);
                }
            }
            extend(&mut bytes, &sum);
        }
        let shape = vec![lengths.len() as i64, width as i64];
        Ok(Tensor::from_numbers(DType::FLOAT, shape, Buffer::Owned(bytes)))
    }

    fn nearest(&self, inputs: &Inputs<'_>, deadline: Option<Instant>) -> Result<Vec<Vec<Candidate>>> {
        let k = match inputs.get("k") {
            Err(_) => self.neighbours(),
            Ok(tensor) => {
                let (found, known) = (integers(tensor).next().unwrap_or(0), self.table.known());
                usize::try_from(found).ok().filter(|k| (1..=known).contains(k)).ok_or_else(|| {
                    ServingError::invalid_argument(format!("input \"k\": got {found}, want 1 to {known}"))
                })?
            }
        };
        let vectors = inputs.get("vectors")?;
        let count = vectors.len() / self.table.width();
        // A result takes as much while it is searched for; its id and score take less.
        let size = count.saturating_mul(k).saturating_mul(size_of::<Candidate>());
        if size > MAX_OUTPUT {
            return Err(no_memory(size));
        }
        expect_memory(size)?;
        let vectors: Vec<f32> = floats(vectors).collect();
        self.search.nearest(&self.table, &vectors, k, deadline)
    }

    /// One of the outputs of `nearest`.
    fn found(&self, alias: &str, found: &[Vec<Candidate>]) -> Tensor {
        let shape = vec![found.len() as i64, found.first().map_or(self.neighbours(), Vec::len) as i64];
        let all = found.iter().flatten();
        let mut bytes = AlignedBytes::new(ALIGNMENT);
        match alias {
            "keys" => {
                let key = |each: &Candidate| self.table.keys().map_or(&[][..], |keys| keys.get(each.row));
                return Tensor::from_strings(shape, all.map(key).collect::<Strings>());
            }
            "ids" => all.for_each(|each| bytes.extend_from_slice(&(each.row as i64).to_le_bytes())),
            _ => all.for_each(|each| bytes.extend_from_slice(&each.score.to_le_bytes())),
        }
        let dtype = if alias == "ids" { DType::INT64 } else { DType::FLOAT };
        Tensor::from_numbers(dtype, shape, Buffer::Owned(bytes))
    }
}

impl Executor for Embeddings {
    fn run(
        &self,
        signature: &Signature,
        inputs: Vec<Tensor>,
        outputs: &[usize],
        options: &RunOptions,
    ) -> Result<Vec<Tensor>> {
        self.check_inputs(signature, &inputs)?;
        let inputs = Inputs { specs: &signature.inputs, tensors: &inputs };
        let deadline = options.deadline;
        let answer = match Operation::of(signature) {
            Some(Operation::Lookup) => vec![self.lookup(inputs.members()?, deadline)?],
            Some(Operation::Bag) => vec![self.bag(&inputs, deadline)?],
            Some(Operation::Nearest) => {
                let found = self.nearest(&inputs, deadline)?;
                outputs.iter().map(|&output| self.found(&signature.outputs[output].alias, &found)).collect()
            }
            None => return Err(ServingError::internal("the signature is none of a table")),
        };
        // What was read is known to be right only afterwards.
        self.table.expect_whole()?;
        Ok(answer)
    }

    fn check_inputs(&self, signature: &Signature, inputs: &[Tensor]) -> Result<()> {
        for (spec, tensor) in signature.inputs.iter().zip(inputs) {
            check(spec, tensor)?;
        }
        let inputs = Inputs { specs: &signature.inputs, tensors: inputs };
        if Operation::of(signature) != Some(Operation::Bag) {
            return Ok(());
        }
        let (members, lengths) = (inputs.members()?.shape(), inputs.get("lengths")?.shape());
        if lengths[0] != members[0] {
            return Err(wrong_shape("lengths", lengths, &format!("[{}], one for each bag", members[0])));
        }
        match inputs.get("weights") {
            Ok(weights) if weights.shape() != members => {
                Err(wrong_shape("weights", weights.shape(), &format!("{}, one for each member", shape_text(members))))
            }
            _ => Ok(()),
        }
    }

    fn is_repeatable(&self) -> bool {
        true
    }

    fn platform(&self) -> &'static str {
        "embeddings"
    }

    fn runtime(&self) -> &'static str {
        "embeddings"
    }

    fn longest_run(&self) -> Option<Duration> {
        self.options.longest_run
    }
}

/// The inputs of a request, by alias.
struct Inputs<'a> {
    specs: &'a [TensorSpec],
    tensors: &'a [Tensor],
}

impl<'a> Inputs<'a> {
    fn get(&self, alias: &str) -> Result<&'a Tensor> {
        let position = self.specs.iter().position(|spec| spec.alias == alias);
        let found = position.and_then(|position| self.tensors.get(position));
        found.ok_or_else(|| ServingError::invalid_argument(format!("input \"{alias}\" is missing")))
    }

    /// The ids or keys.
    fn members(&self) -> Result<&'a Tensor> {
        self.get("keys").or_else(|_| self.get("ids"))
    }
}

fn check(spec: &TensorSpec, tensor: &Tensor) -> Result<()> {
    let (alias, found) = (&spec.alias, tensor.dtype());
    if found != spec.dtype && (spec.dtype, found) != (DType::INT64, DType::INT32) {
        let wanted = if spec.dtype == DType::INT64 { "int64 or int32".to_owned() } else { spec.dtype.name() };
        return Err(ServingError::invalid_argument(format!("input \"{alias}\": got {found}, want {wanted}")));
    }
    let Some(wanted) = &spec.shape else { return Ok(()) };
    let shape = tensor.shape();
    let fits = shape.len() == wanted.len() && shape.iter().zip(wanted).all(|(&size, &want)| want < 0 || size == want);
    if fits {
        return Ok(());
    }
    let sizes: Vec<_> = wanted.iter().map(|&size| if size < 0 { "?".to_owned() } else { size.to_string() }).collect();
    Err(wrong_shape(alias, shape, &format!("[{}]", sizes.join(","))))
}

fn wrong_shape(alias: &str, found: &[i64], wanted: &str) -> ServingError {
    ServingError::invalid_argument(format!("input \"{alias}\": got shape {}, want {wanted}", shape_text(found)))
}

/// An empty buffer for this many vectors.
fn output(count: usize, width: usize) -> Result<AlignedBytes> {
    let size = count.saturating_mul(width).saturating_mul(size_of::<f32>());
    if size > MAX_OUTPUT {
        let most = MAX_OUTPUT / (width * size_of::<f32>());
        let text = format!("got {count} vectors of {width} numbers in one request, want at most {most}");
        return Err(ServingError::invalid_argument(text));
    }
    expect_memory(size)?;
    Ok(AlignedBytes::with_capacity(ALIGNMENT, size))
}

fn extend(bytes: &mut AlignedBytes, numbers: &[f32]) {
    let start = bytes.len();
    bytes.resize(start + size_of_val(numbers), 0);
    for (bytes, number) in bytes[start..].as_chunks_mut().0.iter_mut().zip(numbers) {
        *bytes = number.to_le_bytes();
    }
}

fn integers(tensor: &Tensor) -> impl Iterator<Item = i64> {
    integers_in(tensor, 0..tensor.len())
}

/// Some elements of a tensor of int64 or int32.
fn integers_in(tensor: &Tensor, range: std::ops::Range<usize>) -> impl Iterator<Item = i64> {
    let size = if tensor.dtype() == DType::INT32 { 4 } else { 8 };
    numbers(tensor)[range.start * size..range.end * size].chunks_exact(size).map(|bytes| match *bytes {
        [a, b, c, d] => i32::from_le_bytes([a, b, c, d]).into(),
        _ => bytes.first_chunk().map_or(0, |&bytes| i64::from_le_bytes(bytes)),
    })
}

fn floats(tensor: &Tensor) -> impl Iterator<Item = f32> {
    numbers(tensor).as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes))
}

fn numbers(tensor: &Tensor) -> &[u8] {
    match tensor.elements() {
        Elements::Numbers(buffer) => buffer.as_ref(),
        Elements::Strings(_) => &[],
    }
}
