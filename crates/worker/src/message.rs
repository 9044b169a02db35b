//! Requests and replies: the frames of a slot, and which tensors are beside them in shared memory.

use std::io;
use std::time::Duration;

use servable_model::error::{Code, Result, ServingError};
use servable_model::signature::{Signature, TensorSpec};
use servable_model::tensor::{ALIGNMENT, AlignedBytes, Buffer, DType, Elements, Strings, Tensor, element_count};

use crate::frame::{Damaged, Put, Take};
use crate::region::Region;

/// Tensors are in the frame up to this many bytes together, and the others in shared memory.
const INLINE_BYTES: usize = 16 << 10;

/// The most axes of a tensor, as in TensorFlow.
const MAX_RANK: usize = 254;

/// Bytes of a dimension, or of the length of a string.
const NUMBER_BYTES: usize = 8;

/// The least bytes of an encoded tensor, and of an encoded spec.
const MIN_TENSOR_BYTES: usize = 10;
const MIN_SPEC_BYTES: usize = 13;

const INLINE: u8 = 0;
const SHARED: u8 = 1;

/// What the worker is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    /// Run the signature.
    Run,
    /// Check the inputs against it.
    Check,
}

/// The beginning of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RequestHead {
    pub(crate) operation: Operation,
    /// The time that the run may take; `None` for any.
    pub(crate) timeout: Option<Duration>,
    /// Whether the first descriptor is a new region for inputs.
    pub(crate) has_new_input: bool,
    /// Whether the last descriptor is a new region for outputs.
    pub(crate) has_new_output: bool,
    /// Which of the regions for outputs is used.
    pub(crate) output: u8,
    /// Regions of more bytes are dropped after the run.
    pub(crate) kept_bytes: u64,
}

/// The number of regions for outputs: one is read by the server while the worker writes the other.
pub(crate) const OUTPUT_REGIONS: usize = 2;

const NO_TIMEOUT: u64 = u64::MAX;

impl RequestHead {
    pub(crate) fn put(self, frame: &mut Vec<u8>) {
        frame.put_u8(u8::from(self.operation == Operation::Check));
        frame.put_u64(
            self.timeout.map_or(NO_TIMEOUT, |timeout| u64::try_from(timeout.as_micros()).unwrap_or(NO_TIMEOUT)),
        );
        frame.put_u8(u8::from(self.has_new_input) | u8::from(self.has_new_output) << 1);
        frame.put_u8(self.output);
        frame.put_u64(self.kept_bytes);
    }

    pub(crate) fn take(frame: &mut Take<'_>) -> Result<Self, Damaged> {
        let operation = match frame.u8()? {
            0 => Operation::Run,
            1 => Operation::Check,
            _ => return Err(Damaged("the operation is unknown")),
        };
        let timeout = Some(frame.u64()?).filter(|&micros| micros != NO_TIMEOUT).map(Duration::from_micros);
        let news = frame.u8()?;
        let output = frame.u8()?;
        if usize::from(output) >= OUTPUT_REGIONS {
            return Err(Damaged("it names a region that does not exist"));
        }
        let kept_bytes = frame.u64()?;
        Ok(Self { operation, timeout, has_new_input: news & 1 != 0, has_new_output: news & 2 != 0, output, kept_bytes })
    }
}

/// What the worker has dropped, or still uses, so that the server sends new regions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ended {
    pub(crate) input: bool,
    pub(crate) output: bool,
}

/// Appends the part of a signature that executors use.
pub(crate) fn put_signature(frame: &mut Vec<u8>, signature: &Signature) {
    let start = frame.len();
    frame.put_u32(0);
    for specs in [&signature.inputs, &signature.outputs] {
        frame.put_u32(specs.len() as u32);
        for spec in specs {
            frame.put_bytes(spec.alias.as_bytes());
            frame.put_bytes(spec.tensor_name.as_bytes());
            frame.put_i32(spec.dtype.0);
            frame.put_u8(u8::from(spec.shape.is_some()));
            if let Some(shape) = &spec.shape {
                put_shape(frame, shape);
            }
        }
    }
    let len = (frame.len() - start - 4) as u32;
    frame[start..start + 4].copy_from_slice(&len.to_le_bytes());
}

