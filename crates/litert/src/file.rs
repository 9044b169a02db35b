//! The contents of a model file, as far as a server needs them, and checks that `LiteRT` omits.
//!
//! `LiteRT` verifies that the file is a well-formed flatbuffer. It does not verify the graph: indices of tensors,
//! operators and buffers, or that an operator reads only tensors that have a value. It crashes on these, at the load or
//! in a run.

use std::collections::BTreeMap;

use servable_model::tensor::DType;

use crate::flatbuffer::{Damaged, Flatbuffer, Table, flexbuffer_map};

/// The greatest rank in the descriptions of tensors of `LiteRT`'s C API.
pub(crate) const MAX_RANK: usize = 8;

/// The metadata in which TensorFlow Serving looks for signatures.
const SIGNATURE_DEFS: &str = "signature_defs_metadata";

/// A model file.
#[derive(Debug)]
pub(crate) struct ModelFile {
    pub(crate) subgraphs: Vec<Subgraph>,
    pub(crate) signatures: Vec<SignatureEntry>,
    /// The serialized `tensorflow.SignatureDef`s of the metadata, by name; or why they cannot be read.
    pub(crate) signature_defs: Option<Result<BTreeMap<String, Vec<u8>>, Damaged>>,
    /// The names of operators that are not part of TensorFlow Lite.
    pub(crate) custom_operators: Vec<String>,
    /// Whether the model keeps variables between runs.
    pub(crate) has_state: bool,
}

/// A function of the model.
#[derive(Debug)]
pub(crate) struct Subgraph {
    pub(crate) tensors: Vec<TensorInfo>,
    /// Positions in `tensors`.
    pub(crate) inputs: Vec<usize>,
    /// Positions in `tensors`.
    pub(crate) outputs: Vec<usize>,
    /// The maximum size of all tensors that are needed at the same time, without constants.
    pub(crate) tensor_bytes: u64,
}

/// A tensor.
#[derive(Clone, Debug)]
pub(crate) struct TensorInfo {
    pub(crate) name: String,
    /// The number of the type in the file format.
    pub(crate) element: u8,
    /// The shape before any resize.
    pub(crate) shape: Vec<i32>,
    /// The shape with -1 for free dimensions.
    pub(crate) declared_shape: Vec<i32>,
    /// The position of the buffer; 0 for none.
    buffer: usize,
    is_variable: bool,
    is_external: bool,
}

/// A signature: names for inputs and outputs of a subgraph.
#[derive(Debug)]
pub(crate) struct SignatureEntry {
    pub(crate) key: String,
    pub(crate) subgraph: usize,
    /// Positions in the tensors of the subgraph, by name.
    pub(crate) inputs: BTreeMap<String, usize>,
    /// Positions in the tensors of the subgraph, by name.
    pub(crate) outputs: BTreeMap<String, usize>,
}

/// The number of the type of references to variables and tables.
const RESOURCE: u8 = 13;

/// The dtype for the number of a type in the file format; `None` for types without a counterpart.
pub(crate) fn dtype(element: u8) -> Option<DType> {
    Some(match element {
        0 => DType::FLOAT,
        1 => DType::HALF,
        2 => DType::INT32,
        3 => DType::UINT8,
        4 => DType::INT64,
        5 => DType::STRING,
        6 => DType::BOOL,
        7 => DType::INT16,
        8 => DType::COMPLEX64,
        9 => DType::INT8,
        10 => DType::DOUBLE,
        11 => DType::COMPLEX128,
        12 => DType::UINT64,
        15 => DType::UINT32,
        16 => DType::UINT16,
        18 => DType::BFLOAT16,
        _ => return None,
    })
}