/// Decodes what [`put_signature`] has appended, without its length.
pub(crate) fn take_signature(encoded: &[u8]) -> Result<Signature, Damaged> {
    let mut frame = Take(encoded);
    let mut specs = || {
        let count = frame.count(MIN_SPEC_BYTES)?;
        let spec = |_| {
            Ok(TensorSpec {
                alias: frame.text()?,
                tensor_name: frame.text()?,
                dtype: DType(frame.i32()?),
                shape: if frame.u8()? == 0 { None } else { Some(take_shape(&mut frame)?) },
            })
        };
        (0..count).map(spec).collect::<Result<Vec<_>, Damaged>>()
    };
    let (inputs, outputs) = (specs()?, specs()?);
    frame.end()?;
    Ok(Signature { inputs, outputs, ..Signature::default() })
}

fn put_shape(frame: &mut Vec<u8>, shape: &[i64]) {
    frame.put_u32(shape.len() as u32);
    for &size in shape {
        frame.put_i64(size);
    }
}

fn take_shape(frame: &mut Take<'_>) -> Result<Vec<i64>, Damaged> {
    let rank = frame.count(NUMBER_BYTES)?;
    if rank > MAX_RANK {
        return Err(Damaged("a tensor has too many axes"));
    }
    (0..rank).map(|_| frame.i64()).collect()
}

/// Appends positions of outputs.
pub(crate) fn put_outputs(frame: &mut Vec<u8>, outputs: &[usize]) {
    frame.put_u32(outputs.len() as u32);
    for &output in outputs {
        frame.put_u32(output as u32);
    }
}

/// Decodes what [`put_outputs`] has appended, for a signature with this many outputs.
pub(crate) fn take_outputs(frame: &mut Take<'_>, of: usize) -> Result<Vec<usize>, Damaged> {
    let count = frame.count(4)?;
    let output = |_| {
        let output = frame.u32()? as usize;
        if output < of { Ok(output) } else { Err(Damaged("it names an output that does not exist")) }
    };
    (0..count).map(output).collect()
}

/// Appends tensors, and writes the larger ones into a region.
///
/// A tensor of strings is a block of the lengths of its strings, and then of the strings.
///
/// # Errors
///
/// There is not enough memory.
pub(crate) fn put_tensors(frame: &mut Vec<u8>, tensors: &[Tensor], region: &mut Region) -> io::Result<()> {
    let (mut inline, mut shared) = (0, 0_usize);
    let mut place = |tensor: &Tensor| {
        let len = block_len(tensor);
        if inline + len <= INLINE_BYTES {
            inline += len;
            return (len, None);
        }
        let offset = shared;
        shared = (offset + len).next_multiple_of(ALIGNMENT);
        (len, Some(offset))
    };
    let places: Vec<(usize, Option<usize>)> = tensors.iter().map(&mut place).collect();
    if shared > 0 {
        region.reserve(shared)?;
    }
    frame.put_u32(tensors.len() as u32);
    for (tensor, (len, offset)) in tensors.iter().zip(places) {
        frame.put_i32(tensor.dtype().0);
        put_shape(frame, tensor.shape());
        let Some(mut offset) = offset else {
            frame.put_u8(INLINE);
            frame.put_u32(len as u32);
            each_block(tensor, |bytes| frame.extend_from_slice(bytes));
            continue;
        };
        frame.put_u8(SHARED);
        frame.put_u64(offset as u64);
        frame.put_u64(len as u64);
        each_block(tensor, |bytes| {
            region.write(offset, bytes);
            offset += bytes.len();
        });
    }
    Ok(())
}

fn block_len(tensor: &Tensor) -> usize {
    match tensor.elements() {
        Elements::Numbers(buffer) => buffer.as_ref().len(),
        Elements::Strings(strings) => NUMBER_BYTES * strings.len() + tensor.size_in_bytes(),
    }
}

/// Passes the bytes of a tensor on, in order.
fn each_block(tensor: &Tensor, mut pass: impl FnMut(&[u8])) {
    match tensor.elements() {
        Elements::Numbers(buffer) => pass(buffer.as_ref()),
        Elements::Strings(strings) => {
            let lengths: Vec<u8> = strings.iter().flat_map(|string| (string.len() as u64).to_le_bytes()).collect();
            pass(&lengths);
            strings.iter().for_each(pass);
        }
    }
}

/// Why tensors could not be taken from a frame.
#[derive(Debug)]
pub(crate) enum TakeError {
    /// The frame is wrong.
    Damaged(Damaged),
    /// This side lacks memory.
    Io(io::Error),
}

impl From<Damaged> for TakeError {
    fn from(damaged: Damaged) -> Self {
        Self::Damaged(damaged)
    }
}

impl From<io::Error> for TakeError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Decodes what [`put_tensors`] has appended. Numbers in the region are lent, everything else is copied.
pub(crate) fn take_tensors(frame: &mut Take<'_>, region: Option<&mut Region>) -> Result<Vec<Tensor>, TakeError> {
    let count = frame.count(MIN_TENSOR_BYTES)?;
    let mut region = region;
    (0..count).map(|_| take_tensor(frame, region.as_deref_mut())).collect()
}

fn take_tensor(frame: &mut Take<'_>, region: Option<&mut Region>) -> Result<Tensor, TakeError> {
    let dtype = DType(frame.i32()?);
    let shape = take_shape(frame)?;
    let count = element_count(&shape).ok_or(Damaged("the shape of a tensor is impossible"))?;
    let is_string = dtype == DType::STRING;
    let size =
        if is_string { NUMBER_BYTES } else { dtype.size().ok_or(Damaged("the dtype of a tensor is unknown"))? };
    // The least of its bytes, and all of them unless there are strings.
    let least = count.checked_mul(size).ok_or(Damaged("the shape of a tensor is impossible"))?;
    let fits = |len: usize| if is_string { len >= least } else { len == least };
    let mismatch = Damaged("the size of a tensor does not match its shape");
    match frame.u8()? {
        INLINE => {
            let bytes = frame.bytes()?;
            if !fits(bytes.len()) {
                return Err(mismatch.into());
            }
            if is_string {
                let (lengths, block) = bytes.split_at(least);
                return Ok(strings(shape, lengths, bytes::Bytes::copy_from_slice(block))?);
            }
            let mut owned = AlignedBytes::new(ALIGNMENT);
            owned.extend_from_slice(bytes);
            Ok(Tensor::from_numbers(dtype, shape, Buffer::Owned(owned)))
        }
        SHARED => {
            let number = |value: u64| usize::try_from(value).map_err(|_| Damaged("an offset is impossible"));
            let (offset, len) = (number(frame.u64()?)?, number(frame.u64()?)?);
            if !fits(len) {
                return Err(mismatch.into());
            }
            let outside = || Damaged("a tensor is not in the shared memory");
            let region = region.ok_or_else(outside)?;
            if is_string {
                // Lengths are copied before they are used, because the other side could change them meanwhile.
                let lengths = region.copy(offset, least)?.ok_or_else(outside)?;
                let start = offset.checked_add(least).ok_or_else(outside)?;
                let block = region.copy(start, len - least)?.ok_or_else(outside)?;
                return Ok(strings(shape, &lengths, block.into())?);
            }
            let bytes = region.lend(offset, len)?.ok_or_else(outside)?;
            Ok(Tensor::from_numbers(dtype, shape, Buffer::Shared(bytes)))
        }
        _ => Err(Damaged("the place of a tensor is unknown").into()),
    }
}

fn strings(shape: Vec<i64>, lengths: &[u8], block: bytes::Bytes) -> Result<Tensor, Damaged> {
    let mismatch = Damaged("strings do not fill their tensor");
    let mut ranges = Vec::with_capacity(lengths.len() / NUMBER_BYTES);
    let mut start = 0_usize;
    for length in lengths.as_chunks::<NUMBER_BYTES>().0 {
        let length = usize::try_from(u64::from_le_bytes(*length)).map_err(|_| mismatch)?;
        let end = start.checked_add(length).filter(|&end| end <= block.len()).ok_or(mismatch)?;
        ranges.push((start, end));
        start = end;
    }
    if start != block.len() {
        return Err(mismatch);
    }
    Ok(Tensor::from_strings(shape, Strings::new(block, ranges)))
}

const OK: u8 = 0;
const FAILED: u8 = 1;