impl ModelFile {
    /// Reads and checks a file.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, Damaged> {
        let flatbuffer = Flatbuffer::new(bytes);
        if !flatbuffer.has_identifier(*b"TFL3") {
            return Err(Damaged::new("does not begin as a TensorFlow Lite model does"));
        }
        let model = flatbuffer.root()?;
        let operators = model.tables(1)?;
        let buffers = model.tables(4)?;
        let sizes = buffers.iter().map(|buffer| buffer_size(buffer, bytes.len())).collect::<Result<Vec<_>, _>>()?;
        let mut custom_operators = Vec::new();
        for operator in &operators {
            let name = operator.text(1)?;
            if !name.is_empty() && !custom_operators.iter().any(|known| known == name) {
                custom_operators.push(name.to_owned());
            }
        }
        let subgraphs = model.tables(2)?;
        let subgraphs = subgraphs
            .iter()
            .map(|graph| Subgraph::parse(graph, operators.len(), &sizes))
            .collect::<Result<Vec<_>, _>>()?;
        if subgraphs.is_empty() {
            return Err(Damaged::new("has no graph"));
        }
        let signatures = model.tables(7)?;
        let signatures =
            signatures.iter().map(|entry| SignatureEntry::parse(entry, &subgraphs)).collect::<Result<Vec<_>, _>>()?;
        let mut signature_defs = None;
        for metadata in model.tables(6)? {
            let buffer = buffers.get(metadata.u32(1)? as usize);
            let buffer = buffer.ok_or_else(|| Damaged::new("has metadata without a buffer"))?;
            if metadata.text(0)? == SIGNATURE_DEFS {
                let entries = flexbuffer_map(buffer.bytes(0)?);
                signature_defs = Some(entries.map(|entries| {
                    entries.into_iter().map(|(name, definition)| (name, definition.to_vec())).collect()
                }));
            }
        }
        let mut tensors = subgraphs.iter().flat_map(|graph| &graph.tensors);
        let has_state = tensors.any(|tensor| tensor.is_variable || tensor.element == RESOURCE);
        Ok(Self { subgraphs, signatures, signature_defs, custom_operators, has_state })
    }
}

/// The size of a buffer: in the flatbuffer, or behind it.
fn buffer_size(buffer: &Table<'_>, file_size: usize) -> Result<usize, Damaged> {
    let (offset, size) = (buffer.u64(1)?, buffer.u64(2)?);
    if offset <= 1 {
        return Ok(buffer.bytes(0)?.len());
    }
    match offset.checked_add(size) {
        Some(end) if end <= file_size as u64 => Ok(size as usize),
        _ => Err(Damaged::new("is shorter than its buffers")),
    }
}

impl Subgraph {
    fn parse(graph: &Table<'_>, operator_codes: usize, buffer_sizes: &[usize]) -> Result<Self, Damaged> {
        let tensors = graph.tables(0)?;
        let tensors =
            tensors.iter().map(|tensor| TensorInfo::parse(tensor, buffer_sizes)).collect::<Result<Vec<_>, _>>()?;
        let positions = |numbers: Option<Vec<i32>>| -> Result<Vec<usize>, Damaged> {
            numbers.unwrap_or_default().into_iter().map(|number| position(number, tensors.len())).collect()
        };
        let (inputs, outputs) = (positions(graph.numbers(1)?)?, positions(graph.numbers(2)?)?);
        // An operator that reads a tensor without a value would read from address 0.
        let mut has_value: Vec<bool> = tensors.iter().map(|tensor| tensor.has_value(buffer_sizes)).collect();
        for &input in &inputs {
            has_value[input] = true;
        }
        let operators = graph.tables(3)?;
        let mut lifetimes = Lifetimes::new(tensors.len(), operators.len());
        for &input in &inputs {
            lifetimes.extend(input, 0);
        }
        for (step, operator) in operators.iter().enumerate() {
            if operator.u32(0)? as usize >= operator_codes {
                return Err(Damaged::new("has an operator of an unknown kind"));
            }
            for number in operator.numbers(1)?.unwrap_or_default() {
                // An optional input that is absent is -1.
                if number == -1 {
                    continue;
                }
                let input = position(number, tensors.len())?;
                if !has_value[input] {
                    let name = &tensors[input].name;
                    return Err(Damaged::new(format!("has an operator that reads \"{name}\" before it has a value")));
                }
                lifetimes.extend(input, step);
            }
            for number in operator.numbers(8)?.unwrap_or_default() {
                if number != -1 {
                    position(number, tensors.len())?;
                }
            }
            for number in operator.numbers(2)?.unwrap_or_default() {
                if number != -1 {
                    let output = position(number, tensors.len())?;
                    has_value[output] = true;
                    lifetimes.extend(output, step);
                }
            }
        }
        for &output in &outputs {
            lifetimes.extend(output, operators.len());
        }
        if let Some(&output) = outputs.iter().find(|&&output| !has_value[output]) {
            return Err(Damaged::new(format!("has an output \"{}\" that no operator computes", tensors[output].name)));
        }
        let tensor_bytes = lifetimes.bytes(&tensors, buffer_sizes);
        Ok(Self { tensors, inputs, outputs, tensor_bytes })
    }
}

/// The first and the last operator that uses each tensor, by position.
struct Lifetimes {
    of_tensors: Vec<Option<(usize, usize)>>,
    operators: usize,
}

impl Lifetimes {
    fn new(tensors: usize, operators: usize) -> Self {
        Self { of_tensors: vec![None; tensors], operators }
    }

    fn extend(&mut self, tensor: usize, step: usize) {
        let (first, last) = self.of_tensors[tensor].unwrap_or((step, step));
        self.of_tensors[tensor] = Some((first.min(step), last.max(step)));
    }

    /// The maximum size of the tensors that are needed at the same time.
    fn bytes(&self, tensors: &[TensorInfo], buffer_sizes: &[usize]) -> u64 {
        let mut changes = vec![0_i128; self.operators + 2];
        for (tensor, lifetime) in tensors.iter().zip(&self.of_tensors) {
            if let (Some((first, last)), false) = (*lifetime, tensor.is_constant(buffer_sizes)) {
                changes[first] += tensor.size();
                changes[last + 1] -= tensor.size();
            }
        }
        let mut needed = 0;
        let sizes = changes.into_iter().map(|change| {
            needed += change;
            needed
        });
        sizes.max().map_or(0, |size| u64::try_from(size).unwrap_or(u64::MAX))
    }
}

fn position(number: i32, count: usize) -> Result<usize, Damaged> {
    match usize::try_from(number) {
        Ok(position) if position < count => Ok(position),
        _ => Err(Damaged::new(format!("refers to tensor {number} of {count}"))),
    }
}

impl TensorInfo {
    fn parse(tensor: &Table<'_>, buffer_sizes: &[usize]) -> Result<Self, Damaged> {
        let shape = tensor.numbers(0)?.unwrap_or_default();
        let declared_shape = match tensor.numbers(7)? {
            Some(declared) if declared.len() == shape.len() => declared,
            Some(declared) if !declared.is_empty() => {
                return Err(Damaged::new("has a tensor with shapes of two ranks"));
            }
            _ => shape.clone(),
        };
        let info = Self {
            name: tensor.text(3)?.to_owned(),
            element: tensor.u8(1)?,
            buffer: tensor.u32(2)? as usize,
            is_variable: tensor.u8(5)? != 0,
            is_external: tensor.u32(10)? != 0,
            shape,
            declared_shape,
        };
        let count = info.shape.iter().try_fold(1_i64, |count, &size| count.checked_mul(i64::from(size)));
        if info.shape.iter().any(|&size| size < 0) || count.is_none_or(|count| count > i64::from(u32::MAX)) {
            return Err(Damaged::new(format!("has a tensor \"{}\" of an impossible shape", info.name)));
        }
        if info.declared_shape.iter().any(|&size| size < -1) {
            return Err(Damaged::new(format!("has a tensor \"{}\" of an impossible shape", info.name)));
        }
        if info.buffer >= buffer_sizes.len() && info.buffer != 0 {
            return Err(Damaged::new(format!("has a tensor \"{}\" without its buffer", info.name)));
        }
        Ok(info)
    }

    fn is_constant(&self, buffer_sizes: &[usize]) -> bool {
        buffer_sizes.get(self.buffer).is_some_and(|&size| size > 0)
    }

    /// The size in bytes; 0 for types without a counterpart, and for strings.
    fn size(&self) -> i128 {
        let size = dtype(self.element).and_then(DType::size).unwrap_or(0);
        self.shape.iter().fold(size as i128, |product, &size| product * i128::from(size))
    }

    /// Whether the tensor has a value before any operator has run.
    fn has_value(&self, buffer_sizes: &[usize]) -> bool {
        self.is_constant(buffer_sizes) || self.is_variable || self.is_external || self.shape.contains(&0)
    }
}

impl SignatureEntry {
    fn parse(entry: &Table<'_>, subgraphs: &[Subgraph]) -> Result<Self, Damaged> {
        let key = entry.text(2)?.to_owned();
        let subgraph = entry.u32(4)? as usize;
        let graph = subgraphs.get(subgraph).ok_or_else(|| {
            Damaged::new(format!("has a signature \"{key}\" of graph {subgraph}, which does not exist"))
        })?;
        let names = |field, wanted: &[usize], what| -> Result<BTreeMap<String, usize>, Damaged> {
            let mut names = BTreeMap::new();
            for name in entry.tables(field)? {
                let position = name.u32(1)? as usize;
                if !wanted.contains(&position) {
                    let text = format!("has a signature \"{key}\" with an {what} that its graph does not have");
                    return Err(Damaged::new(text));
                }
                names.insert(name.text(0)?.to_owned(), position);
            }
            // LiteRT looks the names of all inputs and outputs up, and crashes if one is missing.
            match wanted.iter().find(|&wanted| !names.values().any(|position| position == wanted)) {
                None => Ok(names),
                Some(&missing) => {
                    let missing = &graph.tensors[missing].name;
                    Err(Damaged::new(format!("has a signature \"{key}\" that gives the {what} \"{missing}\" no name")))
                }
            }
        };
        let inputs = names(0, &graph.inputs, "input")?;
        let outputs = names(1, &graph.outputs, "output")?;
        Ok(Self { key, subgraph, inputs, outputs })
    }
}