/// Appends a reply, without its tensors.
pub(crate) fn put_reply(frame: &mut Vec<u8>, ended: Ended, error: Option<&ServingError>) {
    frame.put_u8(if error.is_some() { FAILED } else { OK });
    frame.put_u8(u8::from(ended.input) | u8::from(ended.output) << 1);
    if let Some(error) = error {
        frame.put_i32(error.code as i32);
        frame.put_u32(error.retry_after_seconds.map_or(0, Into::into));
        frame.put_bytes(&error.message);
    }
}

/// The place of the flags of [`put_reply`] in a frame that begins with it. They are known last.
pub(crate) fn set_ended(frame: &mut [u8], start: usize, ended: Ended) {
    frame[start + 1] = u8::from(ended.input) | u8::from(ended.output) << 1;
}

/// Decodes what [`put_reply`] has appended; tensors follow if there is no error.
pub(crate) fn take_reply(frame: &mut Take<'_>) -> Result<(Ended, Result<()>), Damaged> {
    let status = frame.u8()?;
    let flags = frame.u8()?;
    let ended = Ended { input: flags & 1 != 0, output: flags & 2 != 0 };
    match status {
        OK => Ok((ended, Ok(()))),
        FAILED => {
            let code = match Code::from_number(frame.i32()?) {
                Code::Ok => return Err(Damaged("an error has no code")),
                code => code,
            };
            let retry_after_seconds = std::num::NonZeroU32::new(frame.u32()?);
            let message = frame.bytes()?.to_vec();
            frame.end()?;
            Ok((ended, Err(ServingError { code, message, retry_after_seconds })))
        }
        _ => Err(Damaged("the status is unknown")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::region::Access;

    fn regions() -> (Region, Region) {
        let writer = Region::new(Access::Write).expect("memory");
        let file = writer.file().try_clone_to_owned().expect("a descriptor");
        (writer, Region::from_file(file, Access::Read))
    }

    fn numbers(dtype: DType, shape: &[i64]) -> Tensor {
        let len = element_count(shape).unwrap() * dtype.size().unwrap();
        let mut bytes = AlignedBytes::new(ALIGNMENT);
        (0..len).for_each(|number| bytes.push(number as u8));
        Tensor::from_numbers(dtype, shape.to_vec(), Buffer::Owned(bytes))
    }

    fn texts(shape: &[i64], len: usize) -> Tensor {
        let strings = (0..element_count(shape).unwrap()).map(|number| vec![number as u8; len * (number % 3)]);
        Tensor::from_strings(shape.to_vec(), strings.collect())
    }

    fn same(one: &Tensor, other: &Tensor) -> bool {
        let elements = match (one.elements(), other.elements()) {
            (Elements::Numbers(one), Elements::Numbers(other)) => one.as_ref() == other.as_ref(),
            (Elements::Strings(one), Elements::Strings(other)) => one.iter().eq(other.iter()),
            _ => false,
        };
        elements && (one.dtype(), one.shape()) == (other.dtype(), other.shape())
    }

    /// Small and large tensors of all dtypes, scalars, empty ones and strings.
    fn tensors() -> Vec<Tensor> {
        let dtypes = (1..=33).map(DType).filter(|dtype| dtype.size().is_some());
        let of_dtype = |dtype| [&[][..], &[3], &[0, 7], &[5, 1000]].map(|shape| numbers(dtype, shape));
        let strings = [&[][..], &[4], &[0], &[2, 3]].map(|shape| texts(shape, 10));
        dtypes.flat_map(of_dtype).chain(strings).chain([texts(&[100], 5000), texts(&[5000], 0)]).collect()
    }

    #[test]
    fn tensors_pass_unchanged_and_large_ones_are_lent() {
        let (mut writer, mut reader) = regions();
        let (sent, mut frame) = (tensors(), Vec::new());
        put_tensors(&mut frame, &sent, &mut writer).unwrap();
        let mut rest = Take(&frame);
        let got = take_tensors(&mut rest, Some(&mut reader)).unwrap();
        rest.end().unwrap();
        assert_eq!(got.len(), sent.len());
        for (got, sent) in got.iter().zip(&sent) {
            assert!(same(got, sent), "{} {:?}", sent.dtype(), sent.shape());
            if let (Elements::Numbers(buffer), true) = (got.elements(), got.size_in_bytes() > INLINE_BYTES) {
                assert_eq!(buffer.as_ref().as_ptr().align_offset(ALIGNMENT), 0, "runtimes use it in place");
            }
        }
        assert!(reader.is_lent());
        drop(got);
        assert!(!reader.is_lent());
    }

    #[test]
    fn signatures_pass_with_all_that_executors_use() {
        let spec = |alias: &str, shape| TensorSpec {
            alias: alias.to_owned(),
            tensor_name: format!("s/{alias}"),
            dtype: DType::FLOAT,
            shape,
        };
        let inputs = vec![spec("é", Some(vec![-1, 3])), spec("x", None), spec("", Some(vec![]))];
        let sent = Signature { inputs, outputs: vec![spec("y", Some(vec![i64::MAX]))], ..Signature::default() };
        let mut frame = Vec::new();
        put_signature(&mut frame, &sent);
        let got = take_signature(Take(&frame).bytes().unwrap()).unwrap();
        assert_eq!((got.inputs, got.outputs), (sent.inputs, sent.outputs));
    }

    #[test]
    fn errors_pass_with_code_text_and_time() {
        let sent = ServingError::new(Code::ResourceExhausted, *b"not \xff UTF-8").retry_after(Duration::from_secs(3));
        let (ended, mut frame) = (Ended { input: true, output: false }, Vec::new());
        put_reply(&mut frame, ended, Some(&sent));
        let (got_ended, got) = take_reply(&mut Take(&frame)).unwrap();
        assert_eq!((got_ended, got.unwrap_err()), (ended, sent));
    }

    /// Changes a frame in every byte, and cuts it at every length: it is an error, or something else that is valid.
    fn damage(frame: &[u8], take: &mut dyn FnMut(&[u8])) {
        for at in 0..frame.len() {
            take(&frame[..at]);
            for value in [0, 1, 0x7f, 0x80, 0xff] {
                let mut changed = frame.to_vec();
                changed[at] = value;
                take(&changed);
            }
        }
    }

    #[test]
    fn damaged_frames_are_refused_or_mean_something_else() {
        let (mut writer, mut reader) = regions();
        let mut frame = Vec::new();
        let sent =
            [numbers(DType::FLOAT, &[2, 3]), texts(&[4], 3), numbers(DType::INT8, &[20_000]), texts(&[100], 999)];
        put_tensors(&mut frame, &sent, &mut writer).unwrap();
        damage(&frame, &mut |frame| {
            for tensor in take_tensors(&mut Take(frame), Some(&mut reader)).unwrap_or_default() {
                match tensor.elements() {
                    Elements::Numbers(buffer) => assert_eq!(buffer.as_ref().len(), tensor.size_in_bytes()),
                    Elements::Strings(strings) => {
                        assert_eq!(strings.len(), tensor.len());
                    }
                }
            }
            let _ = take_tensors(&mut Take(frame), None);
        });
        let mut frame = Vec::new();
        put_reply(&mut frame, Ended::default(), Some(&ServingError::internal("wrong")));
        damage(&frame, &mut |frame| drop(take_reply(&mut Take(frame))));
        let mut frame = Vec::new();
        let head = RequestHead {
            operation: Operation::Check,
            timeout: Some(Duration::from_micros(7)),
            has_new_input: true,
            has_new_output: false,
            output: 1,
            kept_bytes: 9,
        };
        head.put(&mut frame);
        assert_eq!(RequestHead::take(&mut Take(&frame)), Ok(head));
        damage(&frame, &mut |frame| {
            let _ = RequestHead::take(&mut Take(frame));
        });
    }

    #[test]
    fn strings_that_the_other_side_has_changed_are_refused() {
        let (mut writer, mut reader) = regions();
        let mut frame = Vec::new();
        put_tensors(&mut frame, &[texts(&[3000], 10)], &mut writer).unwrap();
        writer.write(0, &u64::MAX.to_le_bytes());
        let error = take_tensors(&mut Take(&frame), Some(&mut reader)).unwrap_err();
        assert!(matches!(error, TakeError::Damaged(Damaged("strings do not fill their tensor"))), "{error:?}");
    }
}
